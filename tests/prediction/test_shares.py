"""Predicted shares of classes beside the labelled ones: by hand, and in what ``lmntk predict`` says of a shifted file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny

from lmntk.prediction.shares import compare_shares

CommandLine = Callable[..., tuple[int, str, str]]
TEXTS = {
    "good": ("great", "fun", "happy", "great fun", "fun and happy"),
    "bad": ("terrible", "dull", "sad", "bad and sad", "very dull"),
}


@pytest.mark.parametrize(
    ("predicted", "decided", "p", "differ"),
    [
        ([50, 50], [8, 8], 1.0, False),
        # all ways of which the five are of the thirty-five: 1 / C(40, 5), and fewer are not as unlike
        ([30, 0], [5, 5], 252 / 658008, True),
        ([0, 30], [5, 5], 252 / 658008, True),
        ([9, 0], [8, 8], 0.02176, False),
        # three tests: of the first class, whose table is the last one but one, thrice
        ([0, 15, 15], [5, 5, 0], 3 * 252 / 658008, False),
        ([9, 0], None, None, False),
    ],
)
def test_by_hand(predicted: list[int], decided: list[int] | None, p: float | None, differ: bool) -> None:
    compared = compare_shares("abc"[: len(predicted)], predicted, [8] * len(predicted), decided)
    assert compared["p"] == (p if p is None else pytest.approx(p, rel=1e-2))
    assert compared["differ"] == differ


@pytest.mark.parametrize("right", [(0.9, 0.75), (0.8, 0.8)])
def test_a_long_file_like_the_labelled_texts_is_not_named(right: tuple[float, float]) -> None:
    random, named = np.random.default_rng(0), 0
    for _ in range(200):
        counts = []
        for texts in (
            40,
            10_000,
        ):  # the labelled ones, drawn like the file; the classifier has so much of each class right
            labels = random.random(texts) < 0.4
            is_right = random.random(texts) < np.where(labels, *right)
            predicted = np.where(is_right, labels, ~labels)
            counts.append([int((~predicted).sum()), int(predicted.sum())])
        named += compare_shares("ab", counts[1], [24, 16], counts[0])["differ"]
    assert named <= 2


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
    assert "a difference beyond chance" not in err
    shares, err = said["shifted"]
    assert shares["differ"]
    assert shares["labelled"] == {"bad": 0.5, "good": 0.5}
    assert shares["predicted"]["good"] > 0.9
    assert "labelled texts held out, a difference beyond chance" in err
