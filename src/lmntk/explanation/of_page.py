"""The test texts that a run's page shows, with the training texts that speak for and against their predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.linalg import LinAlgError

from lmntk.errors import UserError
from lmntk.experiment.reading import ReadTask
from lmntk.explanation.answer import answer_from
from lmntk.explanation.asked import Question
from lmntk.explanation.of_run import RIDGES, RunSource
from lmntk.explanation.records import ExplanationRecord
from lmntk.explanation.written import contents_of
from lmntk.runs.reading import Run, read_run
from lmntk.runs.records import ExplainedSplit, ExplainedTexts
from lmntk.runs.store import Store
from lmntk.system.progress import Progress, Silent

TEXTS, MOST_TASKS, MOST_ROWS = 3, 8, 3000
NOT_EXPLAINED = (UserError, MemoryError, LinAlgError)  # the page is written without these texts


def write_explained(folder: Path, progress: Progress, read: Sequence[ReadTask] | None = None) -> None:
    """Write ``explained.json`` into a run's folder: of each task the three test texts that are decided least well.

    The method is ridge regression on the split that is best on dev. What is there of tasks that this run did not ask for stays, where the
    results are the same. A task that cannot be explained is left out, and the reason is noted.

    Args:
        folder: of the run.
        progress: told the reasons.
        read: the run's tasks, where they were read already.

    Cost: a few factorizations of (N C)^3 a task. Beyond eight tasks, and of a task beyond 3,000 rows, nothing is done.
    """
    run = read_run(folder)
    best = best_splits(run)
    asked = set(best) if read is None else {task.name for task in read}
    explained: list[ExplainedSplit] = []
    for task, (split, row) in best.items():
        if task not in asked:
            continue
        try:
            if len(explained) >= MOST_TASKS:
                raise UserError(f"it has those of {MOST_TASKS} tasks; `lmntk explain` explains more")
            explained.append(_explained(run, split, row, read))
        except NOT_EXPLAINED as error:
            progress.note(f"the page shows no test texts of {task}: {error}")
    others = [ExplainedSplit.model_validate(each) for each in run.explained if each["task"] not in asked]
    explained = [*others[: MOST_TASKS - len(explained)], *explained]
    Store(folder).write_json(ExplainedTexts.FILE, ExplainedTexts(splits=explained).model_dump())


def _explained(
    run: Run, split: str, row: Mapping[str, Any], read: Sequence[ReadTask] | None
) -> ExplainedSplit:
    """Return the test texts of a split that a ridge solution decides least well.

    Raises:
        UserError: they cannot be explained.
    """
    results = run.splits[split]
    classes = len(results["labels"] or set(results["train_labels"]))
    rows = len(results["train_labels"]) * (1 if classes <= 2 else classes)
    if rows > MOST_ROWS:  # before any kernel is read
        raise UserError(f"its kernel has {rows} rows; `lmntk explain` explains it")
    question = Question(run.folder, most=TEXTS, split=split, method=row["method"])
    record = answer_from(RunSource(question, Silent(), read), question)
    assert isinstance(record, ExplanationRecord)
    return ExplainedSplit(
        split=split,
        results=results["key"],
        task=row["task"],
        method=row["method"],
        texts=contents_of(record)["texts"],
        total=len(results["test_labels"]),
    )


def best_splits(run: Run) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return of each task the split and the row of ridge regression that is best on dev, of those whose kernels are there."""
    best: dict[str, tuple[str, dict[str, Any]]] = {}
    for name, record in run.splits.items():
        for row in record["rows"]:
            if row["method"] not in RIDGES or row["test"] is None or not run.kernel_folders(name):
                continue
            known = best.get(row["task"])
            if known is None or (row["dev"] or 0.0) > (known[1]["dev"] or 0.0):
                best[row["task"]] = name, row
    return best
