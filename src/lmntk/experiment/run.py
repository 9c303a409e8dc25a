"""A run: one loop over the steps of an experiment, each job done once and found again by its key."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lmntk.experiment.configuration import Experiment
from lmntk.experiment.reading import ReadTask
from lmntk.experiment.report import Reporter
from lmntk.experiment.shared_model import SharedModel, shared_models
from lmntk.experiment.start import open_session
from lmntk.experiment.steps.base import Job, Step, missing
from lmntk.experiment.steps.diagnose import Diagnose, check_given
from lmntk.experiment.steps.finetune import FineTune
from lmntk.experiment.steps.solve import Solve
from lmntk.experiment.steps.subspaces import SolveSubspaces, check_parts
from lmntk.runs.earlier import NOT_CHECKED, is_earlier
from lmntk.system.files import alone_in
from lmntk.system.progress import Progress, Silent

SOLVE, SUBSPACES, FINE_TUNE, DIAGNOSE = Solve(), SolveSubspaces(), FineTune(), Diagnose()
STEPS: tuple[Step, ...] = (SOLVE, SUBSPACES, FINE_TUNE, DIAGNOSE)
RESULTS: tuple[Step, ...] = (
    SOLVE,
    SUBSPACES,
    FINE_TUNE,
)  # a split is finished when these have no job left on it


def run(
    experiment: Experiment,
    progress: Progress | None = None,
    read: Sequence[ReadTask] | None = None,
    before_page: Callable[[Path, Progress], None] | None = None,
) -> list[dict[str, Any]]:
    """Return the rows of ``results.csv``, one a task, k, seed, mode and method, and write the output folder.

    Jobs that an earlier run finished with the same key are read, not done again.

    Args:
        experiment: what is asked for.
        progress: whom the run tells how far it is.
        read: the experiment's tasks, where ``read_tasks`` has read them already.
        before_page: what else is to be written to the folder before the page that shows it.

    Raises:
        UserError: a mistake in the configuration, the data or the model; nothing is computed then.

    Example:
        >>> rows = run(Experiment(model="roberta-base", data="data", tasks="sst-2"))  # doctest: +SKIP
    """
    session = open_session(experiment, progress or Silent(), read)
    check_given(session)
    session.store.prepare()
    if session.pretrained.stored_dtype != experiment.dtype:
        session.progress.note(
            f"weights stored in {session.pretrained.stored_dtype}, computed with in {experiment.dtype}"
        )
    with alone_in(session.store.folder):
        if is_earlier(session.store.folder):
            session.progress.note(
                f"{str(experiment.out)!r} {NOT_CHECKED}: it stays, and its results are computed anew beside it"
            )
        reporter = Reporter(session)
        reporter.begin()
        models = list(shared_models(session))
        check_parts(models)
        unfinished = _unfinished(models)
        session.progress.start(len(session.planned), len(session.planned) - len(unfinished))
        for step in STEPS:
            for shared in models:
                jobs = missing(step, shared)
                for job in step.do(shared, jobs):
                    if step not in RESULTS:
                        continue
                    left = unfinished.get(job.split.name, {})
                    if left.pop((step, job), False) and not left:
                        session.progress.finished(job.split.name, reporter.rows(shared.task, job.split))
                    reporter.write_predictions(shared.task, job.split)
                    reporter.write_tables()
                if jobs:
                    reporter.write_tables()
                step.end(shared, was_done=bool(jobs))
                shared.release()
        reporter.end(before_page)
        return [row for task, split in session.planned for row in reporter.rows(task, split)]


def _unfinished(models: list[SharedModel]) -> dict[str, dict[tuple[Step, Job], bool]]:
    """Return the jobs that are left on each split before it has all of its results, each as True."""
    left: dict[str, dict[tuple[Step, Job], bool]] = {}
    for step in RESULTS:
        for shared in models:
            for job in missing(step, shared):
                left.setdefault(job.split.name, {})[step, job] = True
    return left
