"""Texts that become the same tokens are one text to the model: they leave the folds together, whoever deals these."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
from few_texts import LABELS, TEXTS

from lmntk import TangentClassifier
from lmntk.estimator import choice
from lmntk.system import notices

CommandLine = Callable[..., tuple[int, str, str]]
TWICE = [*TEXTS, *(f" {text.upper()}  " for text in TEXTS)]
GROUPS = [{number, number + len(TEXTS)} for number in range(len(TEXTS))]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny masked model, whose tokenizer puts letters into lower case."""
    return tiny.write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def dealt(monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    """All rounds of folds that are dealt while the test runs."""
    rounds: list[list[Any]] = []
    deal = choice.deal_folds

    def noted(*arguments: Any, **named: Any) -> Any:
        rounds.extend(made := deal(*arguments, **named))
        return made

    monkeypatch.setattr(choice, "deal_folds", noted)
    return rounds


def write_table(path: Path, texts: list[str], labels: list[str]) -> Path:
    """Write a table of texts and labels."""
    with path.open("w", encoding="utf8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *zip(texts, labels, strict=True)])
    return path


@pytest.mark.parametrize("command", ["fit", "audit", "subspace", "estimator"])
def test_they_leave_together(
    model: Path, tmp_path: Path, command_line: CommandLine, dealt: list[list[Any]], command: str
) -> None:
    if command == "estimator":
        TangentClassifier(model).fit(TWICE, LABELS * 2)
    else:
        table = write_table(tmp_path / "texts.csv", TWICE, LABELS * 2)
        small = ("--targets", "query+value", "--ranks", "1", "--draws", "1") if command == "subspace" else ()
        code, _, err = command_line(command, table, "--model", model, *small, "--out", tmp_path / "out")
        assert code == 0, err
        assert "10 of 20 texts become the same tokens as another" in err
    assert dealt
    for folds in dealt:
        for group in GROUPS:
            assert sum(bool(group & set(fold.tolist())) for fold in folds) == 1


def test_opposite_labels_are_allowed_and_named(model: Path) -> None:
    with notices.kept() as lines:
        classifier = TangentClassifier(model).fit([*TEXTS, TEXTS[0].upper()], [*LABELS, "bad"])
    assert (
        f"the texts {TEXTS[0]!r} and {TEXTS[0].upper()!r} are labelled 'bad' and 'good'; both are used"
        in lines
    )
    assert len(classifier.texts_.examples) == 11


def test_what_is_one_text_to_the_model_counts_once(
    model: Path, tmp_path: Path, command_line: CommandLine
) -> None:
    texts = [f"{text} {emoji}" for text in TEXTS[:8] for emoji in ("\U0001f600", "\U0001f601")]
    classifier = TangentClassifier(model).fit(texts, [label for label in LABELS[:8] for _ in range(2)])
    assert classifier.setting_ == {
        "regularization": 0.1,
        "f0_scale": float("inf"),
    }  # four of a class, not eight
    table = write_table(tmp_path / "texts.csv", texts, [label for label in LABELS[:8] for _ in range(2)])
    code, _, err = command_line("audit", table, "--model", model, "--out", tmp_path / "out")
    assert code == 2
    assert "too few texts" in err.splitlines()[-1]


@pytest.mark.parametrize("words", [("--label-words", "great,terrible"), ("--propose", "1")])
def test_prompts_are_not_compared_by_texts_that_are_one(
    model: Path, tmp_path: Path, command_line: CommandLine, words: tuple[str, ...]
) -> None:
    table = write_table(tmp_path / "texts.csv", [*TEXTS[:8], *map(str.upper, TEXTS[:8])], LABELS[:8] * 2)
    call = ("prompts", table, "--model", model, "--template", "{a} it was {mask}.", *words)
    code, _, err = command_line(*call, "--out", tmp_path / "out")
    assert code == 2  # four of a class, not eight
    assert "too few texts" in err.splitlines()[-1]


@pytest.mark.parametrize("command", ["fit", "prompts"])
def test_what_a_later_template_cuts_to_the_same_tokens_leaves_together(
    model: Path, tmp_path: Path, command_line: CommandLine, command: str
) -> None:
    texts = [
        f"a {word} {thing} {end}"
        for thing in tiny.WORDS[:3]
        for word in ("good", "bad")
        for end in (". no", ". yes")
    ]
    table = write_table(tmp_path / "texts.csv", texts, ["good", "good", "bad", "bad"] * 3)
    templates = ("--template", "{a} {mask}", "--template", "{a} it {mask}", "--max-length", "8")
    words = ("--label-words", "good=great,bad=terrible")
    call = (command, table, "--model", model, *templates, *words, "--out", tmp_path / "out")
    code, _, err = command_line(*call, *(("--mode", "prompt") if command == "fit" else ()))
    assert "6 of 12 texts become the same tokens as another" in err
    assert code == (0 if command == "fit" else 2)  # three of a class are too few to compare prompts by
