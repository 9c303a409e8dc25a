"""Output folders that commit 60f2df1 wrote: pages and solvers read them, a run computes anew beside them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from earlier_runs import SOLVERS, WHOLE, experiment_of, unpack
from safetensors.numpy import load_file

from lmntk.experiment.run import run
from lmntk.runs.earlier import records_of
from lmntk.runs.reading import read_run
from lmntk.runs.records import SplitResults
from lmntk.runs.store import Store
from lmntk.solvers.baselines import names_of
from lmntk.system.progress import Silent

NOT_CHECKED = "is of an earlier format, whose files are not checksummed"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive's content, which nothing is written to."""
    return unpack(tmp_path_factory.mktemp("earlier") / "as-it-was")


@pytest.fixture(scope="module")
def facts(archive: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((archive / "facts.json").read_text())
    return content


@pytest.fixture
def folder(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy for a test, which is the current folder: the runs name their files from there."""
    copy = shutil.copytree(archive, tmp_path / "copy", symlinks=True)
    monkeypatch.chdir(copy)
    return copy


@pytest.fixture
def lmntk(command_line):
    return command_line


class Noting(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, line: str) -> None:
        self.notes.append(line)


def content_of(folder: Path) -> dict[str, bytes]:
    """Return the bytes of the files that the earlier format has, but for the tables of the whole folder."""
    names = ("cells", "kernels", "finetuning", "diagnosis", "models", "predictions")
    paths = [path for name in names for path in sorted((folder / name).rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def known_then(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows without the baselines that the first format did not know; there are some of each."""
    new = names_of("prompt")[1:]
    assert {row["method"] for row in rows} >= set(new)
    return [row for row in rows if row["method"] not in new]


def test_kernels_are_solved_to_the_rows_of_their_run(facts, folder, lmntk):
    code, out, errors = lmntk(
        "solve", "--kernels", "saved", "--task", "films", "--solvers", ",".join(SOLVERS), "--json"
    )
    assert code == 0 and errors.count("\n") == 1 and NOT_CHECKED in errors
    same = ("method", "formula", "solver", "metric", "dev", "test", "setting")
    solved, expected = (
        sorted(({name: row[name] for name in same} for row in rows), key=str)
        for rows in (known_then(json.loads(out)), facts["rows"]["saved"])
    )
    assert solved == expected


@pytest.mark.parametrize("name", ["reviews", "trained"])
def test_a_page_has_the_rows_and_says_that_nothing_was_compared(facts, folder, lmntk, name):
    before = content_of(folder / name)
    assert lmntk("report", name)[0] == 0
    page = (folder / name / "report.html").read_text()
    assert NOT_CHECKED in page and "damaged" not in page and "left out" not in page
    rows = read_run(folder / name).rows
    same = ("task", "seed", "mode", "method", "dev", "test")
    read, then = (
        sorted([row[each] for each in same] for row in part) for part in (rows, facts["rows"][name])
    )
    assert read == then
    assert content_of(folder / name) == before
    assert ("paper's three tests" in page) == (name == "trained")


def test_results_that_are_hidden_by_newer_ones_are_counted(folder, lmntk):
    """A split of this format beside them is enough for the others not to be read."""
    store = Store(folder / "saved")
    record = next(iter(records_of(store, SplitResults).values()))
    assert record is not None
    store.write_record(record, record.name)
    number = len(list((folder / "saved/cells").glob("*.json")))
    line = f"{number} results of an earlier format lie beside these in saved"
    (notes,) = ([note for note in read_run(folder / "saved").notes if "earlier format" in note],)
    assert len(notes) == 1 and notes[0].startswith(line)
    assert line in lmntk("solve", "--kernels", "saved", "--task", "no such task")[2]


def test_a_run_computes_anew_beside_it_and_says_so(archive, facts, folder):
    """The rows are those of then, and the kernels those of then but for rounding."""
    progress, before = Noting(), content_of(folder / "reviews")
    rows = run(experiment_of(WHOLE["reviews"], "reviews"), progress)
    said = [note for note in progress.notes if "format" in note]
    assert said == [f"'reviews' {NOT_CHECKED}: it stays, and its results are computed anew beside it"]
    assert known_then(json.loads(json.dumps(rows))) == facts["rows"]["reviews"]
    after = content_of(folder / "reviews")
    assert {name: after[name] for name in before} == before and set(after) > set(before)
    compared = 0
    for path in sorted((archive / "reviews/kernels").rglob("*.safetensors")):
        (again,) = (folder / "reviews/kernels").glob(f"{path.parent.name}-????????/{path.name}")
        for name, values in load_file(path).items():
            error = np.abs(load_file(again)[name] - values).max(initial=0)
            assert error <= 1e-6 * np.abs(values).max(initial=0)
            compared += 1
    assert compared > 12
    progress.notes.clear()
    assert json.loads(json.dumps(run(experiment_of(WHOLE["reviews"], "reviews"), progress))) == json.loads(
        json.dumps(rows)
    )
    assert not [note for note in progress.notes if "format" in note]
    assert NOT_CHECKED not in (folder / "reviews/report.html").read_text()


@pytest.mark.parametrize(
    "arguments",
    [
        ("kernel", "--factors", "kernel/scratch", "--out", "other"),
        ("predict", "saved", "few-test.jsonl", "--out", "out.jsonl"),
    ],
)
def test_what_nobody_reads_any_more_is_one_line(folder, lmntk, arguments):
    code, out, errors = lmntk(*arguments)
    assert (
        (code, out) == (2, "") and errors.strip().count("\n") == 0 < len(errors) and "Traceback" not in errors
    )
