"""``lmntk audit``: wrong labels that were planted come first, and mistakes are one line."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny

CommandLine = Callable[..., tuple[int, str, str]]
PROMPT = ("--template", "{a} It was {mask}.", "--label-words", "good=great,bad=terrible")
WORDS = {
    "good": ("great", "fun", "happy"),
    "bad": ("terrible", "dull", "sad"),
    "so-so": ("very", "not", "maybe"),
}
PLANTED = (5, 14)  # rows, from 1


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny masked model."""
    return tiny.write_model(tmp_path_factory.mktemp("model"))


def write_texts(path: Path, texts: int = 24, planted: tuple[int, ...] = PLANTED, classes: int = 2) -> Path:
    """Write texts whose words tell their class, some of them with the next class's label."""
    labels = list(WORDS)[:classes]
    rows = []
    for n in range(texts):
        label = labels[n % classes]
        text = f"{' '.join(WORDS[label])} {tiny.WORDS[n // classes]}"
        rows.append(f"{text},{labels[(n + 1) % classes] if n + 1 in planted else label}")
    path.write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf8")
    return path


@pytest.mark.parametrize(("options", "classes"), [((), 2), (PROMPT, 2), (("--classes", "shared"), 3)])
def test_planted_labels_come_first(
    model: Path, tmp_path: Path, command_line: CommandLine, options: tuple[str, ...], classes: int
) -> None:
    table = write_texts(tmp_path / "texts.csv", texts=12 * classes, classes=classes)
    code, out, _ = command_line(
        "audit", table, "--model", model, *options, "--out", tmp_path / "out", "--json"
    )
    assert code == 0
    record = json.loads(out)
    rows = record["rows"]
    assert sorted(row["row"] for row in rows) == list(range(1, 12 * classes + 1))
    assert set(PLANTED) <= {row["row"] for row in rows[: 2 * classes - 2]}
    for row in (row for row in rows if row["row"] in PLANTED):
        assert row["proposed"] != row["label"]
        assert row["margin"] < 0
        assert (row["self_influence"] is None) == ("shared" in options)
    assert [row["probability"] for row in rows] == sorted(row["probability"] for row in rows)
    assert [row["named"] for row in rows] == [n < record["named"] for n in range(12 * classes)]
    with (tmp_path / "out/audit.csv").open(encoding="utf8") as file:
        assert [int(row["row"]) for row in csv.DictReader(file)] == [row["row"] for row in rows]
    assert json.loads((tmp_path / "out/audit.json").read_text())["rows"] == rows


def test_contradictions_are_named_and_people_read_sentences(
    model: Path, tmp_path: Path, command_line: CommandLine
) -> None:
    table = write_texts(tmp_path / "texts.csv")
    with table.open("a", encoding="utf8") as file:
        file.write("both,good\nboth,bad\n")
    code, out, _ = command_line("audit", table, "--model", model, "--out", tmp_path / "out")
    assert code == 0
    assert "several labels: 'both': bad, good" in out
    assert out.splitlines()[-2].endswith("out/audit.csv")
    assert out.splitlines()[-1] == f"More: {tmp_path / 'out/audit.html'}"
    assert "the kernel regime was not measured (--trust check" in out


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        (8, (), "too few texts to judge a label"),
        (12, ("--false-discoveries", "1"), "false_discoveries|false-discoveries"),
        (12, ("--text-column", "message"), "message"),
    ],
)
def test_mistakes_are_one_line(
    model: Path, tmp_path: Path, command_line: CommandLine, texts: int, options: tuple[str, ...], message: str
) -> None:
    table = write_texts(tmp_path / "texts.csv", texts, ())
    code, out, err = command_line("audit", table, "--model", model, *options, "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert re.search(message, err.splitlines()[-1])
