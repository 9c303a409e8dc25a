"""The files that a run writes beside its records: the settings, the tables, the predictions and the page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lmntk.diagnosis.over_splits import FILE, comparisons_in, over_splits, sentences
from lmntk.errors import UserError
from lmntk.experiment.preparation import PreparedTask
from lmntk.experiment.session import Session
from lmntk.experiment.steps.base import Subject
from lmntk.experiment.steps.diagnose import diagnosis_setup
from lmntk.experiment.steps.finetune import finetunings_of, methods_of_split, training_setup
from lmntk.experiment.steps.solve import results_of
from lmntk.reports.page import write_page
from lmntk.reports.results import write_reports
from lmntk.runs.earlier import configuration_of
from lmntk.runs.reading import read_run
from lmntk.runs.records import FORMAT, Row
from lmntk.runs.split import Split
from lmntk.runs.store import CONFIGURATION, Store
from lmntk.system.hashing import short, versions
from lmntk.system.progress import Progress
from lmntk.tasks.class_words import class_line

REMEMBERED = 50  # earlier settings of a folder


class Reporter:
    """Write what people read, from the records in the output folder.

    Args:
        session: the run.
    """

    def __init__(self, session: Session) -> None:
        self.session = session

    def begin(self) -> None:
        """Write the settings down."""
        self.session.store.write_json(CONFIGURATION, self._configuration())

    def rows(self, task: PreparedTask, split: Split) -> list[dict[str, Any]]:
        """Return a split's rows of ``results.csv``: of the kernels' methods, then of the fine-tunings."""
        results = results_of(self.session, task, split)
        if results is None:
            return []
        trained = finetunings_of(self.session, task, split)
        rows: list[Row] = [*results.rows, *(record.row(results.head) for record in trained)]
        return [row.model_dump(exclude={"setup"}) for row in rows]

    def write_tables(self) -> None:
        """Write the tables, and the verdicts where there are diagnoses, of all that the folder holds of the model."""
        session, run = self.session, read_run(self.session.store.folder)
        titles = run.titles() | {task.name: task.title for task in session.tasks}
        planned = {split.name for _, split in session.planned}
        others = len(set(run.splits) - planned)
        beside = f", and {others} of earlier runs on this model" if others else ""
        facts = {
            "model": session.experiment.model,
            "weights": session.pretrained.fingerprint[:16],
            "parameters": session.chosen.describe(),
            "splits": f"{len(planned & set(run.splits))} of {len(planned)} finished{beside}",
        }
        if (gguf := session.pretrained.gguf) is not None:
            facts["dequantised from"] = f"{gguf.path.name} ({gguf.quantisation}), sha256 {gguf.sha256}"
        modes = session.experiment.modes
        facts |= {f"classes of {task.name}": ", ".join(task.meaning(modes)) for task in session.tasks}
        facts |= {
            f"texts of {task.name}": "; ".join(remarks)
            for task in session.tasks
            if (remarks := session.remarks(task))
        }
        computed = {json.dumps(results["versions"], sort_keys=True) for results in run.splits.values()}
        facts |= {"computed with": " and ".join(sorted(computed))}
        facts |= {"left out": " ".join(run.notes)} if run.notes else {}
        verdicts = over_splits(run.diagnoses, comparisons_in(run.finetunings, run.splits), titles)
        if run.diagnoses or session.experiment.diagnose:
            session.store.write_json(FILE, verdicts)
        write_reports(session.store, run.rows, titles, facts, sentences(verdicts) if run.diagnoses else [])

    def end(self, before_page: Callable[[Path, Progress], None] | None = None) -> None:
        """Write everything once more, the predictions and the page too; ``before_page`` writes what else the page shows."""
        self.session.progress.phase("writing the tables and the page")
        for task, split in self.session.planned:
            self.write_predictions(task, split)
        self.write_tables()
        if before_page is not None:
            before_page(self.session.store.folder, self.session.progress)
        missing = write_page(self.session.store.folder)
        if missing:
            self.session.progress.note(missing)

    def write_predictions(self, task: PreparedTask, split: Split) -> None:
        """Write each method's predictions of a split's test texts as a table; a training that diverged has none."""
        results = results_of(self.session, task, split)
        if results is None:
            return
        known = results.predictions  # in the order of the rows
        columns = {row.method: known[row.method] for row in results.rows if row.method in known}
        trained = finetunings_of(self.session, task, split)
        columns |= {
            record.method: record.predictions
            for record in trained
            if len(record.predictions) == len(split.test)
        }
        names = [" ".join(label.split()) for label in task.labels]  # a tab would begin another column
        table = [("row", "label", *columns)]
        for row, *classes in zip(split.test, results.test_labels, *columns.values(), strict=True):
            table.append((str(row), *(names[number] for number in classes)))
        lines = ["\t".join(line) for line in table]
        name = f"predictions/{split.name}-{short(results.key)}.tsv"
        self.session.store.write_text(name, "\n".join(lines) + "\n")

    def _configuration(self) -> dict[str, Any]:
        """Return the settings, and those of earlier runs of the model in the folder, the latest first, each once."""
        session = self.session
        now = session.experiment.model_dump(mode="json")
        before = configuration_of(session.store)
        earlier: list[Any] = []
        for settings in [before.experiment, *before.earlier]:
            # the folder may have been moved
            moved = settings | {"out": now["out"]}
            if moved.get("model") == now["model"] and moved not in (now, *earlier):
                earlier.append(moved)
        return {
            "format": FORMAT,
            "experiment": now,
            "versions": versions(),
            "weights": session.pretrained.fingerprint,
            "setups": list(dict.fromkeys([*self._setups(), *before.setups])),
            "texts": before.texts | {task.name: self._said_of(task) for task in session.tasks},
            "earlier": earlier[:REMEMBERED],
        }

    def _said_of(self, task: PreparedTask) -> list[str]:
        """Return what the page says of a task's texts: the classes first."""
        words = task.words(self.session.experiment.modes)
        return [class_line(task.labels, words, task.name), *self.session.remarks(task)]

    def _setups(self) -> list[str]:
        """Return the setups of what is asked for; see ``lmntk.runs.keys``."""
        session, setups = self.session, []
        methods = methods_of_split(session.experiment, session.chosen, 0)
        subjects: list[Subject] = [*methods, *([] if session.given is None else [session.given])]
        for task in session.tasks:
            for mode in session.experiment.modes:
                keys = session.keys(task, next(split for split in task.splits if split.mode == mode))
                setups.append(keys.setup("baseline"))
                if session.methods:
                    setups.append(keys.setup("kernel"))
                setups += [training_setup(keys, method) for method in methods]
                setups += [diagnosis_setup(keys, subject) for subject in subjects]
        return setups


def verdicts_of(folder: Path) -> dict[str, Any]:
    """Return the verdicts and comparisons that a run with ``diagnose`` left; see ``over_splits``.

    Raises:
        UserError: there are none.
    """
    verdicts = Store(folder).read_json(FILE)
    if not isinstance(verdicts, dict):
        raise UserError(f"verdicts: there are none in {str(folder)!r}; run `lmntk diagnose`")
    return verdicts
