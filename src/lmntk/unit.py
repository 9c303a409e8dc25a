"""Cells that are computed together: from their texts to kernels, to solutions, to results on disk."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lmntk.cells import Cell
from lmntk.context import SIDES, Context
from lmntk.errors import UserError
from lmntk.evaluation import BASELINES, Outcome, baseline, solve_cell
from lmntk.finetuning.logits import logits_of
from lmntk.kernels.contraction import kernel_names
from lmntk.kernels.estimate import Estimate
from lmntk.kernels.kernel import Kernel, load_tensors, save_tensors
from lmntk.kernels.scratch import Scratch
from lmntk.kernels.streaming import finish, plan_kernels, stream_kernels, whole
from lmntk.models.building import head_model, own_head_model, prompt_model
from lmntk.models.logit_model import LogitModel
from lmntk.prediction.files import save_predictor
from lmntk.prediction.predictor import Predictor, directions_of, fit_sharpness
from lmntk.preparation import PreparedTask, label_of
from lmntk.prompts.encoding import EncodedText, PromptEncoder
from lmntk.prompts.ensemble import EnsembleEncoder
from lmntk.provenance import content_key, versions
from lmntk.solvers.linear_form import LinearForm

ALWAYS_LINEAR = ("ridge", "logistic", "svr")  # solvers whose decisions on sgd (ridge: asigngd too) are linear in a text's gradient
PASS = 3  # forward passes that a linearized prediction takes, for each direction

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
    unfinished: list[str] = field(default_factory=list)  # work whose scratch files are still needed
    _model: LogitModel | None = None

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


def compute_unit(context: Context, task: PreparedTask, cells: Sequence[Cell]) -> Iterable[tuple[Cell, dict[str, Any]]]:
    """Yields each cell with its results; kernels that are there with the right key are not computed."""
    unit = Unit(context, task, list(cells))
    if not context.methods:
        yield from ((cell, _baseline_alone(unit, cell)) for cell in cells)
        return
    sides = SIDES[:2] if _one_pass_is_cheaper(unit) else SIDES
    found = _kernels(unit, sides)
    for cell in cells:
        kernels, logits = found[cell.name]
        labels = unit.labels[cell.name]
        outcomes = [solve_cell(kernels, logits, labels, task.metric, *method) for method in context.methods]
        predictors = {}
        if "test" not in sides:
            assert all(outcome.linear is not None for outcome in outcomes)
            predictors = {outcome.method: _predictor(unit, cell, outcome) for outcome in outcomes}
            evaluated = {method: predictor.evaluate(unit.texts[cell.name]["test"]) for method, (predictor, _) in predictors.items()}
            logits = logits | {"test": next(iter(evaluated.values()))[1]}
            outcomes = [outcome.with_test(evaluated[outcome.method][0], labels["test"]) for outcome in outcomes]
        name = "own head" if context.pretrained.kind == "classifier" else BASELINES[cell.mode]
        saved = []
        if context.experiment.save_models:
            for outcome in outcomes:
                if outcome.linear is not None:
                    predictor, directions = predictors.get(outcome.method) or _predictor(unit, cell, outcome)
                    saved.append(_save(unit, cell, outcome, predictor, directions))
                else:
                    context.progress.note(f"{outcome.method}: its decisions are not linear in a text's gradient, so no predictor is saved")
        yield cell, _keep(unit, cell, [baseline(name, task.metric, logits, labels), *outcomes], saved)
    for work in unit.unfinished:
        finish(context.settings, work)


def _baseline_alone(unit: Unit, cell: Cell) -> dict[str, Any]:
    """Returns a cell's results without kernels, where nothing but fine-tuning is asked for."""
    this, texts = unit.context, unit.texts[cell.name]
    logits = {side: logits_of(unit.model, texts[side], this.pretrained.pad_id, this.settings.batch_size).numpy() for side in SIDES[1:]}
    name = "own head" if this.pretrained.kind == "classifier" else BASELINES[cell.mode]
    return _keep(unit, cell, [baseline(name, unit.task.metric, logits, unit.labels[cell.name])], [])


def _one_pass_is_cheaper(unit: Unit) -> bool:
    """True when the test texts are better classified by linearized models than by kernels, and no kernel was asked for.

    In forward passes a test text: a kernel takes one, a backward pass a logit, the gradients' making, and the products with every
    training text; a linearized model three for each solution.
    """
    this, c = unit.context, unit.model.outputs
    # of all cells, finished ones too: a run that goes on decides as it began
    cells = [cell for cell in unit.task.cells if cell.mode == unit.mode] if unit.is_shared else unit.cells
    linear = all(solver in ALWAYS_LINEAR or (solver == "svc" and c == 1) for _, solver in this.methods)
    if this.experiment.keep_kernels or not linear or "signgd" in this.experiment.formulas:
        return False
    tests = [text for cell in unit.cells for text in unit.texts[cell.name]["test"]]
    tokens = sum(text.length for text in tests) / len(tests)
    rows = sum(len(cell.train) for cell in cells)
    by_kernel = 1 + 2 * c + rows * c * c * len(kernel_names(this.experiment.formulas)) / tokens
    return PASS * len(cells) * len(this.methods) < by_kernel


def _kernels(unit: Unit, sides: Sequence[str]) -> dict[str, tuple[Kernels, Logits]]:
    """Returns each cell's kernels and pre-trained logits, of earlier runs where they are kept."""
    this = unit.context
    wanted: list[tuple[str, str]] = [(side, formula) for side in sides for formula in this.experiment.formulas]
    found: dict[str, tuple[Kernels, Logits]] = {}
    missing: dict[str, tuple[str, ...]] = {}
    formulas: tuple[str, ...]
    for cell in unit.cells:
        key = this.key(unit.task, cell)
        kept = {pair: kernel for pair in wanted if (kernel := this.store.kernel(cell, *pair, key)) is not None}
        logits = _kept_logits(this, cell, key)
        found[cell.name] = kept, logits or {}
        formulas = tuple(f for f in this.experiment.formulas if any((side, f) not in kept for side in sides))
        missing[cell.name] = formulas or (("sgd",) if logits is None else ())
    for formulas in dict.fromkeys(each for each in missing.values() if each):
        together = [cell for cell in unit.cells if missing[cell.name] == formulas]
        for name, (kernels, logits) in _stream(unit, together, formulas, sides).items():
            found[name] = found[name][0] | kernels, logits
    return found


def _kept_logits(context: Context, cell: Cell, key: str) -> Logits | None:
    try:
        tensors, metadata = load_tensors(context.store.folder / "kernels" / cell.name / "logits.safetensors")
    except UserError:
        return None
    return tensors if metadata.get("key") == key else None


def plan_unit(context: Context, task: PreparedTask, cells: Sequence[Cell]) -> Estimate:
    """Returns what ``compute_unit`` would take, were all of its kernels missing."""
    unit = Unit(context, task, list(cells))
    texts, pairs, _ = _work(unit, cells, SIDES[:2] if _one_pass_is_cheaper(unit) else SIDES)
    trainable = context.chosen.select(unit.model)
    return plan_kernels(unit.model, texts, pairs, context.experiment.formulas, trainable, context.pretrained.pad_id, context.settings)


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


def _stream(unit: Unit, cells: Sequence[Cell], formulas: Sequence[str], sides: Sequence[str]) -> dict[str, tuple[Kernels, Logits]]:
    """Computes and keeps the kernels of cells that share a model and their test texts; returns them with the logits."""
    this = unit.context
    groups, pairs, where = _work(unit, cells, sides)
    work = _work_key(unit, cells, formulas, pairs)
    whole_unit = _begun_with_more(unit, cells, formulas, sides)
    if whole_unit is not None:
        found = _stream(whole_unit, whole_unit.cells, formulas, sides)
        unit.unfinished += whole_unit.unfinished
        return {cell.name: found[cell.name] for cell in cells}
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
        this.settings,
        lambda captured, contracted: this.progress.advance(capture_cost * captured + pair_cost * contracted),
        work,
        lambda estimate: this.progress.note(f"{unit.task.title} {unit.mode}: {estimate.describe()}"),
    )
    this.progress.note(f"{unit.task.title} {unit.mode}: {streamed.coverage.describe()}")
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
    if this.experiment.keep_kernels:  # else the tiles are all there is of them until the cells are solved
        finish(this.settings, work)
    else:
        unit.unfinished.append(work)
    return results


def _work_key(unit: Unit, cells: Sequence[Cell], formulas: Sequence[str], pairs: Sequence[tuple[str, str]]) -> str:
    """Returns the name under which the work on these cells' kernels is found again."""
    keys = {cell.name: unit.context.key(unit.task, cell) for cell in cells}
    return content_key(cells=keys, formulas=formulas, pairs=pairs, settings=unit.context.settings.cut())


def _begun_with_more(unit: Unit, cells: Sequence[Cell], formulas: Sequence[str], sides: Sequence[str]) -> Unit | None:
    """Returns all cells of the task and mode, if an earlier run began them together and was cut short when some had their kernels.

    Their tiles are there; the rest computed by themselves would differ in the last bits.
    """
    this, task = unit.context, unit.task
    every = [cell for cell in task.cells if cell.mode == unit.mode]
    if not unit.is_shared or len(every) == len(cells) or this.settings.scratch is None:
        return None
    whole = Unit(this, task, every)
    _, pairs, _ = _work(whole, every, sides)
    work = _work_key(whole, every, formulas, pairs)
    return whole if Scratch(this.settings.scratch, work).schedule() is not None else None


def _predictor(unit: Unit, cell: Cell, outcome: Outcome) -> tuple[Predictor, list[Any]]:
    """Returns the linearized model of a solution, and its directions."""
    this, form = unit.context, outcome.linear
    assert form is not None
    assert outcome.dev_decisions is not None
    directions = directions_of(
        unit.model,
        unit.texts[cell.name]["train"],
        this.chosen.select(unit.model),
        form,
        outcome.formula,
        this.pretrained.pad_id,
        drop_noise=this.settings.drop_noise,
        batch_size=this.settings.batch_size,
    )
    predictor = Predictor(
        unit.model,
        directions,
        this.pretrained.pad_id,
        intercept=form.intercept,
        f0_scale=form.f0_scale,
        sharpness=fit_sharpness(outcome.dev_decisions, np.asarray(unit.labels[cell.name]["dev"])),
        batch_size=this.settings.batch_size,
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


def _keep(unit: Unit, cell: Cell, outcomes: Sequence[Outcome], predictors: Sequence[str]) -> dict[str, Any]:
    """Writes the predictions and results of a cell, and returns the results."""
    this, labels = unit.context, unit.labels[cell.name]
    head = {"task": unit.task.name, "k": cell.k, "seed": cell.seed, "mode": cell.mode}
    sizes = {f"{side}_texts": len(labels[side]) for side in SIDES}
    assert all(len(outcome.predictions) == len(labels["test"]) for outcome in outcomes)
    columns: Mapping[str, Sequence[int]] = {outcome.method: outcome.predictions for outcome in outcomes}
    lines = ["\t".join(["row", "label", *columns])]
    lines += ["\t".join(map(str, values)) for values in zip(cell.test, labels["test"], *columns.values(), strict=True)]
    this.store.write_text(f"predictions/{cell.name}.tsv", "\n".join(lines) + "\n")
    result = {
        "key": this.result_key(unit.task, cell),
        "content": this.content_key(unit.task, cell),
        "cell": cell.name,
        "model": this.pretrained.fingerprint,
        "classes": unit.task.meaning(),
        "rows": [head | outcome.as_row() | sizes for outcome in outcomes],
        "split": {"train": cell.train, "dev": cell.dev, "test": cell.test},
        "predictors": list(predictors),
        "saved_models": this.experiment.save_models,
        "versions": versions(),
    }
    this.store.write_json(f"cells/{cell.name}.json", result)
    return result
