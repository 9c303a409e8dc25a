"""Predicted shares of classes beside the labelled ones: by hand, and in what ``lmntk predict`` says of a shifted file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny

from lmntk.prediction.shares import compare_shares

CommandLine = Callable[..., tuple[int, str, str]]
TEXTS = {
    "good": ("great", "fun", "happy", "great fun", "fun and happy"),
    "bad": ("terrible", "dull", "sad", "bad and sad", "very dull"),
}


@pytest.mark.parametrize(
    ("predicted", "labelled", "p", "differ"),
    [
        ([50, 50], [8, 8], 1.0, False),
        # (n - 50)^2 / 50 twice: 2 x 16^2 / 50 = 10.24, of a normal's square beyond 3.2: .00137; 2 x 17^2 / 50 = 11.56: .00067
        ([66, 34], [8, 8], 0.00137, False),
        ([67, 33], [8, 8], 0.00067, True),
        ([33, 67], [8, 8], 0.00067, True),
        ([75, 25], [12, 4], 1.0, False),
        ([9, 0], [8, 8], None, False),
        # 30 each expected: (16^2 + 4^2 + 12^2) / 30 = 416 / 30 of two degrees: exp(-416 / 60)
        ([46, 26, 18], [5, 5, 5], 0.000975, True),
    ],
)
def test_by_hand(predicted: list[int], labelled: list[int], p: float | None, differ: bool) -> None:
    compared = compare_shares("abc"[: len(predicted)], predicted, labelled)
    assert compared["p"] == (p if p is None else pytest.approx(p, rel=1e-2))
    assert compared["differ"] == differ


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny masked model."""
    return tiny.write_model(tmp_path_factory.mktemp("model"))


def test_a_shifted_file_is_named_and_one_that_is_not_is_not(
    model: Path, tmp_path: Path, command_line: CommandLine
) -> None:
    rows = [f"{text},{label}" for label, texts in TEXTS.items() for text in texts]
    (tmp_path / "labelled.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    code, out, err = command_line(
        "fit", tmp_path / "labelled.csv", "--model", model, "--out", tmp_path / "fit"
    )
    assert code == 0, err
    assert "classes are equally frequent" in out.replace("\n  ", " ")
    assert "classes are equally frequent" in (tmp_path / "fit/report.html").read_text()
    said = {}
    for name, labels in {"alike": ("good", "bad"), "shifted": ("good", "good")}.items():
        file = tmp_path / f"{name}.csv"
        file.write_text("\n".join(["text", *(text for label in labels for text in TEXTS[label] * 3)]) + "\n")
        code, out, err = command_line(
            "predict", tmp_path / "fit", file, "--out", tmp_path / "out.csv", "--json"
        )
        assert code == 0, err
        said[name] = json.loads(out)["shares"], err
    shares, err = said["alike"]
    assert not shares["differ"]
    assert "more than chance allows" not in err
    shares, err = said["shifted"]
    assert shares["differ"]
    assert shares["labelled"] == {"bad": 0.5, "good": 0.5}
    assert shares["predicted"]["good"] > 0.9
    assert "and 50 % of the labelled ones, more than chance allows" in err
