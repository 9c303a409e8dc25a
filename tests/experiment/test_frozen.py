"""What an earlier commit wrote: today's code comes to the same numbers, and goes on with those folders without doing anything anew.

``frozen_runs`` says what was run, ``tools/freeze.py`` ran it. float32 numbers of another processor or another library differ in the last
bits, so arrays are compared to the bit where ``machine`` is the one that they were made on, and to 1e-6 elsewhere; there the weights
of trainings are not compared, in which Adam makes of rounding noise a step as large as any. Rows, with their chosen settings, and
predictions are the same everywhere.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import frozen_runs
import numpy as np
import pytest
from frozen_runs import ALIKE, COMMANDS, CUT, WHOLE, counts_of, machine, unpack
from safetensors.numpy import load_file

from lmntk.__main__ import main  # as the frozen code has it too

ELSEWHERE = 1e-6  # relative to the largest number of an array
SUMMED = 1e-14  # the same, of a run that was killed: a kernel's groups are summed in the order in which its tiles' files have them
DIGITS = re.compile(r"-[0-9a-f]{8}(?=[./]|$)")  # of a key, at the end of a file's or a folder's name
WORK = ["captured texts", "kernels", "solutions", "trainings", "training steps", "diagnoses"]
OF_A_RECORD = {
    "format",
    "key",
    "content",
    "setup",
    "about",
    "versions",
    "seconds",
}  # hashes, times: not what was found


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive's content, which nothing is written to."""
    return unpack(tmp_path_factory.mktemp("frozen") / "as-it-was")


@pytest.fixture(scope="module")
def facts(frozen: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((frozen / "facts.json").read_text())
    return found


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of its own for a test, which is the current folder: the runs name their files from there."""
    found = unpack(tmp_path_factory.mktemp("frozen") / "copy")
    monkeypatch.chdir(found)
    return found


@pytest.fixture
def lmntk(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The command line in this process, which works and returns what it prints."""

    def works(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["lmntk", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, errors = capsys.readouterr()
        assert ended.value.code == 0, errors
        return str(out)

    return works


def files(folder: Path, ending: str) -> dict[str, Path]:
    """Returns the files of an output folder by their paths without the digits of a key, but for what work needs while it runs."""
    paths = [
        path for path in sorted(folder.rglob(f"*{ending}")) if "scratch" not in path.relative_to(folder).parts
    ]
    found = {DIGITS.sub("", str(path.relative_to(folder))): path for path in paths}
    assert len(found) == len(paths)
    return found


def assert_same_arrays(folder: Path, expected: Path, here: bool) -> None:
    """Fails where an array is not as it was: to the bit on the machine that they were frozen on."""
    found, before = files(folder, ".safetensors"), files(expected, ".safetensors")
    assert set(found) == set(before)
    assert found or not (expected / "kernels").exists()
    for name in found:
        assert_same_file(found[name], before[name], None if here else ELSEWHERE)


def assert_same_file(found: Path, expected: Path, tolerance: float | None) -> None:
    arrays, before = load_file(found), load_file(expected)
    assert set(arrays) == set(before), found
    for label, values in before.items():
        assert arrays[label].dtype == values.dtype and arrays[label].shape == values.shape, (found, label)
        if tolerance is None:
            assert arrays[label].tobytes() == values.tobytes(), (found, label)
        elif tolerance != ELSEWHERE or "finetuning" not in found.parts:
            error, size = np.abs(arrays[label] - values).max(initial=0), np.abs(values).max(initial=0)
            assert error <= tolerance * size, (found, label, error, size)


def assert_same_records(folder: Path, expected: Path, here: bool) -> None:
    """Fails where what is written of a training or a diagnosis is not as it was; new entries may stand beside the old."""
    for part in ("finetuning", "diagnosis"):
        found, before = files(folder / part, ".json"), files(expected / part, ".json")
        assert set(found) == set(before)
        for name, path in before.items():
            assert_same_record(json.loads(found[name].read_text()), json.loads(path.read_text()), here, name)


def assert_same_record(found: Any, before: Any, here: bool, where: str) -> None:
    if isinstance(before, dict):
        for name in set(before) - OF_A_RECORD:
            assert_same_record(found[name], before[name], here, f"{where}: {name}")
    elif isinstance(before, list):
        assert len(found) == len(before), where
        for index, (now, then) in enumerate(zip(found, before, strict=True)):
            assert_same_record(now, then, here, f"{where} {index}")
    elif isinstance(before, str):
        assert DIGITS.sub("", found) == DIGITS.sub("", before), where
    elif here or not isinstance(before, float):
        assert found == before, where
    else:
        assert found == pytest.approx(before, rel=1e-3, abs=1e-5), where


def assert_same_predictions(folder: Path, expected: Path) -> None:
    found, before = files(folder / "predictions", ".tsv"), files(expected / "predictions", ".tsv")
    assert set(found) == set(before) > set()
    assert {name: path.read_text() for name, path in found.items()} == {
        name: path.read_text() for name, path in before.items()
    }


@pytest.mark.parametrize("name", list(WHOLE))
def test_the_numbers_are_the_same(frozen, facts, folder, name):
    shutil.rmtree(folder / name)
    rows, counts = counts_of(WHOLE[name], name)
    assert rows == facts["rows"][name]
    here = machine() == facts["machine"]
    assert_same_arrays(folder / name, frozen / name, here)
    assert_same_records(folder / name, frozen / name, here)
    assert_same_predictions(folder / name, frozen / name)
    done = {what for what in WORK if counts.get(what)}
    assert done == set(
        WORK if "finetune" in WHOLE[name] else WORK[:3]
    )  # else a count below would say nothing


@pytest.mark.parametrize("name", list(WHOLE))
def test_a_finished_run_is_found_again_and_nothing_is_computed(frozen, facts, folder, name):
    rows, counts = counts_of(WHOLE[name], name)
    assert rows == facts["rows"][name]
    assert counts == {}
    assert_same_arrays(folder / name, frozen / name, here=True)
    assert_same_records(folder / name, frozen / name, here=True)
    assert_same_predictions(folder / name, frozen / name)


@pytest.mark.parametrize("name", list(CUT))
def test_a_killed_run_goes_on_with_what_is_missing_alone(frozen, facts, folder, name):
    settings = CUT[name][0]
    rows, counts = counts_of(settings, name)
    assert rows == facts["rows"][name]
    left = facts["counts"][name]
    more = {what: count for what, count in counts.items() if count > left.get(what, 0)}
    assert not more, f"the frozen code itself had {left} left to do"
    after = files(folder / name, ".safetensors")
    for at, before in files(frozen / name, ".safetensors").items():
        assert_same_file(after[at], before, SUMMED)
    if name in ALIKE:
        here = machine() == facts["machine"]
        whole, found = files(frozen / ALIKE[name], ".safetensors"), files(folder / name, ".safetensors")
        assert set(found) <= set(whole)
        for at, path in found.items():
            assert_same_file(path, whole[at], SUMMED if here else ELSEWHERE)
    assert (folder / name / "scratch").exists() == settings.get("keep_factors", False)
    assert not list((folder / name).rglob("tiles"))


def test_the_frozen_work_says_something(facts):
    """Of each kind of work the killed runs had something left, and the finished part of them something done."""
    left = {what for counts in facts["counts"].values() for what, count in counts.items() if count}
    assert left == set(WORK)
    assert set(facts["counts"]) == set(CUT)


@pytest.mark.parametrize("name", list(COMMANDS))
def test_commands_write_the_same(frozen, facts, folder, lmntk, name):
    here = machine() == facts["machine"]
    lmntk(*COMMANDS[name], f"again-{name}")
    if name.endswith(".jsonl"):
        found, before = ((folder / path).read_text().splitlines() for path in (f"again-{name}", name))
        for line, expected in zip(found, before, strict=True):
            assert_same_record(json.loads(line), json.loads(expected), here, name)
    else:
        assert_same_arrays(folder / f"again-{name}", frozen / name, here)


def test_kernels_that_are_there_are_not_computed_again(frozen, folder, lmntk):
    with frozen_runs.counting() as counts:
        lmntk(*COMMANDS["kernel"], "kernel")
    assert counts == {}
    assert_same_arrays(folder / "kernel", frozen / "kernel", here=True)


def test_frozen_kernels_are_solved_to_the_rows_of_their_run(facts, folder, lmntk):
    solved = json.loads(
        lmntk(
            "solve",
            "--kernels",
            "saved",
            "--task",
            "films",
            "--solvers",
            ",".join(frozen_runs.SOLVERS),
            "--json",
        )
    )
    same = ("method", "formula", "solver", "metric", "dev", "test", "setting")
    found, expected = (
        sorted(({name: row[name] for name in same} for row in rows), key=str)
        for rows in (solved, facts["rows"]["saved"])
    )
    assert found == expected


@pytest.mark.parametrize("name", ["reviews", "trained"])
def test_a_frozen_run_has_a_page_still(folder, lmntk, name):
    lmntk("report", name)
    page = (folder / name / "report.html").read_text()
    assert "damaged" not in page and "left out" not in page
