"""``lmntk fit`` with several prompts: the choice is made anew in each fold, and what was taken is kept."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny

from lmntk.estimator.record import read_fit

CommandLine = Callable[..., tuple[int, str, str]]
TEMPLATES = ("{a} It was {mask}.", "{mask} film: {a}")
SETS = ("good=great,bad=terrible", "good=happy,bad=sad")
WORDS = {"good": ("fun", "great", "happy"), "bad": ("dull", "terrible", "sad")}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny masked model."""
    return tiny.write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six texts of each of two classes."""
    path = tmp_path_factory.mktemp("table") / "texts.csv"
    rows = [f"a {WORDS[label][n % 3]} film number {n},{label}" for n in range(6) for label in WORDS]
    path.write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf8")
    return path


def options(*names: str) -> list[str]:
    """Return both templates and both sets of label words as options, or those named."""
    given = [part for template in TEMPLATES for part in ("--template", template)]
    return [*given, *(part for words in SETS for part in ("--label-words", words)), *names]


def test_of_several_prompts_one_is_taken_and_named(
    model: Path, table: Path, tmp_path: Path, command_line: CommandLine
) -> None:
    call = ("fit", table, "--model", model, *options("--mode", "prompt"), "--out", tmp_path / "fit")
    code, out, err = command_line(*call)
    assert code == 0, err
    assert "classes: bad = 'terrible', good = 'great'" in err
    assert "classes: bad = 'sad', good = 'happy'" in err
    record = read_fit(tmp_path / "fit")
    assert [(each.template, each.label_words) for each in record.prompts] == [
        (template, words) for template in TEMPLATES for words in (["terrible", "great"], ["sad", "happy"])
    ]
    assert sum(each.taken for each in record.prompts) == pytest.approx(1)
    assert record.template in TEMPLATES
    words = list((record.label_words or {}).values())
    (number,) = [
        n
        for n, each in enumerate(record.prompts)
        if (each.template, each.label_words) == (record.template, words)
    ]
    assert f"prompt {number + 1} of 4" in out.replace("\n  ", " ")
    assert [rival["name"] for rival in record.standing["rivals"]].count("zero-shot") == 1
    # what is kept is the prompt that was taken
    new = tmp_path / "new.csv"
    new.write_text("text\na fun book\na sad book\n", encoding="utf8")
    code, _, err = command_line("predict", tmp_path / "fit", new, "--out", tmp_path / "classes.csv")
    assert code == 0, err
    with (tmp_path / "classes.csv").open(encoding="utf8", newline="") as file:
        assert {row["label"] for row in csv.DictReader(file)} <= {"good", "bad"}


def test_templates_of_a_file_come_after_the_others(
    model: Path, table: Path, tmp_path: Path, command_line: CommandLine
) -> None:
    file = tmp_path / "templates.txt"
    file.write_text(f"\ufeff{TEMPLATES[1]}\n\n{{a}}\\n{{mask}} film\n", encoding="utf8")
    call = ("--template", TEMPLATES[0], "--templates", file, "--label-words", SETS[0], "--mode", "prompt")
    code, _, err = command_line("fit", table, "--model", model, *call, "--out", tmp_path / "fit")
    assert code == 0, err
    assert [each.template for each in read_fit(tmp_path / "fit").prompts] == [*TEMPLATES, r"{a}\n{mask} film"]


def test_of_few_texts_the_first_prompt_is_taken_which_is_said(
    model: Path, tmp_path: Path, command_line: CommandLine
) -> None:
    table = tmp_path / "few.csv"
    table.write_text("text,label\na fun film,good\na dull film,bad\nfun,good\ndull,bad\n", encoding="utf8")
    code, _, err = command_line(
        "fit", table, "--model", model, *options("--mode", "prompt"), "--out", tmp_path / "fit"
    )
    assert code == 0, err
    assert "too few texts to choose among 4 prompts: the first is taken" in err
    assert read_fit(tmp_path / "fit").template == TEMPLATES[0]


def test_a_choice_counts_its_folds() -> None:
    import numpy as np

    from lmntk.estimator.choice import shares_taken
    from lmntk.solvers.held_out import HeldOut

    estimate = HeldOut(np.zeros((2, 4, 1)), np.zeros(4, dtype=np.int64), ((0, 3), (1, 2)))
    assert shares_taken(estimate, [0, 0, 1, 2], 4) == (0.5, 0.25, 0.25, 0.0)


MISTAKES = {
    "a template twice": (("--template", "{a} {mask}", "--template", "{a} {mask}"), "is given twice"),
    "words twice": (("--template", "{a} {mask}", "--label-words", "terrible,great"), "are given twice"),
    "no such file": (("--templates", "nowhere.txt"), "no file 'nowhere.txt'"),
    "words of no class": (("--template", "{a} {mask}", "--label-words", "god=sad,bad=fun"), "'god=sad'"),
}


@pytest.mark.parametrize("name", MISTAKES)
@pytest.mark.parametrize("command", ["fit", "prompts"])
def test_mistakes_are_one_line(
    table: Path, tmp_path: Path, command_line: CommandLine, command: str, name: str
) -> None:
    given, said = MISTAKES[name]
    call = (command, table, "--model", tmp_path / "none", *given, "--label-words", "good=great,bad=terrible")
    code, out, err = command_line(*call, "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1


def test_a_file_without_a_template_is_a_mistake(
    table: Path, tmp_path: Path, command_line: CommandLine
) -> None:
    (tmp_path / "empty.txt").write_text("\n \n", encoding="utf8")
    call = ("fit", table, "--model", "none", "--templates", tmp_path / "empty.txt", "--label-words", SETS[0])
    code, _, err = command_line(*call, "--out", tmp_path / "out")
    assert code == 2
    assert "has no template" in err


def test_a_classifier_takes_one_template() -> None:
    from lmntk import TangentClassifier
    from lmntk.errors import UserError

    with pytest.raises(UserError, match="is no text; give one"):
        TangentClassifier("model", list(TEMPLATES), ["terrible", "great"]).fit(["a", "b"], [0, 1])  # type: ignore[arg-type]
