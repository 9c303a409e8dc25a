"""Which word stands for which class: by name, in order, and where the texts need no labels."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmntk.errors import UserError
from lmntk.tasks import Columns, Example
from lmntk.tasks.class_words import classes_and_words, words_by_class
from lmntk.tasks.optional_labels import read_texts, renumbered


@pytest.mark.parametrize(
    ("given", "classes", "expected"),
    [
        (["b=y", "a=x"], ["a", "b"], ("x", "y")),
        (["x", "y"], ["a", "b"], ("x", "y")),
        (["a=b=y", "a=x"], ["a", "a=b"], ("x", "y")),
        (["a= x ", "b=y|z"], ["a", "b"], ("x", "y|z")),
        (["0=x", "1=y"], ["0", "1"], ("x", "y")),
    ],
)
def test_words_go_to_their_classes(given: list[str], classes: list[str], expected: tuple[str, ...]) -> None:
    assert words_by_class(given, classes) == expected


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["x"], r"1 label words for 2 classes \(a, b\); write a=...,b=..."),
        (["x", "y", "z"], r"3 label words for 2 classes \(a, b\)"),
        (["a=x"], "class 'b' has no word"),
        (["a=x", "a=y", "b=z"], "class 'a' has two words"),
        (["a=x", "c=y"], "'c=y' does not belong to a class"),
        (["a=x", "y"], "'y' does not belong to a class"),
    ],
)
def test_words_that_do_not_fit_name_the_classes(given: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        words_by_class(given, ["a", "b"])


@pytest.mark.parametrize(
    ("given", "found", "classes", "words"),
    [
        (["b=y", "a=x"], None, ("b", "a"), ("y", "x")),  # the words name the classes
        (["x", "y"], None, ("0", "1"), ("x", "y")),
        (["x", "y", "z"], ("0", "2"), ("0", "1", "2"), ("x", "y", "z")),  # class 1 does not occur
        (["x", "y"], ("1", "2"), ("1", "2"), ("x", "y")),
        (["b=y", "a=x"], ("a", "b"), ("a", "b"), ("x", "y")),
    ],
)
def test_texts_may_lack_labels(
    given: list[str], found: tuple[str, ...] | None, classes: tuple[str, ...], words: tuple[str, ...]
) -> None:
    assert classes_and_words(given, found) == (classes, words)


def test_files_share_their_classes(tmp_path: Path) -> None:
    for name, rows in {"a": "x,pos\ny,neg", "b": "z,odd\nw,"}.items():
        (tmp_path / f"{name}.csv").write_text(f"text,label\n{rows}\n")
    (first, second), classes = read_texts([tmp_path / "a.csv", tmp_path / "b.csv"])
    assert classes == ("neg", "odd", "pos")
    assert first == (Example("x", None, 2), Example("y", None, 0))
    assert second == (Example("z", None, 1), Example("w"))
    assert renumbered(first, classes, ("pos", "odd", "neg"))[0].label == 0
    with pytest.raises(UserError, match="there is no column 'kind'"):
        read_texts([tmp_path / "a.csv"], Columns(label="kind"))
