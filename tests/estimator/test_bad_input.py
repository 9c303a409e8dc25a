"""What people's files hold: odd texts are fitted and classified, and folders that will not do are one line and exit code 2."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from few_texts import LABELS, TEXTS

from lmntk import TangentClassifier, UserError
from lmntk.estimator import choice
from lmntk.prediction.description import DESCRIPTION
from lmntk.system.kept import read_record, write_record

CommandLine = Callable[..., tuple[int, str, str]]
ODD = {
    "emoji": "\U0001f600 great \U0001f44d\U0001f3fd",
    "right to left": "\u05e1\u05e8\u05d8 \u0646\u0647\u0627\u064a\u0629 great",
    "a megabyte": "a great film . " * 70_000,
    "NUL bytes": "a great\x00 film",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny masked model."""
    return tiny.write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold texts out once: what is tested here is not the estimate."""
    monkeypatch.setattr(choice, "ROUNDS", 1)


def write_table(path: Path, rows: list[tuple[str, str]]) -> Path:
    """Write a table of texts and labels."""
    with path.open("w", encoding="utf8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return path


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name == "a megabyte" else []) for name in ODD]
)
def test_an_odd_text_is_fitted_and_classified(
    model: Path, tmp_path: Path, command_line: CommandLine, name: str
) -> None:
    table = write_table(tmp_path / "texts.csv", [*zip(TEXTS, LABELS, strict=True), (ODD[name], "good")])
    code, _, err = command_line("fit", table, "--model", model, "--out", tmp_path / "fit")
    assert code == 0, err
    code, _, err = command_line("predict", tmp_path / "fit", table, "--out", tmp_path / "out.csv")
    assert code == 0, err
    csv.field_size_limit(10**7)
    with (tmp_path / "out.csv").open(encoding="utf8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[-1]["text"] == ODD[name]
    assert rows[-1]["label"] in ("good", "bad")


@pytest.fixture(scope="module")
def fitted(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fit's folder of this version."""
    folder = tmp_path_factory.mktemp("fits") / "fit"
    TangentClassifier(str(model), regularization=0.1).fit(TEXTS, LABELS).save(folder)
    return folder


@pytest.mark.parametrize(
    ("file", "format_now"), [(DESCRIPTION, "lmntk predictor 1"), ("fit.json", "lmntk fit 0")]
)
def test_a_folder_of_another_version_is_named(
    fitted: Path, tmp_path: Path, command_line: CommandLine, file: str, format_now: str
) -> None:
    written = read_record(fitted / file)
    write_record(fitted / file, written | {"format": format_now})
    try:
        if file == DESCRIPTION:
            texts = write_table(tmp_path / "texts.csv", [("a film", "good")])
            code, out, err = command_line("predict", fitted, texts, "--out", tmp_path / "out.csv")
            assert (code, out, len(err.splitlines())) == (2, "", 1), err
            assert repr(format_now) in err
        else:
            with pytest.raises(UserError, match=format_now):
                TangentClassifier.load(fitted)
    finally:
        write_record(fitted / file, written)


@pytest.mark.parametrize("command", ["fit", "audit", "subspace"])
def test_a_folder_that_cannot_be_written_to_is_a_line(
    model: Path, tmp_path: Path, command_line: CommandLine, command: str
) -> None:
    table = write_table(tmp_path / "texts.csv", list(zip(TEXTS, LABELS, strict=True)))
    out_folder = "/proc/lmntk"  # where nobody makes a folder, root neither
    small = ("--targets", "query+value", "--ranks", "1") if command == "subspace" else ()
    code, out, err = command_line(command, table, "--model", model, *small, "--out", out_folder)
    assert (code, out) == (2, ""), err
    assert "/proc" in err.splitlines()[-1]
    assert "Traceback" not in err
