"""An experiment, run: tasks x k x seeds x modes x formulas, each cell computed once and found again by its content."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lmntk.diagnosis.conclusions import FILE, comparisons_in, conclude, sentences
from lmntk.engine.estimate import Estimate
from lmntk.engine.stream import MACHINE, NOT_KEPT, SCRATCH, Settings
from lmntk.errors import UserError
from lmntk.experiment.configuration import Experiment
from lmntk.experiment.preparation import PreparedTask, prepare_tasks
from lmntk.experiment.session import Context, Progress, Silent
from lmntk.experiment.steps.diagnose import check_given, diagnose_unit, diagnosis_setup, given_checkpoint
from lmntk.experiment.steps.finetune import arms_of, check_arms, pending, setup_of, train_arms, with_rows
from lmntk.experiment.steps.shared_model import compute_unit, forget_unit, plan_unit
from lmntk.kernels.groups import group_of_layer
from lmntk.models.build import any_model, own_head_model, untie
from lmntk.models.filters import ParameterFilter
from lmntk.models.loading import load_pretrained
from lmntk.reports.page import write_page
from lmntk.reports.results import write_reports
from lmntk.runs.reading import read_run
from lmntk.runs.store import Cell, Store
from lmntk.solvers.outcome import methods_of
from lmntk.system.devices import chosen_devices, place
from lmntk.system.executors.choose import chosen_executor
from lmntk.system.files import alone_in
from lmntk.system.hashing import versions
from lmntk.system.memory import default_memory, parse_bytes
from lmntk.system.precision import check_precision

__all__ = ["Progress", "Silent", "plan", "run"]

CONFIGURATION = "configuration.json"
REMEMBERED = 50  # earlier settings of a folder


def run(experiment: Experiment, progress: Progress | None = None) -> list[dict[str, Any]]:
    """Returns the rows of ``results.csv``, one a task, k, seed, mode and method, and writes the output folder.

    Cells that an earlier run finished with the same content are read, not computed.

    Raises:
        UserError: a mistake in the configuration, the data or the model; nothing is computed then.
    """
    progress = progress or Silent()
    this, tasks = _prepared(experiment, progress)
    check_given(this, tasks)
    store = this.store
    store.prepare()
    if this.pretrained.stored_dtype != experiment.dtype:
        progress.note(f"weights stored in {this.pretrained.stored_dtype}, computed with in {experiment.dtype}")
    with alone_in(store.folder):
        store.write_json(CONFIGURATION, _configuration(this, tasks))
        planned = [(task, cell) for task in tasks for cell in task.cells]
        results = this.finished(planned)
        untrained = {cell.name for _, cell in pending(this, planned, results)}
        progress.start(len(planned), len(planned) - len(untrained))
        for task, unit in _units(this, tasks):
            left = [cell for cell in unit if cell.name not in results]
            if not left and this.methods and experiment.keep_factors:
                progress.note(NOT_KEPT)
            for cell, result in compute_unit(this, task, left) if left else ():
                results[cell.name] = with_rows(this, task, cell, result)
                if not experiment.finetune:
                    progress.finished(cell, result["rows"])
                _report(this, tasks, planned)
            if this.methods:
                forget_unit(this, task, unit)
        for task, cell in pending(this, planned, results):
            results[cell.name] = train_arms(this, task, cell, results[cell.name])
            progress.finished(cell, results[cell.name]["rows"])
            _report(this, tasks, planned)
        for task in tasks if experiment.diagnose else ():
            for _, unit in _units(this, [task]):
                diagnose_unit(this, task, unit)
            _report(this, tasks, planned)
        _report(this, tasks, planned)
        missing = write_page(store.folder)
        if missing:
            progress.note(missing)
    rows = [row for _, cell in planned for row in results[cell.name]["rows"]]
    return [{name: value for name, value in row.items() if name != "setup"} for row in rows]


def _configuration(this: Context, tasks: Sequence[PreparedTask]) -> dict[str, Any]:
    """Returns the settings to write down, with those of earlier runs of the model in the folder, the latest first, each once."""
    now = this.experiment.model_dump(mode="json")
    before = this.store.read_json(CONFIGURATION)
    before = before if isinstance(before, dict) else {}
    others = before.get("earlier")
    earlier: list[Any] = []
    for one in [before.get("experiment"), *(others if isinstance(others, list) else [])]:
        one = one | {"out": now["out"]} if isinstance(one, dict) else {}  # the folder may have been moved
        if one.get("model") == now["model"] and one not in (now, *earlier):
            earlier.append(one)
    said = before.get("setups")
    return {
        "experiment": now,
        "versions": versions(),
        "weights": this.pretrained.fingerprint,
        "setups": list(dict.fromkeys([*_setups(this, tasks), *(said if isinstance(said, list) else [])])),
        "earlier": earlier[:REMEMBERED],
    }


def _setups(this: Context, tasks: Sequence[PreparedTask]) -> Iterable[str]:
    """Yields the setups of what is asked for; see ``setups``."""
    for task in tasks:
        for mode in this.experiment.modes:
            yield this.setup(task, mode, "baseline")
            if this.methods:
                yield this.setup(task, mode, "kernel")
            arms = arms_of(this.experiment, this.chosen, 0)
            yield from (setup_of(this, task, mode, arm) for arm in arms)
            yield from (diagnosis_setup(this, task, mode, one) for one in (*arms, this.given) if one is not None)


def verdicts_of(folder: Path) -> dict[str, Any]:
    """Returns the verdicts and comparisons that a run with ``diagnose`` left in its folder; see ``conclusions.conclude``.

    Raises:
        UserError: there are none.
    """
    found = Store(folder).read_json(FILE)
    if not isinstance(found, dict):
        raise UserError(f"verdicts: there are none in {str(folder)!r}; run `lmntk diagnose`")
    return found


def plan(experiment: Experiment, progress: Progress | None = None) -> list[tuple[str, Estimate]]:
    """Returns what ``run`` would take, for each piece of work that is left: its name and an estimate.

    Cost: the start-up check and a few batches a task and mode. Nothing is computed, and but for this machine's speed nothing written.

    Raises:
        UserError: as ``run``.
    """
    if not experiment.formulas:
        raise UserError("plan: it is of kernels, and formulas is none; fine-tuning takes learning rates x batch sizes x steps in each cell")
    this, tasks = _prepared(experiment, progress or Silent())
    results = this.finished([(task, cell) for task in tasks for cell in task.cells])
    found: dict[str, Estimate] = {}
    for task, unit in _units(this, tasks):
        left = [cell for cell in unit if cell.name not in results]
        if not left:
            continue
        name = f"{task.title} {unit[0].mode}"
        estimate = plan_unit(this, task, left)
        found[name] = found[name] + estimate if name in found else estimate
    return list(found.items())


def _prepared(experiment: Experiment, progress: Progress) -> tuple[Context, list[PreparedTask]]:
    """Returns the model, the texts and the settings of an experiment, after a look at everything that can be wrong with them."""
    methods = methods_of(experiment.formulas, experiment.solvers)
    devices = chosen_devices(experiment.device)
    precision = check_precision(experiment.precision, experiment.dtype, devices)
    pretrained = load_pretrained(
        experiment.model,
        experiment.dtype,
        experiment.attention,
        kind=experiment.kind,
        revision=experiment.revision,
        base=experiment.base,
        needs_head=True if "prompt" in experiment.modes else None,
    )
    place(pretrained, experiment.device)
    for mode in experiment.modes:
        pretrained.reading(mode)
    if experiment.untie_head:
        untie(pretrained)
    tasks = prepare_tasks(experiment, pretrained)
    store = Store(experiment.out)
    memory = default_memory() if experiment.memory is None else parse_bytes(experiment.memory)
    settings = Settings(
        experiment.batch_size,
        memory,
        not experiment.keep_noise,
        group_of_layer if experiment.groups else None,
        (experiment.scratch or experiment.out / SCRATCH).resolve(),
        experiment.keep_factors,
        chosen_executor(experiment.engine, experiment.address, experiment.workers, devices, experiment.device),
        experiment.out / MACHINE,
        precision,
        None if experiment.device_memory is None else parse_bytes(experiment.device_memory, "device-memory"),
    )
    chosen = ParameterFilter(
        not experiment.without_embeddings, not experiment.without_head, experiment.biases_only, experiment.include, experiment.exclude
    )
    given = None if experiment.finetuned is None else given_checkpoint(experiment.finetuned)
    this = Context(experiment, pretrained, store, progress, settings, chosen, methods, given)
    for mode in experiment.modes:  # a filter that matches nothing, or features that are not there, show now
        model = any_model(pretrained, mode, experiment.features)
        chosen.select(model)
        check_arms(this, model)
    if pretrained.kind == "classifier":  # whose labels are in no fingerprint: an old result of other ones is not to be found again
        for task in tasks:
            own_head_model(pretrained, task.labels, this.folds(task))
    return this, tasks


def _report(this: Context, tasks: Sequence[PreparedTask], planned: Sequence[tuple[PreparedTask, Cell]]) -> None:
    """Writes the tables, and the verdicts where there are diagnoses, of all that the folder holds of this model."""
    found = read_run(this.store.folder)
    titles = found.titles() | {task.name: task.title for task in tasks}
    done = sum(cell.name in found.cells for _, cell in planned)
    others = len(set(found.cells) - {cell.name for _, cell in planned})
    facts = {
        "model": this.experiment.model,
        "weights": this.pretrained.fingerprint[:16],
        "parameters": this.chosen.describe(),
        "cells": f"{done} of {len(planned)} finished" + (f", and {others} of earlier runs on this model" if others else ""),
    }
    facts |= {f"classes of {task.name}": "; ".join(task.meaning()) for task in tasks}
    facts |= {"computed with": " and ".join(sorted({json.dumps(cell["versions"], sort_keys=True) for cell in found.cells.values()}))}
    facts |= {"left out": " ".join(found.notes)} if found.notes else {}
    verdicts = conclude(found.diagnoses, comparisons_in(found.finetunings, found.cells), titles)
    if found.diagnoses or this.experiment.diagnose:
        this.store.write_json(FILE, verdicts)
    write_reports(this.store, found.rows, titles, facts, sentences(verdicts) if found.diagnoses else [])


def _units(this: Context, tasks: Sequence[PreparedTask]) -> Iterable[tuple[PreparedTask, list[Cell]]]:
    """Yields cells that are computed together: all k and seeds where they share a model, and so the test texts' gradients.

    A prompt's and a classifier's own head are shared; a probe is its cell's own.
    """
    for task in tasks:
        for mode in this.experiment.modes:
            cells = [cell for cell in task.cells if cell.mode == mode]
            if mode == "prompt" or this.pretrained.kind == "classifier":
                yield task, cells
            else:
                yield from ((task, [cell]) for cell in cells)
