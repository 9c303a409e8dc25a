"""``lmntk fit`` and ``lmntk predict``, as a new user goes: one labelled file, then classes of others."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny

from lmntk.estimator import file_work, page_texts
from lmntk.estimator.record import read_fit
from lmntk.reports.fit_page import reliability
from lmntk.system.kept import write_record

CommandLine = Callable[..., tuple[int, str, str]]
COLUMNS = ("--text-column", "message", "--label-column", "category")
PROMPT = ("--template", "{a} It was {mask}.", "--label-words", "good=great,bad=terrible")
WORDS = {
    "good": ("great", "fun", "happy"),
    "bad": ("terrible", "dull", "sad"),
    "so-so": ("very", "not", "maybe"),
}
THINGS = ("film", "book", "story")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny masked model."""
    return tiny.write_model(tmp_path_factory.mktemp("model"))


def write_table(path: Path, rows: list[tuple[str, str]], separator: str = ";", mark: str = "") -> Path:
    """Write texts and labels under the columns of ``COLUMNS``."""
    lines = [separator.join(row) for row in [("message", "category"), *rows]]
    path.write_text(mark + "\n".join(lines) + "\n", encoding="utf8")
    return path


def messages(each: int, classes: tuple[str, ...] = ("good", "bad")) -> list[tuple[str, str]]:
    """Return as many texts of each class, up to nine, that the tiny tokenizer tells apart."""
    return [
        (f"a {WORDS[label][number % 3]} {THINGS[number // 3]}", label)
        for number in range(each)
        for label in classes
    ]


@pytest.mark.parametrize(
    ("classes", "sharing", "is_named"),
    [
        (("good", "bad", "so-so"), "auto", True),
        (("good", "bad"), "auto", False),
        (("good", "bad", "so-so"), "full", False),
    ],
    ids=["three", "two", "asked for"],
)
def test_of_long_work_a_cheaper_form_is_named(
    model: Path,
    tmp_path: Path,
    command_line: CommandLine,
    monkeypatch: pytest.MonkeyPatch,
    classes: tuple[str, ...],
    sharing: str,
    is_named: bool,
) -> None:
    monkeypatch.setattr(file_work, "LONG", -1.0)
    table = write_table(tmp_path / "tickets.csv", messages(3, classes))
    code, _, err = command_line(
        "fit", table, "--model", model, *COLUMNS, "--classes", sharing, "--out", tmp_path / "fit"
    )
    assert code == 0
    line = "a kernel that all classes share takes 2 products of two texts instead of 9, and is rougher: --classes shared"
    assert (line in err) == is_named
    assert ("--classes shared" in err) == is_named


@pytest.mark.parametrize(
    ("prompt", "mode"), [((), "head"), (PROMPT, None), ((*PROMPT, "--mode", "prompt"), "prompt")]
)
def test_a_file_becomes_a_classifier(
    model: Path, tmp_path: Path, command_line: CommandLine, prompt: tuple[str, ...], mode: str | None
) -> None:
    table = write_table(tmp_path / "tickets.csv", messages(6), mark="\ufeff")
    code, out, err = command_line(
        "fit", table, "--model", model, *COLUMNS, *prompt, "--out", tmp_path / "fit"
    )
    assert code == 0
    said = "classes: bad = 'terrible', good = 'great'" if prompt else "classes: bad, good"
    assert err.splitlines()[0].endswith(said)
    record = read_fit(tmp_path / "fit")
    assert record.counts == {"bad": 6, "good": 6}
    assert mode in (None, record.mode)
    assert record.standing["sentence"] in out.replace("\n  ", " ")
    names = {rival["name"] for rival in record.standing["rivals"]}
    assert {"chance", "the largest class", "TF-IDF with logistic regression", "the linear probe"} <= names
    assert ("zero-shot, centred" in names) == bool(prompt)
    assert 0 <= record.standing["low"] <= record.standing["accuracy"] <= record.standing["high"] <= 1


def test_the_page_says_what_the_terminal_says_and_more(
    model: Path, tmp_path: Path, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_texts, "HARDEST", 100)
    rows = [*messages(6), ("<script>a fine & lovely film</script>", "bad")]
    table = write_table(tmp_path / "tickets.csv", rows)
    code, out, _ = command_line("fit", table, "--model", model, *COLUMNS, *PROMPT, "--out", tmp_path / "fit")
    assert code == 0
    assert f"More: {tmp_path / 'fit' / 'report.html'}" in out
    record, page = read_fit(tmp_path / "fit"), (tmp_path / "fit" / "report.html").read_text(encoding="utf8")
    assert record.standing["sentence"] in page.replace("\n", " ")
    for rival in record.standing["rivals"]:
        assert f">{rival['name']}<" in page
    # the classes with the words that stand for them, only if the prompt was taken
    assert (">terrible<" in page) == (record.mode == "prompt")
    assert ">bad<" in page
    assert "<script>" not in page
    assert "&lt;script&gt;a fine &amp; lovely film" in page
    assert len(record.held_out) == len(rows)
    for text, (_, label) in zip(record.held_out, rows, strict=True):
        assert text["label"] == label
        assert 0 <= text["probability"] <= text["confidence"] <= 1
    assert sum(row["texts"] for row in reliability(record.held_out)) == len(rows)
    accuracy = sum(text["right"] for text in record.held_out) / len(rows)
    assert accuracy == pytest.approx(record.standing["accuracy"])


def test_reliability_by_hand() -> None:
    texts = [{"confidence": number / 10, "right": float(number > 4)} for number in (9, 1, 5, 3, 7)]
    halves = reliability(texts * 2)
    assert [row["texts"] for row in halves] == [2] * 5
    assert [row["confidence"] for row in halves] == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])
    assert [row["right"] for row in halves] == [0, 0, 1, 1, 1]
    assert reliability([]) == []


def test_words_go_to_the_classes_that_they_are_named_for(
    model: Path, tmp_path: Path, command_line: CommandLine
) -> None:
    table = write_table(tmp_path / "tickets.csv", messages(6))
    common = ("fit", table, "--model", model, *COLUMNS, "--template", PROMPT[1], "--mode", "prompt")
    for name, words in {"by class": "good=great,bad=terrible", "in order": "terrible,great"}.items():
        code, _, err = command_line(*common, "--label-words", words, "--out", tmp_path / name)
        assert code == 0
        assert err.splitlines()[0] == "classes: bad = 'terrible', good = 'great'"
    first, second = (read_fit(tmp_path / name) for name in ("by class", "in order"))
    assert first.standing == second.standing


@pytest.mark.parametrize(
    "rows",
    [
        messages(2, ("good", "bad", "so-so")),
        [("the same", "good"), ("another", "good"), ("the same", "bad"), ("another", "bad")],
    ],
    ids=["two of a class", "no text is of one class alone"],
)
def test_with_few_texts_nothing_is_chosen_and_no_accuracy_said(
    model: Path, tmp_path: Path, command_line: CommandLine, rows: list[tuple[str, str]]
) -> None:
    table = write_table(tmp_path / "tickets.csv", rows)
    code, out, _ = command_line("fit", table, "--model", model, *COLUMNS, "--out", tmp_path / "fit")
    assert code == 0
    assert "too few texts to estimate the accuracy" in out
    assert "%" not in out
    assert read_fit(tmp_path / "fit").setting == {"regularization": 0.1, "f0_scale": "inf"}


def test_a_second_fit_computes_no_kernel(model: Path, tmp_path: Path, command_line: CommandLine) -> None:
    table = write_table(tmp_path / "tickets.csv", messages(5))
    command = ("fit", table, "--model", model, *COLUMNS, *PROMPT, "--out", tmp_path / "fit")
    _, first, errors = command_line(*command)
    assert "operations" in errors
    cost = read_fit(tmp_path / "fit").cost
    assert cost is not None
    assert (cost.texts, cost.forward, cost.backward) == (10, 20, 20)  # two ways, of two classes one logit
    code, second, errors = command_line(*command)
    assert (code, second) == (0, first)
    assert "operations" not in errors
    cost = read_fit(tmp_path / "fit").cost
    assert cost is not None
    assert (cost.forward, cost.backward) == (0, 0)


def test_a_record_of_an_earlier_version_is_read(
    model: Path, tmp_path: Path, command_line: CommandLine
) -> None:
    table = write_table(tmp_path / "tickets.csv", messages(5))
    command_line("fit", table, "--model", model, *COLUMNS, "--out", tmp_path / "fit")
    record = read_fit(tmp_path / "fit")
    assert record.curve is not None
    assert record.standing is not None
    assert record.curve.points[-1].accuracy == record.standing["accuracy"]
    assert record.suspects is not None
    plain = record.model_dump(exclude={"curve", "cost", "doubtful", "suspects"})
    write_record(tmp_path / "fit/fit.json", plain)
    earlier = read_fit(tmp_path / "fit")
    assert (earlier.curve, earlier.cost, earlier.doubtful, earlier.suspects) == (None, None, [], None)
    assert earlier.standing == record.standing


@pytest.mark.parametrize(
    ("classes", "sharing"),
    [(("good", "bad"), "full"), (("good", "bad", "so-so"), "full"), (("good", "bad", "so-so"), "shared")],
    ids=["two", "three", "three that share"],
)
@pytest.mark.parametrize("mode", ["prompt", "head"])
def test_the_saved_classifier_decides_as_the_kernel_does(
    model: Path, tmp_path: Path, classes: tuple[str, ...], sharing: str, mode: str
) -> None:
    import numpy as np

    from lmntk.engine.settings import Settings
    from lmntk.estimator.choice import choose_way
    from lmntk.estimator.fit import fit_file
    from lmntk.estimator.given import read_input
    from lmntk.estimator.texts import read_labelled
    from lmntk.estimator.ways import measure, way_of
    from lmntk.experiment.configuration import Fit, from_flags
    from lmntk.models.loading import load_pretrained
    from lmntk.prediction.files import load_predictor
    from lmntk.system.progress import Silent
    from lmntk.tasks import Columns

    table = write_table(tmp_path / "tickets.csv", messages(5, classes))
    words = dict(zip(classes, ("great", "terrible", "bad"), strict=False))
    values: dict[str, Any] = {
        "file": str(table),
        "model": str(model),
        "text_column": "message",
        "label_column": "category",
        "mode": mode,
        "classes": sharing,
        "out": tmp_path / "fit",
        "dtype": "float64",
    }
    if mode == "prompt":
        values |= {"template": PROMPT[1], "label_words": words}
    options = from_flags(Fit, values)
    fit_file(options, read_input(options), Silent())
    loaded = load_predictor(tmp_path / "fit")
    texts = read_labelled(str(table), Columns("message", None, "category"))
    encoded = [loaded.encoder.encode(example) for example in texts.examples]
    decisions, _ = loaded.predictor.evaluate(encoded)
    pretrained = load_pretrained(str(model), "float64")
    way = way_of(pretrained, mode, loaded.encoder, texts.labels, sharing=sharing)
    choice = choose_way([measure(way, texts.examples, Settings())], texts)
    np.testing.assert_allclose(
        decisions, choice.decisions(choice.measured.kernel, choice.measured.logits), atol=1e-6
    )


def test_classes_of_a_table(model: Path, tmp_path: Path, command_line: CommandLine) -> None:
    table = write_table(tmp_path / "tickets.csv", messages(6))
    assert command_line("fit", table, "--model", model, *COLUMNS, "--out", tmp_path / "fit")[0] == 0
    new = tmp_path / "new.csv"
    new.write_text('id;message\n1;"a ""fine"" film; long"\n2;a dull film\n', encoding="utf8")
    code, _, _ = command_line("predict", tmp_path / "fit", new, "--out", tmp_path / "classes.csv")
    assert code == 0
    with (tmp_path / "classes.csv").open(encoding="utf8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ["1", "2"]
    assert rows[0]["message"] == 'a "fine" film; long'
    assert {row["label"] for row in rows} <= {"good", "bad"}


MISTAKES: dict[str, tuple[list[tuple[str, str]], tuple[str, ...], str]] = {
    "no such column": (messages(5), ("--label-column", "label"), "label"),
    "a word for no class": (
        messages(5),
        ("--template", "{a} {mask}", "--label-words", "god=great,bad=terrible"),
        "god=great",
    ),
    "a class without a word": (
        messages(5),
        ("--template", "{a} {mask}", "--label-words", "bad=terrible"),
        "'good'",
    ),
    "too few words": (messages(5), ("--template", "{a} {mask}", "--label-words", "great"), "bad, good"),
    "words without a template": (messages(5), ("--label-words", "great,terrible"), "--template"),
    "a template without words": (messages(5), ("--template", "{a} {mask}"), "--label-words"),
    "one class": ([(text, "good") for text, _ in messages(5)], (), "good"),
    "one text of a class": ([*messages(3), ("a late film", "late")], (), "'late'"),
    "a class of one text again and again": (
        [("the same", "good"), ("the same", "good"), *[(text, "bad") for text, _ in messages(2)]],
        (),
        "'good'",
    ),
    "a chat without a prompt": (messages(5), ("--chat",), "--chat needs a prompt"),
    "a chat in head mode": (messages(5), (*PROMPT, "--mode", "head", "--chat"), "head mode"),
    "no texts": ([], (), "row"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_before_any_model_is_loaded(tmp_path: Path, name: str) -> None:
    rows, options, said = MISTAKES[name]
    table = write_table(tmp_path / "tickets.csv", rows)
    command = ["fit", table, "--model", tmp_path / "no-model", *COLUMNS, *options, "--out", tmp_path / "fit"]
    script = (
        "import sys\nfrom lmntk.cli.app import main\ntry:\n    main()\nfinally:\n"
        "    print([name for name in ('torch', 'transformers', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, command)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    lines = [
        line for line in done.stderr.splitlines() if "separated" not in line and "semicolons" not in line
    ]
    assert len(lines) == 1, done.stderr
    assert said in lines[0]
    assert done.stdout.strip() == "[]"


def test_json_is_the_record(model: Path, tmp_path: Path, command_line: CommandLine) -> None:
    table = write_table(tmp_path / "tickets.csv", messages(5))
    code, out, _ = command_line("fit", table, "--model", model, *COLUMNS, "--out", tmp_path / "fit", "--json")
    assert code == 0
    assert json.loads(out) == read_fit(tmp_path / "fit").model_dump()


@pytest.mark.parametrize("change", [("--dtype", "float64"), ("--untie-head",)], ids=["precision", "untied"])
def test_a_kept_kernel_of_other_weights_is_not_taken(
    model: Path, tmp_path: Path, command_line: CommandLine, change: tuple[str, ...]
) -> None:
    table = write_table(tmp_path / "tickets.csv", messages(5))
    command = (
        "fit",
        table,
        "--model",
        model,
        *COLUMNS,
        *PROMPT,
        "--mode",
        "prompt",
        "--out",
        tmp_path / "fit",
    )
    command_line(*command)
    code, _, errors = command_line(*command, *change)
    assert code == 0
    assert "operations" in errors
    assert len(list((tmp_path / "fit" / "kernels").glob("prompt-????????.safetensors"))) == 2
