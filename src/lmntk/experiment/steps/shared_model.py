"""Cells that are computed together: from their texts to kernels, to solutions, to results on disk."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from lmntk.engine.batches import Capturing
from lmntk.engine.budget import DOUBLE, MARGIN, Trial
from lmntk.engine.estimate import Estimate
from lmntk.engine.kernel_work import KernelWork, groups_of
from lmntk.engine.pieces import Begun, Piece
from lmntk.engine.plan import plan_kernels
from lmntk.engine.progress import Listener
from lmntk.engine.settings import NOT_KEPT
from lmntk.engine.stream import finish, finish_all, stream_kernels, whole
from lmntk.engine.work import Owner
from lmntk.errors import UserError
from lmntk.experiment.preparation import PreparedTask, label_of
from lmntk.experiment.session import SIDES, Session
from lmntk.experiment.steps.results import keep_results
from lmntk.finetuning.logits import logits_of
from lmntk.kernels.contraction import FORMULAS, kernel_names
from lmntk.kernels.kernel import Kernel, load_tensors, save_tensors
from lmntk.models.build import head_model, own_head_model, prompt_model
from lmntk.models.logit_model import LogitModel
from lmntk.prediction.directions import (
    Cut,
    count_of,
    cut_directions,
    directions_of,
    is_linear,
    most_directions,
)
from lmntk.prediction.estimate import PASS, estimate_predictions
from lmntk.prediction.files import save_predictor
from lmntk.prediction.predictor import DecisionRule, Predictor, fit_sharpness, limits_of
from lmntk.prompts.encoding import EncodedText, PromptEncoder
from lmntk.prompts.ensemble import EnsembleEncoder
from lmntk.runs.store import Split
from lmntk.solvers.linear_form import LinearForm
from lmntk.solvers.outcome import BASELINES, Outcome, baseline, solve_split
from lmntk.system.device_memory import device_budget
from lmntk.system.hashing import content_key, versions
from lmntk.system.memory import return_freed
from lmntk.tasks.example import Example

Kernels = dict[tuple[str, str], Kernel]  # by side and formula
Logits = dict[str, np.ndarray]  # by side


@dataclass
class SharedModel:
    """Cells of one task and mode that share a model, and so their test texts' gradients; all that is known of them so far."""

    session: Session
    task: PreparedTask
    splits: list[Split]
    texts: dict[str, dict[str, list[EncodedText]]] = field(default_factory=dict)
    labels: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    _model: LogitModel | None = None
    _lengths: dict[tuple[Example, ...], list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        encoder = self.session.encoder(self.task, self.mode)
        for split in self.splits:
            examples = self.task.examples(split)
            self.texts[split.name] = {
                side: [encoder.encode(e) for e in part] for side, part in examples.items()
            }
            self.labels[split.name] = {
                side: [label_of(e, self.task.name) for e in part] for side, part in examples.items()
            }

    @property
    def mode(self) -> str:
        """Prompt or head."""
        return self.splits[0].mode

    @property
    def is_shared(self) -> bool:
        """True where all splits of the task and mode share a model: a prompt's and a classifier's, not a probe of a split's own."""
        return self.mode == "prompt" or self.session.pretrained.kind == "classifier"

    @property
    def every_split(self) -> list[Split]:
        """All splits that a run from the start computes together, those that are finished too."""
        return (
            [split for split in self.task.splits if split.mode == self.mode]
            if self.is_shared
            else self.splits
        )

    def test_lengths(self, split: Split) -> Sequence[int]:
        """Returns the test texts' lengths in tokens, of a split that is finished too; most splits have the same test texts."""
        if not self._lengths:
            for one in self.splits:
                self._lengths[tuple(self.task.examples(one)["test"])] = [
                    text.length for text in self.texts[one.name]["test"]
                ]
        examples = tuple(self.task.examples(split)["test"])
        if examples not in self._lengths:
            encoder = self.session.encoder(self.task, self.mode)
            self._lengths[examples] = [encoder.encode(example).length for example in examples]
        return self._lengths[examples]

    @property
    def model(self) -> LogitModel:
        """The model whose tangents are taken: the prompt's, the checkpoint's own head, or one probed on the split's train texts."""
        if self._model is None:
            session, task = self.session, self.task
            encoder = session.encoder(task, self.mode)
            if isinstance(encoder, PromptEncoder | EnsembleEncoder):
                self._model = prompt_model(session.pretrained, encoder, session.folds(task))
            elif session.pretrained.kind == "classifier":
                self._model = own_head_model(session.pretrained, task.labels, session.folds(task))
            else:
                (split,) = self.splits
                train, truth = self.texts[split.name]["train"], self.labels[split.name]["train"]
                features, size = session.experiment.features, session.settings.batch_size
                self._model = head_model(
                    session.pretrained, train, truth, task.classes, session.folds(task), features, size
                )
        return self._model

    @cached_property
    def capturing(self) -> Capturing:
        """What captures the training texts once more, for the directions of solutions."""
        session = self.session
        train = [text for split in self.splits for text in self.texts[split.name]["train"]]
        return Capturing(
            self.model,
            session.chosen.select(self.model),
            session.pretrained.pad_id,
            train,
            session.settings.batch_size,
            card=session.settings.card,
        )

    @cached_property
    def trial(self) -> Trial:
        """What a few of the longest training texts take."""
        return self.capturing.try_out()

    def trial_beside(self, coming: int) -> Trial:
        """Returns the trial with what is held now, and so many bytes more."""
        now = self.capturing.held_now(self.trial)
        return replace(now, resident=now.resident + coming)

    def kernel_bytes(self, sides: Sequence[str]) -> int:
        """Returns the bytes of all splits' kernels, each group of parameters its own, which are held until the splits are solved."""
        formulas, settings = self.session.experiment.formulas, self.session.settings
        results = len(kernel_names(formulas)) + len(formulas) * groups_of(
            settings.grouping, self.capturing.trainable, alone=0
        )
        sizes = ({side: len(part) for side, part in of_split.items()} for of_split in self.texts.values())
        return (
            DOUBLE
            * results
            * self.model.outputs**2
            * sum(size["train"] * size[side] for size in sizes for side in sides)
        )

    def check_directions(self, sides: Sequence[str]) -> None:
        """Refuses directions of solutions that would not fit beside the kernels, before those are computed.

        Raises:
            UserError: it cannot be done in so little; says the least that works.
        """
        methods = self.session.methods
        signs = any(
            formula == "asigngd" for formula, _ in methods
        )  # they take more, of which sgd has no need
        most = max([1, *(most_directions(*method, self.model.outputs) for method in methods)])
        self.cut(
            most, 1, signs, self.kernel_bytes(sides) + MARGIN
        )  # what the margin is for is held by then, and counted once more

    def cut(self, directions: int, batch_size: int, signs: bool, coming: int = 0) -> Cut:
        """Returns how the directions of a solution are summed beside what is held now and ``coming`` bytes; see ``cut_directions``."""
        settings, trial = self.session.settings, self.trial_beside(coming)
        card = device_budget(self.capturing.device, self.capturing.card, settings.device_memory)
        return cut_directions(
            trial, self.capturing.trainable, directions, batch_size, settings.memory, signs, card
        )


def compute_unit(
    session: Session, task: PreparedTask, splits: Sequence[Split]
) -> Iterable[tuple[Split, dict[str, Any]]]:
    """Yields each split with its results; kernels that are there with the right key are not computed."""
    unit = SharedModel(session, task, list(splits))
    if not session.methods:
        yield from ((split, _baseline_alone(unit, split)) for split in splits)
        return
    sides = SIDES[:2] if _one_pass_is_cheaper(unit) else SIDES
    save = session.experiment.save_models
    if (
        save or "test" not in sides
    ):  # the directions of a solution have to fit, which is better said before the kernels are computed
        unit.check_directions(sides)
    found = _kernels(unit, sides)
    for split in splits:
        kernels, logits = found[split.name]
        labels = unit.labels[split.name]
        outcomes = [solve_split(kernels, logits, labels, task.metric, *method) for method in session.methods]
        saved = []
        for place, outcome in enumerate(
            outcomes
        ):  # one after the other: a direction is as large as the model
            if outcome.linear is not None and (save or "test" not in sides):
                predictor, directions = _predictor(unit, split, outcome)
                if "test" not in sides:
                    decisions, before = predictor.evaluate(unit.texts[split.name]["test"])
                    logits = logits | {"test": before}
                    outcomes[place] = outcome.with_test(decisions, labels["test"])
                if save:
                    saved.append(_save(unit, split, outcomes[place], predictor, directions))
                del predictor, directions
            elif save:
                session.progress.note(
                    f"{outcome.method}: its decisions are not linear in a text's gradient, so no predictor is saved"
                )
        name = "own head" if session.pretrained.kind == "classifier" else BASELINES[split.mode]
        yield (
            split,
            keep_results(
                session, task, split, labels, [baseline(name, task.metric, logits, labels), *outcomes], saved
            ),
        )


def kernels_of(
    session: Session, task: PreparedTask, splits: Sequence[Split]
) -> dict[str, tuple[Kernels, Logits]]:
    """Returns the kernels of splits that share a model against train, dev and test, and their logits, by the splits' names.

    Kernels that are kept are read, the others computed, and kept if the experiment keeps any; if not, ``forget_unit`` clears up.
    """
    return _kernels(SharedModel(session, task, list(splits)), SIDES)


def _baseline_alone(unit: SharedModel, split: Split) -> dict[str, Any]:
    """Returns a split's results without kernels, where nothing but fine-tuning is asked for."""
    session, texts = unit.session, unit.texts[split.name]
    logits = {
        side: logits_of(
            unit.model, texts[side], session.pretrained.pad_id, session.settings.batch_size
        ).numpy()
        for side in SIDES[1:]
    }
    name = "own head" if session.pretrained.kind == "classifier" else BASELINES[split.mode]
    labels = unit.labels[split.name]
    return keep_results(
        session, unit.task, split, labels, [baseline(name, unit.task.metric, logits, labels)], []
    )


def _one_pass_is_cheaper(unit: SharedModel) -> bool:
    """True when the test texts are better classified by linearized models than by kernels, and no kernel was asked for.

    In forward passes a test text: a kernel takes one, a backward pass a logit, the gradients' making, and the products with every
    training text; a linearized model three for each solution.
    """
    session, c = unit.session, unit.model.outputs
    # of all splits, finished ones too: a run that goes on decides as it began
    splits = unit.every_split
    if session.experiment.keep_kernels or not all(is_linear(*method, c) for method in session.methods):
        return False
    lengths = [length for split in splits for length in unit.test_lengths(split)]
    tokens = sum(lengths) / len(lengths)
    rows = sum(len(split.train) for split in splits)
    by_kernel = 1 + 2 * c + rows * c * c * len(kernel_names(session.experiment.formulas)) / tokens
    return PASS * len(splits) * len(session.methods) < by_kernel


def _kernels(unit: SharedModel, sides: Sequence[str]) -> dict[str, tuple[Kernels, Logits]]:
    """Returns each split's kernels and pre-trained logits, of earlier runs where they are kept."""
    found = {split.name: _kept(unit, split, unit.session.experiment.formulas, sides) for split in unit.splits}
    begun = _begun(unit.session, unit.task, unit.every_split, sides)
    pieces = _unfinished_pieces(unit, begun.read(), sides)
    new = _new_pieces(unit, found, pieces, sides)
    if new:
        begun.write([*pieces, *new])
    if unit.session.settings.keep_factors and not pieces and not new:
        unit.session.progress.note(NOT_KEPT)
    for piece in (*pieces, *new):
        for name, (kernels, logits) in _stream(_unit_of(unit, piece), piece, sides).items():
            if name in found:
                found[name] = found[name][0] | kernels, logits
    if (
        unit.session.experiment.keep_kernels
    ):  # else the tiles are all there is of them until the splits are solved
        _forget(unit.session, begun, (*pieces, *new))
    return {name: (kernels, logits or {}) for name, (kernels, logits) in found.items()}


def _forget(session: Session, begun: Begun, pieces: Sequence[Piece]) -> None:
    """Removes the scratch files of work that is done, and last of all the word of it."""
    for piece in pieces:
        finish(session.settings, piece.work)
    begun.remove()


def _kept(
    unit: SharedModel, split: Split, formulas: Sequence[str], sides: Sequence[str]
) -> tuple[Kernels, Logits | None]:
    """Returns the kernels and logits of a split that are on disk."""
    store, key = unit.session.store, unit.session.key(unit.task, split)
    wanted = [(side, formula) for side in sides for formula in formulas]
    kernels = {pair: kernel for pair in wanted if (kernel := store.kernel(split, *pair, key)) is not None}
    return kernels, _kept_logits(unit.session, split, key)


def _begun(session: Session, task: PreparedTask, splits: Sequence[Split], sides: Sequence[str]) -> Begun:
    """Returns where the pieces of the work on all splits of a unit are written down."""
    keys = {split.name: session.key(task, split) for split in splits}
    key = content_key(cells=keys, formulas=session.experiment.formulas, sides=sides)
    return Begun(session.settings.scratch, key, _owner(session, list(keys)))


def _owner(session: Session, names: Iterable[str]) -> Owner:
    """Returns whose the work on these splits' kernels is; kernels for a diagnosis do not end with those that a run solves."""
    return Owner(
        session.store.folder, tuple(name if session.methods else f"{name} unsolved" for name in names)
    )


def forget_unit(session: Session, task: PreparedTask, splits: Sequence[Split]) -> None:
    """Removes what is left in the scratch folder of a unit whose splits are all finished: what was begun under other settings too."""
    if session.settings.scratch is None:
        return
    for sides in (SIDES, SIDES[:2]):
        begun = _begun(session, task, splits, sides)
        _forget(session, begun, begun.read())
    finish_all(replace(session.settings, owner=_owner(session, [split.name for split in splits])))


def _unit_of(unit: SharedModel, piece: Piece) -> SharedModel:
    """Returns the unit, or where the piece has finished splits too one with those."""
    if all(name in unit.texts for name in piece.splits):
        return unit
    return SharedModel(
        unit.session, unit.task, [split for split in unit.every_split if split.name in piece.splits]
    )


def _unfinished_pieces(unit: SharedModel, begun: Sequence[Piece], sides: Sequence[str]) -> list[Piece]:
    """Returns what an earlier run began and did not save to the end; removes the scratch files of the rest."""
    settings, pieces = unit.session.settings, []
    for piece in begun:
        part = _unit_of(unit, piece)
        kept = [
            _kept(part, split, piece.formulas, sides) for split in part.splits if split.name in piece.splits
        ]
        is_saved = all(
            len(kernels) == len(sides) * len(piece.formulas) and logits is not None
            for kernels, logits in kept
        )
        if is_saved or not any(name in unit.texts for name in piece.splits):
            finish(settings, piece.work)
        elif piece.work != _work_key(part, piece.splits, piece.formulas, sides):
            finish(replace(settings, keep_factors=False), piece.work)
            unit.session.progress.note(
                f"{unit.task.title} {unit.mode}: what another batch size left unfinished is dropped"
            )
        else:
            pieces.append(piece)
    return pieces


def _new_pieces(
    unit: SharedModel,
    found: Mapping[str, tuple[Kernels, Logits | None]],
    begun: Sequence[Piece],
    sides: Sequence[str],
) -> list[Piece]:
    """Returns what is missing beside what is begun, splits that lack the same formulas together."""
    together: dict[tuple[str, ...], list[str]] = {}
    for name, (kernels, logits) in found.items():
        coming = {formula for piece in begun if name in piece.splits for formula in piece.formulas}
        lacking = {
            f for f in unit.session.experiment.formulas if any((side, f) not in kernels for side in sides)
        } - coming
        if logits is None and not coming and not lacking:
            lacking = {"sgd"}
        if lacking:
            together.setdefault(tuple(f for f in FORMULAS if f in lacking), []).append(name)
    return [
        Piece(tuple(names), formulas, _work_key(unit, names, formulas, sides))
        for formulas, names in together.items()
    ]


def _kept_logits(session: Session, split: Split, key: str) -> Logits | None:
    try:
        tensors, metadata = load_tensors(session.store.folder / "kernels" / split.name / "logits.safetensors")
    except UserError:
        return None
    return tensors if metadata.get("key") == key else None


def plan_unit(session: Session, task: PreparedTask, splits: Sequence[Split]) -> Estimate:
    """Returns what ``compute_unit`` would take, were all of its kernels missing."""
    unit, settings, formulas = (
        SharedModel(session, task, list(splits)),
        session.settings,
        session.experiment.formulas,
    )
    in_one_pass = _one_pass_is_cheaper(unit)
    sides = SIDES[:2] if in_one_pass else SIDES
    texts, pairs, _ = _work(unit, splits, sides)
    trainable = session.chosen.select(unit.model)
    found = plan_kernels(
        KernelWork(unit.model, texts, pairs, formulas, trainable, session.pretrained.pad_id), settings
    )
    solved = [(method[0], most_directions(*method, unit.model.outputs)) for method in session.methods]
    solved = [(formula, count) for formula, count in solved if count]
    if session.methods and (in_one_pass or session.experiment.save_models):
        unit.check_directions(sides)
        trial = unit.trial_beside(unit.kernel_bytes(sides))
        for split in splits if solved else ():
            train, tests = (unit.texts[split.name][side] for side in ("train", "test"))
            found += estimate_predictions(
                unit.capturing, trial, train, tests if in_one_pass else [], solved, settings
            )
    return found


def _work(
    unit: SharedModel, splits: Sequence[Split], sides: Sequence[str]
) -> tuple[dict[str, Sequence[EncodedText]], list[tuple[str, str]], dict[tuple[str, str], str]]:
    """Returns the groups of texts, the pairs of groups whose kernels are wanted, and each split's and side's group."""
    texts = unit.texts
    groups: dict[str, Sequence[EncodedText]] = {"test": texts[splits[0].name]["test"]}
    same_test = all(
        split.test == splits[0].test and texts[split.name]["test"] == groups["test"] for split in splits
    )
    pairs = []
    where: dict[tuple[str, str], str] = {}
    for split in splits:
        for side in sides:
            group = "test" if side == "test" and same_test else f"{split.name}/{side}"
            groups[group] = texts[split.name][side]
            where[split.name, side] = group
            pairs.append((f"{split.name}/train", group))
    return {name: part for name, part in groups.items() if any(name in pair for pair in pairs)}, pairs, where


def _stream(unit: SharedModel, piece: Piece, sides: Sequence[str]) -> dict[str, tuple[Kernels, Logits]]:
    """Computes and keeps the kernels of splits that share a model and their test texts; returns them with the logits."""
    session, formulas = unit.session, piece.formulas
    splits = [split for split in unit.splits if split.name in piece.splits]
    groups, pairs, where = _work(unit, splits, sides)
    c = unit.model.outputs
    tokens = float(np.mean([text.length for part in groups.values() for text in part]))
    # operations a parameter: six a token and logit to capture, two a pair of logits and kernel to contract
    capture_cost = 6 * tokens * c
    pair_cost = 2.0 * c * c * len(kernel_names(formulas))
    total = capture_cost * sum(map(len, groups.values())) + pair_cost * sum(
        len(groups[a]) * len(groups[b]) for a, b in pairs
    )
    ks = ",".join(str(k) for k in dict.fromkeys(split.k for split in splits))
    session.progress.work(
        f"{unit.task.title} k={ks} {unit.mode}" + (f" seed {splits[0].seed}" if len(splits) == 1 else ""),
        total,
    )
    streamed = stream_kernels(
        KernelWork(
            unit.model, groups, pairs, formulas, session.chosen.select(unit.model), session.pretrained.pad_id
        ),
        replace(session.settings, owner=_owner(session, piece.splits)),
        Listener(
            report=lambda captured, contracted: session.progress.advance(
                capture_cost * captured + pair_cost * contracted
            ),
            announce=lambda estimate: session.progress.note(
                f"{unit.task.title} {unit.mode}: {estimate.describe()}"
            ),
            note=lambda line: session.progress.note(f"{unit.task.title} {unit.mode}: {line}"),
        ),
        key=piece.work,
    )
    session.progress.note(f"{unit.task.title} {unit.mode}: {streamed.coverage.describe()}")
    if streamed.loss is not None:
        session.progress.note(f"{unit.task.title} {unit.mode}: {streamed.loss.describe()}")
    results: dict[str, tuple[Kernels, Logits]] = {}
    for split in splits:
        key = session.key(unit.task, split)
        provenance = {
            "key": key,
            "model": session.pretrained.fingerprint,
            "model_name": session.pretrained.name,
            "task": unit.task.name,
            "cell": split.name,
            "templates": unit.task.templates if split.mode == "prompt" else None,
            "label_words": unit.task.label_words if split.mode == "prompt" else None,
            "parameters": session.chosen.as_dict(),
            "dtype": session.experiment.dtype,
            "precision": session.settings.precision,
            **({} if streamed.loss is None else {"precision_loss": streamed.loss.as_dict()}),
            "noise_coordinates_left_out": streamed.noise.get(f"{split.name}/train", 0),
            "versions": versions(),
        }
        logits = {side: streamed.logits[where[split.name, side]].numpy() for side in sides}
        kernels: Kernels = {}
        for side in sides:
            values = streamed.kernels[f"{split.name}/train", where[split.name, side]]
            for formula in formulas:
                flipped = values.get(f"{formula}_flipped")
                parts = (
                    {group: part.numpy() for group, part in values[formula].items()}
                    if session.settings.grouping
                    else {}
                )
                kernels[side, formula] = Kernel(
                    formula,
                    whole(values[formula]).numpy(),
                    None if flipped is None else whole(flipped).numpy(),
                    parts,
                    provenance,
                )
        if session.experiment.keep_kernels:
            for (side, formula), kernel in kernels.items():
                kernel.save(session.store.kernel_path(split, side, formula))
            save_tensors(
                session.store.folder / "kernels" / split.name / "logits.safetensors", logits, {"key": key}
            )
        results[split.name] = kernels, logits
    return results


def _work_key(unit: SharedModel, names: Sequence[str], formulas: Sequence[str], sides: Sequence[str]) -> str:
    """Returns the name under which the work on these splits' kernels is found again."""
    splits = [split for split in unit.splits if split.name in names]
    keys = {split.name: unit.session.key(unit.task, split) for split in splits}
    pairs = _work(unit, splits, sides)[1]
    return content_key(cells=keys, formulas=formulas, pairs=pairs, settings=unit.session.settings.cut())


def _predictor(unit: SharedModel, split: Split, outcome: Outcome) -> tuple[Predictor, list[Any]]:
    """Returns the linearized model of a solution, and its directions."""
    session, form = unit.session, outcome.linear
    assert form is not None
    assert outcome.dev_decisions is not None
    cut = unit.cut(count_of(form), session.settings.batch_size, outcome.formula == "asigngd")
    unit.capturing.batch_size = cut.batch_size
    if not cut.has_room(session.settings.memory):
        return_freed()
    train, drop_noise = unit.texts[split.name]["train"], session.settings.drop_noise
    directions = directions_of(
        unit.capturing, train, form, outcome.formula, drop_noise=drop_noise, at_once=cut.at_once
    )
    sharpness = fit_sharpness(outcome.dev_decisions, np.asarray(unit.labels[split.name]["dev"]))
    rule = DecisionRule(form.intercept, form.f0_scale, sharpness)
    limits = limits_of(session.settings)
    predictor = Predictor(unit.model, directions, session.pretrained.pad_id, rule, limits)
    return predictor, directions


def _save(
    unit: SharedModel, split: Split, outcome: Outcome, predictor: Predictor, directions: list[Any]
) -> str:
    """Writes a predictor under ``models/`` and returns its folder's name."""
    session, task, e = unit.session, unit.task, unit.session.experiment
    form: LinearForm | None = outcome.linear
    assert form is not None
    name = f"{split.name}-{outcome.formula}-{outcome.solver}"
    save_predictor(
        session.store.folder / "models" / name,
        directions,
        unit.model,
        {
            "cell": split.name,
            "dev": outcome.dev,
            "metric": task.metric,
            "mode": split.mode,
            "labels": task.labels,
            "model": {
                "name": e.model, "fingerprint": session.pretrained.fingerprint, "kind": session.pretrained.kind, "base": e.base,
                "revision": e.revision, "dtype": e.dtype, "attention": e.attention, "untied": e.untie_head,
                "difference": session.folds(task), "features": e.features,
            },
            "prompt": {
                "templates": task.templates, "label_words": task.label_words, "reduce": e.label_words_reduce,
                "max_length": task.max_length, "text_a_limit": task.text_a_limit,
            },
            "parameters": session.chosen.as_dict(),
            "solution": {
                "method": outcome.method, "formula": outcome.formula, "solver": outcome.solver, "setting": outcome.setting,
                "intercept": form.intercept, "f0_scale": "inf" if math.isinf(form.f0_scale) else form.f0_scale,
                "sharpness": predictor.rule.sharpness, "each_class": form.each_class,
            },
            "versions": versions(),
        },
    )  # fmt: skip
    return name
