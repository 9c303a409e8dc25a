"""Mistakes in a question to a fit, each a line: what is not there, what cannot be meant, a folder without what is asked."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from kept_fits import NEW

CommandLine = Callable[..., tuple[int, str, str]]

MISTAKES: dict[str, tuple[tuple[str, ...], str]] = {
    "a text that is not there": (("--without", "a great flm"), r"not in the training set of .*row 1, 'a great film'"),
    "a row that is not there": (("--without-rows", "99"), r"row 99 is not in the training set of .*1 to 8"),
    "no row": (("--without-rows", "two"), r"'two' is not a row; give numbers from 1"),
    "no rows": (("--without-rows", ""), r"is not a row"),
    "no class": (("--relabel", "1=ugly"), r"'ugly' is no class of .*bad, good"),
    "the same class": (("--relabel", "1=good"), r"row 1 is labelled 'good' already"),
    "no label": (("--relabel", "1"), r"'1' is not ROW=CLASS"),
    "two labels": (("--relabel", "1=bad,1=good"), r"row 1 is given two labels"),
    "left out and relabelled": (("--relabel", "1=bad", "--without-rows", "1"), r"row 1 is also left out by this command"),
    "no orders": (("--shapley", "some"), r"'some' is not auto, exact"),
    "one order": (("--shapley", "1"), r"'1' is not auto, exact"),
    "Shapley values of a change": (("--shapley", "auto", "--without-rows", "1"), r"explains predictions, not a change"),
    "a fit has no splits": (("--split", "x"), r"split: a fit has only one solution"),
    "no such trust": (("--trust", "me"), r"'me' is not known; use --trust check"),
    "an empty text": (("--text", " "), r"--text is empty"),
    "no such file": (("nowhere.csv",), r"explain: .*nowhere\.csv"),
    "another model": (("--text", "a film", "--model", "OTHER"), r"has other weights than the model"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line(
    fits: Callable[[str], Path], tmp_path: Path, command_line: CommandLine, mistake: str
) -> None:
    options, message = MISTAKES[mistake]
    if "OTHER" in options:
        other = tiny.write_model(tmp_path / "other", seed=1)
        options = tuple(str(other) if option == "OTHER" else option for option in options)
    code, out, err = command_line("explain", fits("prompt"), *options, "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert re.search(message, err.splitlines()[-1])
    assert len([line for line in err.splitlines() if line.startswith("lmntk:")]) == 1


def test_too_many_texts_to_enumerate_are_a_line(
    fits: Callable[[str], Path], tmp_path: Path, command_line: CommandLine
) -> None:
    code, out, err = command_line(
        "explain", fits("head"), "--text", NEW[0], "--shapley", "exact", "--out", tmp_path
    )
    assert (code, out) == (2, "")
    assert "12 training texts have 2^12 parts" in err
    assert "--shapley auto" in err


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        ("no training", r"does not hold what it was trained on .*lmntk fit FILE --out"),
        ("no kernel", r"the kernel of .* is gone .*lmntk fit FILE --out"),
        ("another kernel", r"is of another key"),
        ("a flipped digit", r"is damaged \(its checksum differs\)"),
        ("nothing", r"holds no fit and no run; make one with `lmntk fit FILE"),
    ],
)
def test_a_folder_without_what_is_asked_says_which_command_keeps_it(
    fits: Callable[[str], Path], tmp_path: Path, command_line: CommandLine, harm: str, message: str
) -> None:
    folder = tmp_path / "fit"
    shutil.copytree(fits("prompt"), folder)
    record = json.loads((folder / "training.json").read_text())
    if harm == "no training":
        (folder / "training.json").unlink()
    elif harm == "no kernel":
        (folder / record["kernel"]).unlink()
    elif harm == "another kernel":
        other = fits("head")
        kernel = json.loads((other / "training.json").read_text())["kernel"]
        shutil.copy(other / kernel, folder / record["kernel"])
    elif harm == "a flipped digit":
        text = (folder / "training.json").read_text()
        (folder / "training.json").write_text(text.replace('"numbers": [\n  1', '"numbers": [\n  0', 1))
    else:
        shutil.rmtree(folder)
        folder.mkdir()
    code, out, err = command_line("explain", folder)
    assert (code, out) == (2, "")
    assert re.search(message, err.splitlines()[-1])
