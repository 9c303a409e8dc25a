"""The bundled example sets: the right number of rows, balanced, of varied wording, none of them twice."""

from __future__ import annotations

import json
from collections import Counter
from importlib.resources import files

import pytest

CLASSES = {"reviews": 2, "topics": 4}
ROWS = {
    ("reviews", "train"): 200,
    ("reviews", "test"): 120,
    ("topics", "train"): 160,
    ("topics", "test"): 120,
}


def read(task: str, part: str) -> list[dict[str, object]]:
    path = files("lmntk") / "bundled" / "examples" / task / f"{part}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def texts(task: str) -> list[str]:
    return [str(row["text_a"]) for part in ("train", "test") for row in read(task, part)]


@pytest.mark.parametrize(("task", "part"), ROWS)
def test_every_row_is_a_text_and_a_label(task: str, part: str) -> None:
    for row in read(task, part):
        assert set(row) == {"text_a", "label"}
        assert isinstance(row["text_a"], str)
        assert type(row["label"]) is int


@pytest.mark.parametrize(("task", "part"), ROWS)
def test_the_classes_are_balanced(task: str, part: str) -> None:
    share = ROWS[task, part] // CLASSES[task]
    assert Counter(row["label"] for row in read(task, part)) == dict.fromkeys(range(CLASSES[task]), share)


@pytest.mark.parametrize(("task", "part"), ROWS)
def test_the_rows_are_not_sorted_by_class(task: str, part: str) -> None:
    first = [row["label"] for row in read(task, part)][: 8 * CLASSES[task]]
    assert set(first) == set(range(CLASSES[task]))


def test_no_text_occurs_twice() -> None:
    folded = Counter(text.casefold() for task in CLASSES for text in texts(task))
    assert [text for text, times in folded.items() if times > 1] == []


@pytest.mark.parametrize("task", CLASSES)
def test_lengths_are_within_bounds_and_varied(task: str) -> None:
    lengths = [len(text.split()) for text in texts(task)]
    assert min(lengths) >= 4
    assert max(lengths) <= 35
    assert len(set(lengths)) >= 20


@pytest.mark.parametrize("task", CLASSES)
def test_texts_are_plain_single_lines(task: str) -> None:
    for text in texts(task):
        assert text == " ".join(text.split())
        assert text[-1] in ".!?"


@pytest.mark.parametrize("task", CLASSES)
def test_openings_are_varied(task: str) -> None:
    openings = Counter(" ".join(text.casefold().split()[:3]) for text in texts(task))
    assert max(openings.values()) <= 0.04 * openings.total()


def test_no_sentence_to_test_is_among_the_labelled_ones() -> None:
    from lmntk.bundled import PRODUCTS

    rows = {part: read("products", part) for part in ("train", "test")}
    assert [len(part) for part in rows.values()] == [128, 200]
    sentences = {
        part: {str(row["text_a"]).replace(str(row["label"]), "{}") for row in rows[part]} for part in rows
    }
    assert all("{}" in sentence for part in sentences.values() for sentence in part)
    assert not sentences["train"] & sentences["test"]
    assert all(
        Counter(row["label"] for row in part) == dict.fromkeys(PRODUCTS, len(part) // 4)
        for part in rows.values()
    )


def test_one_label_is_planted() -> None:
    from lmntk.cli.demonstration import planted_row

    planted, right = read("products", "planted"), read("products", "train")[:64]
    wrong = [number for number, rows in enumerate(zip(planted, right, strict=True), 1) if rows[0] != rows[1]]
    assert wrong == [planted_row()]
    assert planted[wrong[0] - 1]["text_a"] == right[wrong[0] - 1]["text_a"]
