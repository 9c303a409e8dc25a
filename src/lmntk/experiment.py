"""An experiment, run: tasks x k x seeds x modes x formulas, each cell computed once and found again by its content."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from lmntk.cells import KERNEL_VERSION, Cell, Store
from lmntk.configuration import Experiment
from lmntk.errors import UserError
from lmntk.evaluation import BASELINES, baseline, methods_of, solve_cell
from lmntk.kernels.contraction import kernel_names
from lmntk.kernels.groups import group_of_layer
from lmntk.kernels.kernel import Kernel, load_tensors, save_tensors
from lmntk.kernels.streaming import Settings, stream_kernels, whole
from lmntk.memory import default_memory, parse_bytes
from lmntk.models.building import any_model, head_model, own_head_model, prompt_model, untie
from lmntk.models.filters import ParameterFilter
from lmntk.models.loading import Pretrained, load_pretrained
from lmntk.models.logit_model import LogitModel
from lmntk.preparation import PreparedTask, label_of, prepare_tasks
from lmntk.prompts.encoding import EncodedText, PromptEncoder, TextEncoder
from lmntk.prompts.ensemble import EnsembleEncoder
from lmntk.provenance import content_key, digest_examples, versions
from lmntk.reports.results import write_reports
from lmntk.solvers.grid import SOLVER_VERSION, default_grid
from lmntk.tasks import TASKS

SIDES = ("train", "dev", "test")


class Progress(Protocol):
    """What an experiment tells while it runs."""

    def start(self, cells: int, finished: int) -> None:
        """Says how many cells there are, and how many an earlier run has finished."""

    def work(self, description: str, total: float) -> None:
        """Says what is computed now, and how much of it there is."""

    def advance(self, amount: float) -> None:
        """Says that this much of it is done."""

    def finished(self, cell: Cell, rows: Sequence[Mapping[str, Any]]) -> None:
        """Says what a cell came to."""

    def note(self, line: str) -> None:
        """Says something worth reading once."""


class Silent:
    """Tells nothing."""

    def start(self, cells: int, finished: int) -> None: ...  # noqa: D102
    def work(self, description: str, total: float) -> None: ...  # noqa: D102
    def advance(self, amount: float) -> None: ...  # noqa: D102
    def finished(self, cell: Cell, rows: Sequence[Mapping[str, Any]]) -> None: ...  # noqa: D102
    def note(self, line: str) -> None: ...  # noqa: D102


@dataclass
class _Run:
    """What every step of one run needs."""

    experiment: Experiment
    pretrained: Pretrained
    store: Store
    progress: Progress
    settings: Settings
    chosen: ParameterFilter
    methods: list[tuple[str, str]]
    encoders: dict[tuple[str, str], TextEncoder] = field(default_factory=dict)

    def encoder(self, task: PreparedTask, mode: str) -> TextEncoder:
        """Returns a task's encoder in a mode, made once."""
        if (task.name, mode) not in self.encoders:
            self.encoders[task.name, mode] = task.encoder(self.pretrained, mode, self.experiment.label_words_reduce)
        return self.encoders[task.name, mode]

    def key(self, task: PreparedTask, cell: Cell) -> str:
        """Returns the hash of all that the cell's kernels depend on."""
        e = self.experiment
        return content_key(
            version=KERNEL_VERSION,
            weights=self.pretrained.fingerprint,
            encoder=self.encoder(task, cell.mode).fingerprint(),
            examples={side: digest_examples(examples) for side, examples in task.examples(cell).items()},
            mode=cell.mode,
            features=e.features if cell.mode == "head" else None,
            difference=self.folds(task),
            parameters=self.chosen.as_dict(),
            untied=e.untie_head,
            groups=e.groups,
            keep_noise=e.keep_noise,
            dtype=e.dtype,
        )

    def folds(self, task: PreparedTask) -> bool:
        """True when the task's two logits are folded into their difference."""
        return task.classes == 2 and not self.experiment.all_logits


def run(experiment: Experiment, progress: Progress | None = None) -> list[dict[str, Any]]:
    """Returns the rows of ``results.csv``, one a task, k, seed, mode and method, and writes the output folder.

    Cells that an earlier run finished with the same content are read, not computed.

    Raises:
        UserError: a mistake in the configuration, the data or the model; nothing is computed then.
    """
    progress = progress or Silent()
    methods = methods_of(experiment.formulas, experiment.solvers)
    pretrained = load_pretrained(
        experiment.model,
        experiment.dtype,
        experiment.attention,
        kind=experiment.kind,
        revision=experiment.revision,
        base=experiment.base,
        needs_head=True if "prompt" in experiment.modes else None,
    )
    for mode in experiment.modes:
        pretrained.reading(mode)
    if experiment.untie_head:
        untie(pretrained)
    tasks = prepare_tasks(experiment, pretrained)
    store = Store(experiment.out)
    memory = default_memory() if experiment.memory is None else parse_bytes(experiment.memory)
    settings = Settings(experiment.batch_size, memory, not experiment.keep_noise, group_of_layer if experiment.groups else None)
    chosen = ParameterFilter(
        not experiment.without_embeddings, not experiment.without_head, experiment.biases_only, experiment.include, experiment.exclude
    )
    this = _Run(experiment, pretrained, store, progress, settings, chosen, methods)
    for mode in experiment.modes:  # a filter that matches nothing, or features that are not there, show now
        chosen.select(any_model(pretrained, mode, experiment.features))
    if pretrained.kind == "classifier":  # whose labels are in no fingerprint: an old result of other ones is not to be found again
        for task in tasks:
            own_head_model(pretrained, task.labels, this.folds(task))
    store.prepare()
    if pretrained.stored_dtype != experiment.dtype:
        progress.note(f"weights stored in {pretrained.stored_dtype}, computed with in {experiment.dtype}")
    store.write_json("configuration.json", {"experiment": experiment.model_dump(mode="json"), "versions": versions()})
    planned = [(task, cell) for task in tasks for cell in task.cells]
    results: dict[str, dict[str, Any]] = {}
    for task, cell in planned:
        found = store.result(cell, _result_key(this, task, cell))
        if found is not None and _files_are_there(this, cell):
            results[cell.name] = found
    progress.start(len(planned), len(results))
    for task in tasks:
        for mode in experiment.modes:
            shared = mode == "prompt" or pretrained.kind == "classifier"
            for unit in _units([cell for cell in task.cells if cell.mode == mode and cell.name not in results], shared):
                for cell, result in _compute_unit(this, task, unit):
                    results[cell.name] = result
                    progress.finished(cell, result["rows"])
                    _report(this, tasks, planned, results)
    _report(this, tasks, planned, results)
    return [row for _, cell in planned for row in results[cell.name]["rows"]]


def _report(
    this: _Run, tasks: Sequence[PreparedTask], planned: Sequence[tuple[PreparedTask, Cell]], results: Mapping[str, dict[str, Any]]
) -> None:
    names = {cell.name for _, cell in planned}
    before = [found for found in this.store.results(this.pretrained.fingerprint) if found["cell"] not in names]
    rows = [row for found in before for row in found["rows"]]
    rows += [row for _, cell in planned if cell.name in results for row in results[cell.name]["rows"]]
    titles = {name: task.title for name, task in TASKS.items()} | {task.name: task.title for task in tasks}
    computed_with = {json.dumps(found["versions"], sort_keys=True) for found in (*before, *results.values())}
    facts = {
        "model": this.experiment.model,
        "weights": this.pretrained.fingerprint[:16],
        "parameters": this.chosen.describe(),
        "cells": f"{len(results)} of {len(planned)} finished" + (f", and {len(before)} of earlier runs on this model" if before else ""),
    }
    facts |= {f"classes of {task.name}": "; ".join(task.meaning()) for task in tasks}
    facts |= {"computed with": " and ".join(sorted(computed_with))}
    write_reports(this.store, rows, titles, facts)


def _files_are_there(this: _Run, cell: Cell) -> bool:
    """True when a finished cell has its predictions and, if they are to be kept, its kernels."""
    paths = [this.store.folder / "predictions" / f"{cell.name}.tsv"]
    if this.experiment.keep_kernels:
        paths += [this.store.kernel_path(cell, side, formula) for side in SIDES for formula in this.experiment.formulas]
    return all(path.is_file() for path in paths)


def _result_key(this: _Run, task: PreparedTask, cell: Cell) -> str:
    grids = {solver: default_grid(solver) for _, solver in this.methods}
    return content_key(version=SOLVER_VERSION, kernels=this.key(task, cell), methods=this.methods, grids=grids, metric=task.metric)


def _units(cells: Sequence[Cell], shared: bool) -> Iterable[list[Cell]]:
    """Yields cells that are computed together: one k's seeds where all cells share a model, and so the test texts.

    A prompt's and a classifier's own head are shared; a probe is its cell's own.
    """
    if not shared:
        yield from ([cell] for cell in cells)
        return
    for k in dict.fromkeys(cell.k for cell in cells):
        yield [cell for cell in cells if cell.k == k]


def _compute_unit(this: _Run, task: PreparedTask, unit: Sequence[Cell]) -> Iterable[tuple[Cell, dict[str, Any]]]:
    """Yields each cell of a unit with its results; kernels that are there with the right key are not computed."""
    encoder = this.encoder(task, unit[0].mode)
    keys = {cell.name: this.key(task, cell) for cell in unit}
    texts = {cell.name: {side: [encoder.encode(e) for e in part] for side, part in task.examples(cell).items()} for cell in unit}
    labels = {cell.name: {side: [label_of(e, task.name) for e in part] for side, part in task.examples(cell).items()} for cell in unit}
    kernels = {cell.name: _kept_kernels(this, cell, keys[cell.name]) for cell in unit}
    logits = {cell.name: _kept_logits(this, cell, keys[cell.name]) for cell in unit}
    missing = {
        cell.name: [f for f in this.experiment.formulas if any((side, f) not in kernels[cell.name] for side in SIDES)]
        or (["sgd"] if logits[cell.name] is None else [])
        for cell in unit
    }
    open_cells = [cell for cell in unit if missing[cell.name]]
    for formulas in dict.fromkeys(tuple(missing[cell.name]) for cell in open_cells):
        together = [cell for cell in open_cells if tuple(missing[cell.name]) == formulas]
        model = _model(this, task, together[0], encoder, texts, labels)
        found, f0 = _stream(this, task, together, model, texts, formulas, keys)
        for cell in together:
            kernels[cell.name] |= found[cell.name]
            logits[cell.name] = f0[cell.name]
    for cell in unit:
        yield cell, _solve(this, task, cell, kernels[cell.name], logits[cell.name] or {}, labels[cell.name])


def _kept_kernels(this: _Run, cell: Cell, key: str) -> dict[tuple[str, str], Kernel]:
    wanted = [(side, formula) for side in SIDES for formula in this.experiment.formulas]
    found = {pair: this.store.kernel(cell, *pair, key) for pair in wanted}
    return {pair: kernel for pair, kernel in found.items() if kernel is not None}


def _kept_logits(this: _Run, cell: Cell, key: str) -> dict[str, np.ndarray] | None:
    try:
        tensors, metadata = load_tensors(this.store.folder / "kernels" / cell.name / "logits.safetensors")
    except UserError:
        return None
    return tensors if metadata.get("key") == key else None


def _model(
    this: _Run,
    task: PreparedTask,
    cell: Cell,
    encoder: TextEncoder,
    texts: Mapping[str, Mapping[str, Sequence[EncodedText]]],
    labels: Mapping[str, Mapping[str, Sequence[int]]],
) -> LogitModel:
    """Returns the model whose tangents are taken: the prompt's, the checkpoint's own head, or one probed on the cell's train texts."""
    if isinstance(encoder, PromptEncoder | EnsembleEncoder):
        return prompt_model(this.pretrained, encoder, this.folds(task))
    if this.pretrained.kind == "classifier":
        return own_head_model(this.pretrained, task.labels, this.folds(task))
    train, truth = texts[cell.name]["train"], labels[cell.name]["train"]
    return head_model(this.pretrained, train, truth, task.classes, this.folds(task), this.experiment.features, this.settings.batch_size)


def _stream(
    this: _Run,
    task: PreparedTask,
    cells: Sequence[Cell],
    model: LogitModel,
    texts: Mapping[str, Mapping[str, Sequence[EncodedText]]],
    formulas: Sequence[str],
    keys: Mapping[str, str],
) -> tuple[dict[str, dict[tuple[str, str], Kernel]], dict[str, dict[str, np.ndarray]]]:
    """Computes and keeps the kernels of cells that share a model and their test texts; returns them with the logits."""
    groups: dict[str, Sequence[EncodedText]] = {"test": texts[cells[0].name]["test"]}
    same_test = all(cell.test == cells[0].test and texts[cell.name]["test"] == groups["test"] for cell in cells)
    pairs = []
    where: dict[tuple[str, str], str] = {}
    for cell in cells:
        for side in SIDES:
            group = "test" if side == "test" and same_test else f"{cell.name}/{side}"
            groups[group] = texts[cell.name][side]
            where[cell.name, side] = group
            pairs.append((f"{cell.name}/train", group))
    used = {name: part for name, part in groups.items() if any(name in pair for pair in pairs)}
    c = model.outputs
    tokens = float(np.mean([text.length for part in used.values() for text in part]))
    # operations a parameter: six a token and logit to capture, two a pair of logits and kernel to contract
    capture_cost = 6 * tokens * c
    pair_cost = 2.0 * c * c * len(kernel_names(formulas))
    total = capture_cost * sum(map(len, used.values())) + pair_cost * sum(len(groups[a]) * len(groups[b]) for a, b in pairs)
    this.progress.work(f"{task.title} k={cells[0].k} {cells[0].mode}" + (f" seed {cells[0].seed}" if len(cells) == 1 else ""), total)
    streamed = stream_kernels(
        model,
        used,
        pairs,
        formulas,
        this.chosen.select(model),
        this.pretrained.pad_id,
        this.settings,
        lambda captured, contracted: this.progress.advance(capture_cost * captured + pair_cost * contracted),
    )
    this.progress.note(f"{task.title} {cells[0].mode}: {streamed.coverage.describe()}")
    kernels: dict[str, dict[tuple[str, str], Kernel]] = {}
    logits: dict[str, dict[str, np.ndarray]] = {}
    for cell in cells:
        provenance = {
            "key": keys[cell.name],
            "model": this.pretrained.fingerprint,
            "model_name": this.pretrained.name,
            "task": task.name,
            "cell": cell.name,
            "templates": task.templates if cell.mode == "prompt" else None,
            "label_words": task.label_words if cell.mode == "prompt" else None,
            "parameters": this.chosen.as_dict(),
            "dtype": this.experiment.dtype,
            "noise_coordinates_left_out": streamed.noise.get(f"{cell.name}/train", 0),
            "versions": versions(),
        }
        logits[cell.name] = {side: streamed.logits[where[cell.name, side]].numpy() for side in SIDES}
        kernels[cell.name] = {}
        for side in SIDES:
            found = streamed.kernels[f"{cell.name}/train", where[cell.name, side]]
            for formula in formulas:
                flipped = found.get(f"{formula}_flipped")
                parts = {group: values.numpy() for group, values in found[formula].items()} if this.settings.grouping else {}
                kernels[cell.name][side, formula] = Kernel(
                    formula, whole(found[formula]).numpy(), None if flipped is None else whole(flipped).numpy(), parts, provenance
                )
        if this.experiment.keep_kernels:
            for (side, formula), kernel in kernels[cell.name].items():
                kernel.save(this.store.kernel_path(cell, side, formula))
            save_tensors(this.store.folder / "kernels" / cell.name / "logits.safetensors", logits[cell.name], {"key": keys[cell.name]})
    return kernels, logits


def _solve(
    this: _Run,
    task: PreparedTask,
    cell: Cell,
    kernels: Mapping[tuple[str, str], Kernel],
    logits: Mapping[str, np.ndarray],
    labels: Mapping[str, Sequence[int]],
) -> dict[str, Any]:
    """Returns and keeps the results of a cell: the baseline and every formula with every solver that takes it."""
    outcomes = [baseline("own head" if this.pretrained.kind == "classifier" else BASELINES[cell.mode], task.metric, logits, labels)]
    for formula, solver in this.methods:
        outcomes.append(solve_cell(kernels, logits, labels, task.metric, formula, solver))
    head = {"task": task.name, "k": cell.k, "seed": cell.seed, "mode": cell.mode}
    sizes = {f"{side}_texts": len(labels[side]) for side in SIDES}
    rows = []
    for outcome in outcomes:
        row = outcome.as_dict()
        predictions = row.pop("predictions")
        assert len(predictions) == len(labels["test"])
        rows.append(head | row | sizes)
    columns = {outcome.method: list(outcome.predictions) for outcome in outcomes}
    lines = ["\t".join(["row", "label", *columns])]
    lines += ["\t".join(map(str, values)) for values in zip(cell.test, labels["test"], *columns.values(), strict=True)]
    this.store.write_text(f"predictions/{cell.name}.tsv", "\n".join(lines) + "\n")
    result = {
        "key": _result_key(this, task, cell),
        "cell": cell.name,
        "model": this.pretrained.fingerprint,
        "classes": task.meaning(),
        "rows": rows,
        "split": {"train": cell.train, "dev": cell.dev, "test": cell.test},
        "versions": versions(),
    }
    this.store.write_json(f"cells/{cell.name}.json", result)
    return result
