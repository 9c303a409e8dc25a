"""The test texts on a run's page: those that ``lmntk explain`` would name, of the kernels that are there now."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from lmntk.experiment.configuration import make_experiment
from lmntk.experiment.reading import read_tasks
from lmntk.experiment.run import run
from lmntk.explanation import of_page
from lmntk.explanation.answer import answer
from lmntk.explanation.asked import Question
from lmntk.explanation.of_page import write_explained
from lmntk.explanation.records import ExplanationRecord
from lmntk.reports.page import build_page
from lmntk.runs.reading import read_run
from lmntk.runs.store import Store
from lmntk.system.progress import Progress, Silent

HEADING = "Test texts, and the texts that their predictions are owed to"


class Notes(Silent):
    """Keep what is noted."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, line: str) -> None:
        """Keep a line."""
        self.lines.append(line)


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The settings of a run of two splits, which is done, without what the page explains."""
    root = tmp_path_factory.mktemp("run")
    settings: dict[str, Any] = {
        "model": str(tiny.write_model(root / "model")),
        "own_tasks": [tiny.films(root, 24, 6)],
        "k": [4],
        "seeds": [13, 21],
        "formulas": ["sgd"],
        "dtype": "float64",
        "out": root / "out",
    }
    run(make_experiment(settings), Silent())
    return settings


@pytest.fixture
def folder(values: dict[str, Any], tmp_path: Path) -> Path:
    """A copy of that run's folder."""
    return Path(shutil.copytree(values["out"], tmp_path / "out"))


def test_without_the_file_the_page_has_none(folder: Path) -> None:
    assert read_run(folder).explained == []
    assert HEADING not in build_page([folder])


def test_the_page_shows_what_explain_names(folder: Path) -> None:
    progress = Notes()
    write_explained(folder, progress)
    assert progress.lines == []
    (explained,) = read_run(folder).explained  # one split a task
    rows = {name: record["rows"] for name, record in read_run(folder).splits.items()}
    dev = {
        name: row["dev"]
        for name, of_split in rows.items()
        for row in of_split
        if row["method"] == "sgd ridge"
    }
    assert dev[explained["split"]] == max(dev.values())
    record = answer(Question(folder, most=3, split=explained["split"], method="sgd ridge"), Silent())
    assert isinstance(record, ExplanationRecord)
    assert [text["text"] for text in explained["texts"]] == [text.text for text in record.texts]
    assert [text["margin"] for text in explained["texts"]] == pytest.approx(
        [text.margin for text in record.texts]
    )
    assert len(explained["texts"]) == 3
    page = build_page([folder])
    assert HEADING in page
    for text in record.texts:
        assert text.text in page


def test_texts_of_other_results_are_not_shown(folder: Path) -> None:
    write_explained(folder, Silent())
    path = folder / "explained.json"
    content = json.loads(path.read_text())
    assert read_run(folder).explained
    content["splits"][0]["results"] = "0" * 64
    Store(folder).write_json("explained.json", content)
    assert read_run(folder).explained == []
    assert HEADING not in build_page([folder])


def test_a_task_that_another_run_asked_for_keeps_its_texts(values: dict[str, Any], folder: Path) -> None:
    """Two runs into one folder: the second writes its own task's, and says nothing of the first's."""
    from lmntk.cli.running import run_experiment

    write_explained(folder, Silent())
    first = read_run(folder).explained
    books = {**values["own_tasks"][0], "name": "books"}
    settings = values | {"out": folder, "own_tasks": [books], "seeds": [13]}
    progress = Notes()
    read = read_tasks(make_experiment(settings))
    run(make_experiment(settings), Silent(), read)
    write_explained(folder, progress, read)
    assert progress.lines == []
    explained = read_run(folder).explained
    assert [each["task"] for each in explained] == ["films", "books"]
    assert explained[:1] == first
    run_experiment(make_experiment(settings))
    assert read_run(folder).explained == explained


def test_more_tasks_than_a_page_shows_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_page, "MOST_TASKS", 0)
    progress = Notes()
    write_explained(folder, progress)
    assert progress.lines == [
        "the page shows no test texts of films: it has those of 0 tasks; `lmntk explain` explains more"
    ]


@pytest.mark.parametrize(
    "error", [MemoryError("no memory is left"), np.linalg.LinAlgError("Singular matrix")]
)
def test_no_error_of_these_texts_costs_the_page(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*given: Any) -> None:
        raise error

    monkeypatch.setattr(of_page, "answer_from", fail)
    progress = Notes()
    write_explained(folder, progress)
    assert progress.lines == [f"the page shows no test texts of films: {error}"]


def test_a_damaged_file_is_left_out(folder: Path) -> None:
    write_explained(folder, Silent())
    path = folder / "explained.json"
    path.write_text(path.read_text()[:-40])
    assert HEADING not in build_page([folder])


def test_what_cannot_be_explained_is_noted_and_left_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_page, "MOST_ROWS", 7)
    progress: Progress = Notes()
    write_explained(folder, progress)
    assert isinstance(progress, Notes)
    (line,) = progress.lines
    assert line == "the page shows no test texts of films: its kernel has 8 rows; `lmntk explain` explains it"
    assert read_run(folder).explained == []


def test_texts_that_are_gone_are_noted(values: dict[str, Any], folder: Path) -> None:
    file = Path(values["own_tasks"][0]["train"])
    kept = file.read_bytes()
    file.unlink()
    try:
        progress = Notes()
        write_explained(folder, progress)
    finally:
        file.write_bytes(kept)
    (line,) = progress.lines
    assert line.startswith("the page shows no test texts of films: explain: the texts of films-k4-seed")


def test_the_command_writes_it(
    values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmntk.cli.running import run_experiment

    run_experiment(make_experiment(values | {"out": tmp_path / "out", "seeds": [13]}))
    assert HEADING in (tmp_path / "out" / "report.html").read_text()


def test_of_several_settings_in_a_folder_the_last_ones_are_explained(
    values: dict[str, Any], folder: Path
) -> None:
    run(make_experiment(values | {"out": folder, "dtype": "float32"}), Silent())
    assert len(list((folder / "kernels").iterdir())) == 4
    progress = Notes()
    write_explained(folder, progress)
    assert progress.lines == []
    (explained,) = read_run(folder).explained
    assert explained["results"] == read_run(folder).splits[explained["split"]]["key"]
