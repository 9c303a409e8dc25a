"""``lmntk prompts``: a labelled file, templates and words, and a ranking of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny

CommandLine = Callable[..., tuple[int, str, str]]
TEMPLATES = ("--template", "{a} It was {mask}.", "--template", "{mask} film: {a}")
WORDS = ("--label-words", "good=great,bad=terrible", "--label-words", "good=happy,bad=sad")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny masked model."""
    return tiny.write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven texts of each of two classes."""
    path = tmp_path_factory.mktemp("table") / "texts.csv"
    rows = [f"{text},{label}" for label, texts in (("good", tiny.GOOD), ("bad", tiny.BAD)) for text in texts]
    path.write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf8")
    return path


def test_templates_by_words_are_ranked_and_the_second_time_kernels_are_read(
    model: Path, table: Path, tmp_path: Path, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = ("prompts", table, "--model", model, *TEMPLATES, *WORDS, "--out", tmp_path, "--json")
    code, out, err = command_line(*call)
    assert code == 0, err
    record = json.loads(out)
    assert json.loads((tmp_path / "prompts.json").read_text())["prompts"] == record["prompts"]
    rows = record["prompts"]
    assert {(row["template"], *row["label_words"]) for row in rows} == {
        (template, *words)
        for template in TEMPLATES[1::2]
        for words in (("terrible", "great"), ("sad", "happy"))
    }
    assert [row["number"] for row in rows] == [1, 2, 3, 4]
    accuracies = [row["kernel"]["accuracy"] for row in rows]
    assert accuracies == sorted(accuracies, reverse=True)
    assert sum(row["taken"] for row in rows) == pytest.approx(1)
    for row in rows:
        for name in ("kernel", "zero-shot", "zero-shot, centred", "zero-shot, threshold fitted"):
            assert 0 <= row[name]["accuracy"] <= 1
            assert row[name]["error"] >= 0
    # a best of four is reported by the choice made anew in each fold, never by its own row
    assert f"{100 * record['best']['kernel']['accuracy']:.1f} ±" in record["sentences"][0]
    assert "chosen anew in each fold" in record["sentences"][0]
    text = " ".join(record["sentences"])
    assert ("cannot be told apart: 1, " in text) == (len(record["alike"]) > 1)
    assert ("recommended: none" in text) == (record["recommended"] is None)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr("lmntk.estimator.ways.stream_kernels", refuse)
    assert command_line(*call)[1] == out
    code, shown, _ = command_line(*call[:-1])
    assert code == 0
    for row in rows:
        assert f"{100 * row['kernel']['accuracy']:.1f} ± {100 * row['kernel']['error']:.1f}" in shown
        assert f"{row['template']!r} {','.join(row['label_words'])}" in shown
    for sentence in record["sentences"]:
        assert sentence in shown


def test_the_accuracy_of_one_prompt_is_that_of_its_fit_but_for_the_calibration(
    model: Path, table: Path, tmp_path: Path, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmntk.solvers.calibration import Calibration

    monkeypatch.setattr("lmntk.solvers.held_out.fit_calibration", lambda *_, **__: Calibration())
    call = (table, "--model", model, *TEMPLATES[:2], *WORDS[:2])
    code, out, _ = command_line("prompts", *call, "--out", tmp_path / "prompts", "--json")
    assert code == 0
    row = json.loads(out)["prompts"][0]
    code, out, _ = command_line("fit", *call, "--mode", "prompt", "--out", tmp_path / "fit", "--json")
    standing = json.loads(out)["standing"]
    assert standing["accuracy"] == pytest.approx(row["kernel"]["accuracy"])
    rivals = {rival["name"]: rival["accuracy"] for rival in standing["rivals"]}
    for name in ("zero-shot", "zero-shot, centred"):
        assert rivals[name] == pytest.approx(row[name]["accuracy"])


def test_the_model_proposes_words(
    model: Path, table: Path, tmp_path: Path, command_line: CommandLine
) -> None:
    call = ("prompts", table, "--model", model, *TEMPLATES[:2], "--propose", "1", "--out", tmp_path)
    code, out, err = command_line(*call, "--json")
    assert code == 0, err
    record = json.loads(out)
    (row,) = record["prompts"]
    assert row["proposed"] == 1
    words = row["label_words"]
    assert len(set(words)) == 2
    assert set(words) <= {word for word in tiny.WORDS if word.isalpha() and len(word) > 2}
    assert (record["folds"], record["rounds"]) == (5, 2)


MISTAKES = {
    "no words": (("--template", "{a} {mask}"), "give --template and --label-words"),
    "no template": (("--propose", "2"), "--propose needs --template"),
    "too many": ((*TEMPLATES, "--propose", "20"), "20 sets of 2 words are too many"),
    "none": ((*TEMPLATES, *WORDS, "--propose", "-1"), "propose"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line(
    model: Path, table: Path, tmp_path: Path, command_line: CommandLine, name: str
) -> None:
    given, said = MISTAKES[name]
    code, out, err = command_line("prompts", table, "--model", model, *given, "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert said in err.splitlines()[-1]


def test_few_texts_are_refused(model: Path, tmp_path: Path, command_line: CommandLine) -> None:
    few = tmp_path / "few.csv"
    few.write_text("text,label\na,good\nb,bad\nc,good\nd,bad\n", encoding="utf8")
    code, _, err = command_line(
        "prompts", few, "--model", model, *TEMPLATES, *WORDS, "--out", tmp_path / "out"
    )
    assert code == 2
    assert "five of each class" in err.splitlines()[-1]
