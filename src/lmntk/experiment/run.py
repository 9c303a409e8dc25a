"""An experiment, run: tasks x k x seeds x modes x formulas, each split computed once and found again by its content."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lmntk.diagnosis.conclusions import FILE, comparisons_in, conclude, sentences
from lmntk.engine.estimate import Estimate
from lmntk.engine.stream import NOT_KEPT
from lmntk.errors import UserError
from lmntk.experiment.configuration import Experiment
from lmntk.experiment.preparation import PreparedTask, prepare_tasks
from lmntk.experiment.session import Progress, Session, Silent
from lmntk.experiment.start import filter_of, load, settings_of
from lmntk.experiment.steps.diagnose import check_given, diagnose_unit, diagnosis_setup, given_checkpoint
from lmntk.experiment.steps.finetune import arms_of, check_arms, pending, setup_of, train_arms, with_rows
from lmntk.experiment.steps.shared_model import compute_unit, forget_unit, plan_unit
from lmntk.models.build import any_model, own_head_model
from lmntk.reports.page import write_page
from lmntk.reports.results import write_reports
from lmntk.runs.reading import read_run
from lmntk.runs.store import Split, Store
from lmntk.solvers.outcome import methods_of
from lmntk.system.files import alone_in
from lmntk.system.hashing import versions

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
    session, tasks = _prepared(experiment, progress)
    check_given(session, tasks)
    store = session.store
    store.prepare()
    if session.pretrained.stored_dtype != experiment.dtype:
        progress.note(
            f"weights stored in {session.pretrained.stored_dtype}, computed with in {experiment.dtype}"
        )
    with alone_in(store.folder):
        store.write_json(CONFIGURATION, _configuration(session, tasks))
        planned = [(task, split) for task in tasks for split in task.splits]
        results = session.finished(planned)
        untrained = {split.name for _, split in pending(session, planned, results)}
        progress.start(len(planned), len(planned) - len(untrained))
        for task, unit in _units(session, tasks):
            left = [split for split in unit if split.name not in results]
            if not left and session.methods and experiment.keep_factors:
                progress.note(NOT_KEPT)
            for split, result in compute_unit(session, task, left) if left else ():
                results[split.name] = with_rows(session, task, split, result)
                if not experiment.finetune:
                    progress.finished(split, result["rows"])
                _report(session, tasks, planned)
            if session.methods:
                forget_unit(session, task, unit)
        for task, split in pending(session, planned, results):
            results[split.name] = train_arms(session, task, split, results[split.name])
            progress.finished(split, results[split.name]["rows"])
            _report(session, tasks, planned)
        for task in tasks if experiment.diagnose else ():
            for _, unit in _units(session, [task]):
                diagnose_unit(session, task, unit)
            _report(session, tasks, planned)
        _report(session, tasks, planned)
        missing = write_page(store.folder)
        if missing:
            progress.note(missing)
    rows = [row for _, split in planned for row in results[split.name]["rows"]]
    return [{name: value for name, value in row.items() if name != "setup"} for row in rows]


def _configuration(session: Session, tasks: Sequence[PreparedTask]) -> dict[str, Any]:
    """Returns the settings to write down, with those of earlier runs of the model in the folder, the latest first, each once."""
    now = session.experiment.model_dump(mode="json")
    before = session.store.read_json(CONFIGURATION)
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
        "weights": session.pretrained.fingerprint,
        "setups": list(dict.fromkeys([*_setups(session, tasks), *(said if isinstance(said, list) else [])])),
        "earlier": earlier[:REMEMBERED],
    }


def _setups(session: Session, tasks: Sequence[PreparedTask]) -> Iterable[str]:
    """Yields the setups of what is asked for; see ``setups``."""
    for task in tasks:
        for mode in session.experiment.modes:
            yield session.setup(task, mode, "baseline")
            if session.methods:
                yield session.setup(task, mode, "kernel")
            arms = arms_of(session.experiment, session.chosen, 0)
            yield from (setup_of(session, task, mode, arm) for arm in arms)
            yield from (
                diagnosis_setup(session, task, mode, one) for one in (*arms, session.given) if one is not None
            )


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
        raise UserError(
            "plan: it is of kernels, and formulas is none; fine-tuning takes learning rates x batch sizes x steps in each cell"
        )
    session, tasks = _prepared(experiment, progress or Silent())
    results = session.finished([(task, split) for task in tasks for split in task.splits])
    found: dict[str, Estimate] = {}
    for task, unit in _units(session, tasks):
        left = [split for split in unit if split.name not in results]
        if not left:
            continue
        name = f"{task.title} {unit[0].mode}"
        estimate = plan_unit(session, task, left)
        found[name] = found[name] + estimate if name in found else estimate
    return list(found.items())


def _prepared(experiment: Experiment, progress: Progress) -> tuple[Session, list[PreparedTask]]:
    """Returns the model, the texts and the settings of an experiment, after a look at everything that can be wrong with them."""
    methods = methods_of(experiment.formulas, experiment.solvers)
    settings = settings_of(experiment, experiment.out)
    pretrained = load(experiment, experiment.modes)
    tasks = prepare_tasks(experiment, pretrained)
    store = Store(experiment.out)
    chosen = filter_of(experiment)
    given = None if experiment.finetuned is None else given_checkpoint(experiment.finetuned)
    session = Session(experiment, pretrained, store, progress, settings, chosen, methods, given)
    for mode in experiment.modes:  # a filter that matches nothing, or features that are not there, show now
        model = any_model(pretrained, mode, experiment.features)
        chosen.select(model)
        check_arms(session, model)
    if (
        pretrained.kind == "classifier"
    ):  # whose labels are in no fingerprint: an old result of other ones is not to be found again
        for task in tasks:
            own_head_model(pretrained, task.labels, session.folds(task))
    return session, tasks


def _report(
    session: Session, tasks: Sequence[PreparedTask], planned: Sequence[tuple[PreparedTask, Split]]
) -> None:
    """Writes the tables, and the verdicts where there are diagnoses, of all that the folder holds of this model."""
    found = read_run(session.store.folder)
    titles = found.titles() | {task.name: task.title for task in tasks}
    done = sum(split.name in found.splits for _, split in planned)
    others = len(set(found.splits) - {split.name for _, split in planned})
    facts = {
        "model": session.experiment.model,
        "weights": session.pretrained.fingerprint[:16],
        "parameters": session.chosen.describe(),
        "splits": f"{done} of {len(planned)} finished"
        + (f", and {others} of earlier runs on this model" if others else ""),
    }
    facts |= {f"classes of {task.name}": "; ".join(task.meaning()) for task in tasks}
    facts |= {
        "computed with": " and ".join(
            sorted({json.dumps(split["versions"], sort_keys=True) for split in found.splits.values()})
        )
    }
    facts |= {"left out": " ".join(found.notes)} if found.notes else {}
    verdicts = conclude(found.diagnoses, comparisons_in(found.finetunings, found.splits), titles)
    if found.diagnoses or session.experiment.diagnose:
        session.store.write_json(FILE, verdicts)
    write_reports(session.store, found.rows, titles, facts, sentences(verdicts) if found.diagnoses else [])


def _units(session: Session, tasks: Sequence[PreparedTask]) -> Iterable[tuple[PreparedTask, list[Split]]]:
    """Yields splits that are computed together: all k and seeds where they share a model, and so the test texts' gradients.

    A prompt's and a classifier's own head are shared; a probe is its split's own.
    """
    for task in tasks:
        for mode in session.experiment.modes:
            splits = [split for split in task.splits if split.mode == mode]
            if mode == "prompt" or session.pretrained.kind == "classifier":
                yield task, splits
            else:
                yield from ((task, [split]) for split in splits)
