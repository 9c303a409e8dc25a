"""Runs of an experiment: its texts are read first, and only then what computes is imported."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from lmntk.cli.printing import with_progress

if TYPE_CHECKING:
    from lmntk.engine.estimate import Estimate
    from lmntk.experiment.configuration import Experiment
    from lmntk.experiment.reading import ReadTask
    from lmntk.system.progress import Progress


def run_experiment(experiment: Experiment) -> list[dict[str, Any]]:
    """Return the rows of ``results.csv``; progress is on stderr."""
    return with_progress(partial(_run, experiment))


def plan_experiment(experiment: Experiment) -> list[tuple[str, Estimate]]:
    """Return what a run would take, by piece of work; progress is on stderr."""
    return with_progress(partial(_plan, experiment))


def _run(experiment: Experiment, progress: Progress) -> list[dict[str, Any]]:
    read = _read(experiment, progress)
    from lmntk.experiment.run import run
    from lmntk.explanation.of_page import write_explained

    return run(experiment, progress, read, before_page=partial(write_explained, read=read))


def _plan(experiment: Experiment, progress: Progress) -> list[tuple[str, Estimate]]:
    read = _read(experiment, progress)
    from lmntk.experiment.plan import plan

    return plan(experiment, progress, read)


def _read(experiment: Experiment, progress: Progress) -> list[ReadTask]:
    from lmntk.experiment.reading import check_files, read_tasks

    progress.phase("reading the texts")
    read = read_tasks(experiment)
    check_files(experiment)
    return read
