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
from lmntk.engine.pieces import Begun, Piece
from lmntk.engine.stream import NOT_KEPT, finish, finish_all, groups_of, plan_kernels, stream_kernels, whole
from lmntk.engine.work import Owner
from lmntk.errors import UserError
from lmntk.experiment.preparation import PreparedTask, label_of
from lmntk.experiment.session import SIDES, Context
from lmntk.experiment.steps.results import keep_results
from lmntk.finetuning.logits import logits_of
from lmntk.kernels.contraction import FORMULAS, kernel_names
from lmntk.kernels.kernel import Kernel, load_tensors, save_tensors
from lmntk.models.build import head_model, own_head_model, prompt_model
from lmntk.models.logit_model import LogitModel
from lmntk.prediction.directions import Cut, count_of, cut_directions, directions_of, is_linear, most_directions
from lmntk.prediction.estimate import PASS, estimate_predictions
from lmntk.prediction.files import save_predictor
from lmntk.prediction.predictor import Predictor, fit_sharpness
from lmntk.prompts.encoding import EncodedText, PromptEncoder
from lmntk.prompts.ensemble import EnsembleEncoder
from lmntk.runs.store import Cell
from lmntk.solvers.linear_form import LinearForm
from lmntk.solvers.outcome import BASELINES, Outcome, baseline, solve_cell
from lmntk.system.device_memory import device_budget
from lmntk.system.hashing import content_key, versions
from lmntk.system.memory import return_freed
from lmntk.tasks.example import Example

Kernels = dict[tuple[str, str], Kernel]  # by side and formula
Logits = dict[str, np.ndarray]  # by side


@dataclass
class Unit:
    """Cells of one task and mode that share a model, and so their test texts' gradients; all that is known of them so far."""

    context: Context
    task: PreparedTask
    cells: list[Cell]
    texts: dict[str, dict[str, list[EncodedText]]] = field(default_factory=dict)
    labels: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    _model: LogitModel | None = None
    _lengths: dict[tuple[Example, ...], list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        encoder = self.context.encoder(self.task, self.mode)
        for cell in self.cells:
            examples = self.task.examples(cell)
            self.texts[cell.name] = {side: [encoder.encode(e) for e in part] for side, part in examples.items()}
            self.labels[cell.name] = {side: [label_of(e, self.task.name) for e in part] for side, part in examples.items()}

    @property
    def mode(self) -> str:
        """Prompt or head."""
        return self.cells[0].mode

    @property
    def is_shared(self) -> bool:
        """True where all cells of the task and mode share a model: a prompt's and a classifier's, not a probe of a cell's own."""
        return self.mode == "prompt" or self.context.pretrained.kind == "classifier"

    @property
    def every_cell(self) -> list[Cell]:
        """All cells that a run from the start computes together, those that are finished too."""
        return [cell for cell in self.task.cells if cell.mode == self.mode] if self.is_shared else self.cells

    def test_lengths(self, cell: Cell) -> Sequence[int]:
        """Returns the test texts' lengths in tokens, of a cell that is finished too; most cells have the same test texts."""
        if not self._lengths:
            for one in self.cells:
                self._lengths[tuple(self.task.examples(one)["test"])] = [text.length for text in self.texts[one.name]["test"]]
        examples = tuple(self.task.examples(cell)["test"])
        if examples not in self._lengths:
            encoder = self.context.encoder(self.task, self.mode)
            self._lengths[examples] = [encoder.encode(example).length for example in examples]
        return self._lengths[examples]

    @property
    def model(self) -> LogitModel:
        """The model whose tangents are taken: the prompt's, the checkpoint's own head, or one probed on the cell's train texts."""
        if self._model is None:
            this, task = self.context, self.task
            encoder = this.encoder(task, self.mode)
            if isinstance(encoder, PromptEncoder | EnsembleEncoder):
                self._model = prompt_model(this.pretrained, encoder, this.folds(task))
            elif this.pretrained.kind == "classifier":
                self._model = own_head_model(this.pretrained, task.labels, this.folds(task))
            else:
                (cell,) = self.cells
                train, truth = self.texts[cell.name]["train"], self.labels[cell.name]["train"]
                features, size = this.experiment.features, this.settings.batch_size
                self._model = head_model(this.pretrained, train, truth, task.classes, this.folds(task), features, size)
        return self._model

    @cached_property
    def capturing(self) -> Capturing:
        """What captures the training texts once more, for the directions of solutions."""
        this = self.context
        train = [text for cell in self.cells for text in self.texts[cell.name]["train"]]
        return Capturing(
            self.model, this.chosen.select(self.model), this.pretrained.pad_id, train, this.settings.batch_size, card=this.settings.card
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
        """Returns the bytes of all cells' kernels, each group of parameters its own, which are held until the cells are solved."""
        formulas, settings = self.context.experiment.formulas, self.context.settings
        results = len(kernel_names(formulas)) + len(formulas) * groups_of(settings.grouping, self.capturing.trainable, alone=0)
        sizes = ({side: len(part) for side, part in of_cell.items()} for of_cell in self.texts.values())
        return DOUBLE * results * self.model.outputs**2 * sum(size["train"] * size[side] for size in sizes for side in sides)

    def check_directions(self, sides: Sequence[str]) -> None:
        """Refuses directions of solutions that would not fit beside the kernels, before those are computed.

        Raises:
            UserError: it cannot be done in so little; says the least that works.
        """
        methods = self.context.methods
        signs = any(formula == "asigngd" for formula, _ in methods)  # they take more, of which sgd has no need
        most = max([1, *(most_directions(*method, self.model.outputs) for method in methods)])
        self.cut(most, 1, signs, self.kernel_bytes(sides) + MARGIN)  # what the margin is for is held by then, and counted once more

    def cut(self, directions: int, batch_size: int, signs: bool, coming: int = 0) -> Cut:
        """Returns how the directions of a solution are summed beside what is held now and ``coming`` bytes; see ``cut_directions``."""
        settings, trial = self.context.settings, self.trial_beside(coming)
        card = device_budget(self.capturing.device, self.capturing.card, settings.device_memory)
        return cut_directions(trial, self.capturing.trainable, directions, batch_size, settings.memory, signs, card)


def compute_unit(context: Context, task: PreparedTask, cells: Sequence[Cell]) -> Iterable[tuple[Cell, dict[str, Any]]]:
    """Yields each cell with its results; kernels that are there with the right key are not computed."""
    unit = Unit(context, task, list(cells))
    if not context.methods:
        yield from ((cell, _baseline_alone(unit, cell)) for cell in cells)
        return
    sides = SIDES[:2] if _one_pass_is_cheaper(unit) else SIDES
    save = context.experiment.save_models
    if save or "test" not in sides:  # the directions of a solution have to fit, which is better said before the kernels are computed
        unit.check_directions(sides)
    found = _kernels(unit, sides)
    for cell in cells:
        kernels, logits = found[cell.name]
        labels = unit.labels[cell.name]
        outcomes = [solve_cell(kernels, logits, labels, task.metric, *method) for method in context.methods]
        saved = []
        for place, outcome in enumerate(outcomes):  # one after the other: a direction is as large as the model
            if outcome.linear is not None and (save or "test" not in sides):
                predictor, directions = _predictor(unit, cell, outcome)
                if "test" not in sides:
                    decisions, before = predictor.evaluate(unit.texts[cell.name]["test"])
                    logits = logits | {"test": before}
                    outcomes[place] = outcome.with_test(decisions, labels["test"])
                if save:
                    saved.append(_save(unit, cell, outcomes[place], predictor, directions))
                del predictor, directions
            elif save:
                context.progress.note(f"{outcome.method}: its decisions are not linear in a text's gradient, so no predictor is saved")
        name = "own head" if context.pretrained.kind == "classifier" else BASELINES[cell.mode]
        yield cell, keep_results(context, task, cell, labels, [baseline(name, task.metric, logits, labels), *outcomes], saved)


def kernels_of(context: Context, task: PreparedTask, cells: Sequence[Cell]) -> dict[str, tuple[Kernels, Logits]]:
    """Returns the kernels of cells that share a model against train, dev and test, and their logits, by the cells' names.

    Kernels that are kept are read, the others computed, and kept if the experiment keeps any; if not, ``forget_unit`` clears up.
    """
    return _kernels(Unit(context, task, list(cells)), SIDES)


def _baseline_alone(unit: Unit, cell: Cell) -> dict[str, Any]:
    """Returns a cell's results without kernels, where nothing but fine-tuning is asked for."""
    this, texts = unit.context, unit.texts[cell.name]
    logits = {side: logits_of(unit.model, texts[side], this.pretrained.pad_id, this.settings.batch_size).numpy() for side in SIDES[1:]}
    name = "own head" if this.pretrained.kind == "classifier" else BASELINES[cell.mode]
    labels = unit.labels[cell.name]
    return keep_results(this, unit.task, cell, labels, [baseline(name, unit.task.metric, logits, labels)], [])


def _one_pass_is_cheaper(unit: Unit) -> bool:
    """True when the test texts are better classified by linearized models than by kernels, and no kernel was asked for.

    In forward passes a test text: a kernel takes one, a backward pass a logit, the gradients' making, and the products with every
    training text; a linearized model three for each solution.
    """
    this, c = unit.context, unit.model.outputs
    # of all cells, finished ones too: a run that goes on decides as it began
    cells = unit.every_cell
    if this.experiment.keep_kernels or not all(is_linear(*method, c) for method in this.methods):
        return False
    lengths = [length for cell in cells for length in unit.test_lengths(cell)]
    tokens = sum(lengths) / len(lengths)
    rows = sum(len(cell.train) for cell in cells)
    by_kernel = 1 + 2 * c + rows * c * c * len(kernel_names(this.experiment.formulas)) / tokens
    return PASS * len(cells) * len(this.methods) < by_kernel


def _kernels(unit: Unit, sides: Sequence[str]) -> dict[str, tuple[Kernels, Logits]]:
    """Returns each cell's kernels and pre-trained logits, of earlier runs where they are kept."""
    found = {cell.name: _kept(unit, cell, unit.context.experiment.formulas, sides) for cell in unit.cells}
    begun = _begun(unit.context, unit.task, unit.every_cell, sides)
    pieces = _unfinished_pieces(unit, begun.read(), sides)
    new = _new_pieces(unit, found, pieces, sides)
    if new:
        begun.write([*pieces, *new])
    if unit.context.settings.keep_factors and not pieces and not new:
        unit.context.progress.note(NOT_KEPT)
    for piece in (*pieces, *new):
        for name, (kernels, logits) in _stream(_unit_of(unit, piece), piece, sides).items():
            if name in found:
                found[name] = found[name][0] | kernels, logits
    if unit.context.experiment.keep_kernels:  # else the tiles are all there is of them until the cells are solved
        _forget(unit.context, begun, (*pieces, *new))
    return {name: (kernels, logits or {}) for name, (kernels, logits) in found.items()}


def _forget(context: Context, begun: Begun, pieces: Sequence[Piece]) -> None:
    """Removes the scratch files of work that is done, and last of all the word of it."""
    for piece in pieces:
        finish(context.settings, piece.work)
    begun.remove()


def _kept(unit: Unit, cell: Cell, formulas: Sequence[str], sides: Sequence[str]) -> tuple[Kernels, Logits | None]:
    """Returns the kernels and logits of a cell that are on disk."""
    store, key = unit.context.store, unit.context.key(unit.task, cell)
    wanted = [(side, formula) for side in sides for formula in formulas]
    kernels = {pair: kernel for pair in wanted if (kernel := store.kernel(cell, *pair, key)) is not None}
    return kernels, _kept_logits(unit.context, cell, key)


def _begun(context: Context, task: PreparedTask, cells: Sequence[Cell], sides: Sequence[str]) -> Begun:
    """Returns where the pieces of the work on all cells of a unit are written down."""
    keys = {cell.name: context.key(task, cell) for cell in cells}
    key = content_key(cells=keys, formulas=context.experiment.formulas, sides=sides)
    return Begun(context.settings.scratch, key, _owner(context, list(keys)))


def _owner(context: Context, names: Iterable[str]) -> Owner:
    """Returns whose the work on these cells' kernels is; kernels for a diagnosis do not end with those that a run solves."""
    return Owner(context.store.folder, tuple(name if context.methods else f"{name} unsolved" for name in names))


def forget_unit(context: Context, task: PreparedTask, cells: Sequence[Cell]) -> None:
    """Removes what is left in the scratch folder of a unit whose cells are all finished: what was begun under other settings too."""
    if context.settings.scratch is None:
        return
    for sides in (SIDES, SIDES[:2]):
        begun = _begun(context, task, cells, sides)
        _forget(context, begun, begun.read())
    finish_all(replace(context.settings, owner=_owner(context, [cell.name for cell in cells])))


def _unit_of(unit: Unit, piece: Piece) -> Unit:
    """Returns the unit, or where the piece has finished cells too one with those."""
    if all(name in unit.texts for name in piece.cells):
        return unit
    return Unit(unit.context, unit.task, [cell for cell in unit.every_cell if cell.name in piece.cells])


def _unfinished_pieces(unit: Unit, begun: Sequence[Piece], sides: Sequence[str]) -> list[Piece]:
    """Returns what an earlier run began and did not save to the end; removes the scratch files of the rest."""
    settings, pieces = unit.context.settings, []
    for piece in begun:
        part = _unit_of(unit, piece)
        kept = [_kept(part, cell, piece.formulas, sides) for cell in part.cells if cell.name in piece.cells]
        is_saved = all(len(kernels) == len(sides) * len(piece.formulas) and logits is not None for kernels, logits in kept)
        if is_saved or not any(name in unit.texts for name in piece.cells):
            finish(settings, piece.work)
        elif piece.work != _work_key(part, piece.cells, piece.formulas, sides):
            finish(replace(settings, keep_factors=False), piece.work)
            unit.context.progress.note(f"{unit.task.title} {unit.mode}: what another batch size left unfinished is dropped")
        else:
            pieces.append(piece)
    return pieces


def _new_pieces(
    unit: Unit, found: Mapping[str, tuple[Kernels, Logits | None]], begun: Sequence[Piece], sides: Sequence[str]
) -> list[Piece]:
    """Returns what is missing beside what is begun, cells that lack the same formulas together."""
    together: dict[tuple[str, ...], list[str]] = {}
    for name, (kernels, logits) in found.items():
        coming = {formula for piece in begun if name in piece.cells for formula in piece.formulas}
        lacking = {f for f in unit.context.experiment.formulas if any((side, f) not in kernels for side in sides)} - coming
        if logits is None and not coming and not lacking:
            lacking = {"sgd"}
        if lacking:
            together.setdefault(tuple(f for f in FORMULAS if f in lacking), []).append(name)
    return [Piece(tuple(names), formulas, _work_key(unit, names, formulas, sides)) for formulas, names in together.items()]


def _kept_logits(context: Context, cell: Cell, key: str) -> Logits | None:
    try:
        tensors, metadata = load_tensors(context.store.folder / "kernels" / cell.name / "logits.safetensors")
    except UserError:
        return None
    return tensors if metadata.get("key") == key else None


def plan_unit(context: Context, task: PreparedTask, cells: Sequence[Cell]) -> Estimate:
    """Returns what ``compute_unit`` would take, were all of its kernels missing."""
    unit, settings, formulas = Unit(context, task, list(cells)), context.settings, context.experiment.formulas
    in_one_pass = _one_pass_is_cheaper(unit)
    sides = SIDES[:2] if in_one_pass else SIDES
    texts, pairs, _ = _work(unit, cells, sides)
    trainable = context.chosen.select(unit.model)
    found = plan_kernels(unit.model, texts, pairs, formulas, trainable, context.pretrained.pad_id, settings)
    solved = [(method[0], most_directions(*method, unit.model.outputs)) for method in context.methods]
    solved = [(formula, count) for formula, count in solved if count]
    if context.methods and (in_one_pass or context.experiment.save_models):
        unit.check_directions(sides)
        trial = unit.trial_beside(unit.kernel_bytes(sides))
        for cell in cells if solved else ():
            train, tests = (unit.texts[cell.name][side] for side in ("train", "test"))
            found += estimate_predictions(
                unit.capturing, trial, train, tests if in_one_pass else [], solved, settings.memory, settings.batch_size,
                settings.drop_noise, settings.device_memory,
            )  # fmt: skip
    return found


def _work(
    unit: Unit, cells: Sequence[Cell], sides: Sequence[str]
) -> tuple[dict[str, Sequence[EncodedText]], list[tuple[str, str]], dict[tuple[str, str], str]]:
    """Returns the groups of texts, the pairs of groups whose kernels are wanted, and each cell's and side's group."""
    texts = unit.texts
    groups: dict[str, Sequence[EncodedText]] = {"test": texts[cells[0].name]["test"]}
    same_test = all(cell.test == cells[0].test and texts[cell.name]["test"] == groups["test"] for cell in cells)
    pairs = []
    where: dict[tuple[str, str], str] = {}
    for cell in cells:
        for side in sides:
            group = "test" if side == "test" and same_test else f"{cell.name}/{side}"
            groups[group] = texts[cell.name][side]
            where[cell.name, side] = group
            pairs.append((f"{cell.name}/train", group))
    return {name: part for name, part in groups.items() if any(name in pair for pair in pairs)}, pairs, where


def _stream(unit: Unit, piece: Piece, sides: Sequence[str]) -> dict[str, tuple[Kernels, Logits]]:
    """Computes and keeps the kernels of cells that share a model and their test texts; returns them with the logits."""
    this, formulas = unit.context, piece.formulas
    cells = [cell for cell in unit.cells if cell.name in piece.cells]
    groups, pairs, where = _work(unit, cells, sides)
    c = unit.model.outputs
    tokens = float(np.mean([text.length for part in groups.values() for text in part]))
    # operations a parameter: six a token and logit to capture, two a pair of logits and kernel to contract
    capture_cost = 6 * tokens * c
    pair_cost = 2.0 * c * c * len(kernel_names(formulas))
    total = capture_cost * sum(map(len, groups.values())) + pair_cost * sum(len(groups[a]) * len(groups[b]) for a, b in pairs)
    ks = ",".join(str(k) for k in dict.fromkeys(cell.k for cell in cells))
    this.progress.work(f"{unit.task.title} k={ks} {unit.mode}" + (f" seed {cells[0].seed}" if len(cells) == 1 else ""), total)
    streamed = stream_kernels(
        unit.model,
        groups,
        pairs,
        formulas,
        this.chosen.select(unit.model),
        this.pretrained.pad_id,
        replace(this.settings, owner=_owner(this, piece.cells)),
        lambda captured, contracted: this.progress.advance(capture_cost * captured + pair_cost * contracted),
        piece.work,
        lambda estimate: this.progress.note(f"{unit.task.title} {unit.mode}: {estimate.describe()}"),
        lambda line: this.progress.note(f"{unit.task.title} {unit.mode}: {line}"),
    )
    this.progress.note(f"{unit.task.title} {unit.mode}: {streamed.coverage.describe()}")
    if streamed.loss is not None:
        this.progress.note(f"{unit.task.title} {unit.mode}: {streamed.loss.describe()}")
    results: dict[str, tuple[Kernels, Logits]] = {}
    for cell in cells:
        key = this.key(unit.task, cell)
        provenance = {
            "key": key,
            "model": this.pretrained.fingerprint,
            "model_name": this.pretrained.name,
            "task": unit.task.name,
            "cell": cell.name,
            "templates": unit.task.templates if cell.mode == "prompt" else None,
            "label_words": unit.task.label_words if cell.mode == "prompt" else None,
            "parameters": this.chosen.as_dict(),
            "dtype": this.experiment.dtype,
            "precision": this.settings.precision,
            **({} if streamed.loss is None else {"precision_loss": streamed.loss.as_dict()}),
            "noise_coordinates_left_out": streamed.noise.get(f"{cell.name}/train", 0),
            "versions": versions(),
        }
        logits = {side: streamed.logits[where[cell.name, side]].numpy() for side in sides}
        kernels: Kernels = {}
        for side in sides:
            values = streamed.kernels[f"{cell.name}/train", where[cell.name, side]]
            for formula in formulas:
                flipped = values.get(f"{formula}_flipped")
                parts = {group: part.numpy() for group, part in values[formula].items()} if this.settings.grouping else {}
                kernels[side, formula] = Kernel(
                    formula, whole(values[formula]).numpy(), None if flipped is None else whole(flipped).numpy(), parts, provenance
                )
        if this.experiment.keep_kernels:
            for (side, formula), kernel in kernels.items():
                kernel.save(this.store.kernel_path(cell, side, formula))
            save_tensors(this.store.folder / "kernels" / cell.name / "logits.safetensors", logits, {"key": key})
        results[cell.name] = kernels, logits
    return results


def _work_key(unit: Unit, names: Sequence[str], formulas: Sequence[str], sides: Sequence[str]) -> str:
    """Returns the name under which the work on these cells' kernels is found again."""
    cells = [cell for cell in unit.cells if cell.name in names]
    keys = {cell.name: unit.context.key(unit.task, cell) for cell in cells}
    pairs = _work(unit, cells, sides)[1]
    return content_key(cells=keys, formulas=formulas, pairs=pairs, settings=unit.context.settings.cut())


def _predictor(unit: Unit, cell: Cell, outcome: Outcome) -> tuple[Predictor, list[Any]]:
    """Returns the linearized model of a solution, and its directions."""
    this, form = unit.context, outcome.linear
    assert form is not None
    assert outcome.dev_decisions is not None
    cut = unit.cut(count_of(form), this.settings.batch_size, outcome.formula == "asigngd")
    unit.capturing.batch_size = cut.batch_size
    if not cut.has_room(this.settings.memory):
        return_freed()
    train, drop_noise = unit.texts[cell.name]["train"], this.settings.drop_noise
    directions = directions_of(unit.capturing, train, form, outcome.formula, drop_noise=drop_noise, at_once=cut.at_once)
    predictor = Predictor(
        unit.model,
        directions,
        this.pretrained.pad_id,
        intercept=form.intercept,
        f0_scale=form.f0_scale,
        sharpness=fit_sharpness(outcome.dev_decisions, np.asarray(unit.labels[cell.name]["dev"])),
        batch_size=this.settings.batch_size,
        memory=this.settings.memory,
        device_memory=this.settings.device_memory,
        card=this.settings.card,
    )
    return predictor, directions


def _save(unit: Unit, cell: Cell, outcome: Outcome, predictor: Predictor, directions: list[Any]) -> str:
    """Writes a predictor under ``models/`` and returns its folder's name."""
    this, task, e = unit.context, unit.task, unit.context.experiment
    form: LinearForm | None = outcome.linear
    assert form is not None
    name = f"{cell.name}-{outcome.formula}-{outcome.solver}"
    save_predictor(
        this.store.folder / "models" / name,
        directions,
        unit.model,
        {
            "cell": cell.name,
            "dev": outcome.dev,
            "metric": task.metric,
            "mode": cell.mode,
            "labels": task.labels,
            "model": {
                "name": e.model, "fingerprint": this.pretrained.fingerprint, "kind": this.pretrained.kind, "base": e.base,
                "revision": e.revision, "dtype": e.dtype, "attention": e.attention, "untied": e.untie_head,
                "difference": this.folds(task), "features": e.features,
            },
            "prompt": {
                "templates": task.templates, "label_words": task.label_words, "reduce": e.label_words_reduce,
                "max_length": task.max_length, "text_a_limit": task.text_a_limit,
            },
            "parameters": this.chosen.as_dict(),
            "solution": {
                "method": outcome.method, "formula": outcome.formula, "solver": outcome.solver, "setting": outcome.setting,
                "intercept": form.intercept, "f0_scale": "inf" if math.isinf(form.f0_scale) else form.f0_scale,
                "sharpness": predictor.sharpness, "each_class": form.each_class,
            },
            "versions": versions(),
        },
    )  # fmt: skip
    return name
