"""The test texts that a run's page shows, with the training texts that speak for and against their predictions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

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


def write_explained(folder: Path, progress: Progress, read: Sequence[ReadTask] | None = None) -> None:
    """Write ``explained.json`` into a run's folder: of each task the three test texts that are decided least well.

    The method is ridge regression on the split that is best on dev. A task that cannot be explained is left out, and the reason is noted.

    Args:
        folder: of the run.
        progress: told the reasons.
        read: the run's tasks, where they were read already.

    Cost: a factorization of (N C)^3 a task; beyond 3,000 rows the task is left out.
    """
    run = read_run(folder)
    explained = []
    for split, row in best_splits(run):
        try:
            question = Question(folder, most=TEXTS, split=split, method=row["method"])
            source = RunSource(question, Silent(), read)
            rows = source.solvable.logits["train"].size
            if rows > MOST_ROWS:
                raise UserError(f"its kernel has {rows} rows; `lmntk explain` explains it")
            record = answer_from(source, question)
        except UserError as error:
            progress.note(f"the page shows no test texts of {row['task']}: {error}")
            continue
        assert isinstance(record, ExplanationRecord)
        explained.append(
            ExplainedSplit(
                split=split,
                kernels=run.splits[split]["kernels"],
                task=row["task"],
                method=row["method"],
                texts=contents_of(record)["texts"],
                total=len(run.splits[split]["test_labels"]),
            )
        )
    Store(folder).write_json(ExplainedTexts.FILE, ExplainedTexts(splits=explained).model_dump())


def best_splits(run: Run) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield of each task the split and the row of ridge regression that is best on dev, at most so many tasks as a page shows."""
    best: dict[str, tuple[str, dict[str, Any]]] = {}
    for name, record in run.splits.items():
        for row in record["rows"]:
            if row["method"] not in RIDGES or row["test"] is None or not run.kernel_folders(name):
                continue
            known = best.get(row["task"])
            if known is None or (row["dev"] or 0.0) > (known[1]["dev"] or 0.0):
                best[row["task"]] = name, row
    yield from list(best.values())[:MOST_TASKS]
