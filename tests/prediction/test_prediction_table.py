"""Answers and the table they are written to: the input's cells as they were, under names that no column has yet."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from lmntk.errors import UserError
from lmntk.prediction.answers import Answer, answers_of, look_threshold
from lmntk.prediction.table_out import LineWriter, TableWriter, writer_for
from lmntk.tasks.example import Example
from lmntk.tasks.formats import read_rows
from lmntk.tasks.rows import Row

TEXT = Example("a text")
HARD = [
    'she said "no", twice', "two\nlines", "two\r\nlines\r", "a lone\rreturn", "\x00 nul", " spaces ", "=1+1", "@sum", "tab\there",
    "\U0001f926\U0001f3fd‍♂️",
    "שלום ‏עולם", "a b", "", "x" * 200_000, "'quoted'", '"', '"whole"', "NA", "007", "1,5;2",
]  # fmt: skip


def answer(label: str = "good", look: bool = False) -> Answer:
    return Answer(1, label, 0.9, 2.5, look, [0.1, 0.9], [2.5])


def written(writer: TableWriter, *windows: list[dict[str, Any]]) -> str:
    out, number = io.StringIO(newline=""), 0
    for window in windows:
        rows = [Row(f"in.jsonl line {number + i}", cells) for i, cells in enumerate(window, start=1)]
        number += len(rows)
        writer.write(out, rows, [answer() for _ in rows])
    return out.getvalue()


@pytest.mark.parametrize(
    ("decisions", "labels", "index", "margin"),
    [([0.5], "ab", 1, 0.5), ([-2.0], "ab", 0, 2.0), ([0.5, 3.0, 1.0], "abc", 1, 2.0), ([1.0, 1.0], "ab", 0, 0.0)],
)  # fmt: skip
def test_the_margin_is_the_distance_to_the_runner_up(
    decisions: list[float], labels: str, index: int, margin: float
) -> None:
    probabilities = np.full((1, len(labels)), 1 / len(labels))
    (found,) = answers_of([TEXT], np.array([decisions]), probabilities, labels)
    assert (found.index, found.label, found.margin) == (index, labels[index], margin)


@pytest.mark.parametrize(
    ("example", "probability", "look_below", "look"),
    [
        (TEXT, 0.74, None, True), (TEXT, 0.75, None, False), (TEXT, 0.89, 0.9, True), (TEXT, 0.51, 0.5, False),
        (Example(" \n"), 0.99, None, True), (Example("a", ""), 0.99, None, True),
    ],
)  # fmt: skip
def test_who_is_doubtful_wants_a_look(
    example: Example, probability: float, look_below: float | None, look: bool
) -> None:
    probabilities = np.array([[1 - probability, probability]])
    (found,) = answers_of([example], np.array([[1.0]]), probabilities, "ab", look_below)
    assert found.look is look and found.probability == probability


def test_the_threshold_is_half_way_from_chance_to_certainty() -> None:
    assert [look_threshold(classes) for classes in (2, 4, 10)] == [0.75, 0.625, 0.55]


@pytest.mark.parametrize(("ending", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_cells_come_back_as_they_were(tmp_path: Path, ending: str, delimiter: str) -> None:
    target = tmp_path / f"classes.{ending}"
    rows = [{"id": str(i), "the text": text, "": "z"} for i, text in enumerate(HARD)]
    target.write_text(written(TableWriter(str(target), delimiter), rows), encoding="utf-8", newline="")
    csv.field_size_limit(2**31 - 1)
    with target.open(newline="", encoding="utf-8") as file:
        header, *lines = csv.reader(file, delimiter=delimiter)
    assert header == ["id", "the text", "", "label", "probability", "margin", "look"]
    assert [line[1] for line in lines] == HARD
    assert {tuple(line[3:]) for line in lines} == {("good", "0.9", "2.5", "")}
    frame = pandas.read_csv(target, sep=delimiter, dtype=str, keep_default_na=False)
    assert list(frame["the text"]) == HARD and set(frame["probability"]) == {"0.9"}
    named = [{"id": row["id"], "the text": row["the text"]} for row in rows]
    target.write_text(written(TableWriter(str(target), delimiter), named), encoding="utf-8", newline="")
    assert [row.cells["the text"] for row in read_rows(target)] == HARD  # by lmntk's own reader


@pytest.mark.parametrize(
    ("columns", "names", "remarks"),
    [
        (["text"], ["label", "probability", "margin", "look"], 0),
        (["look", "text", "label"], ["label_predicted", "probability", "margin", "look_predicted"], 2),
        (["label", "label_predicted"], ["label_predicted_predicted", "probability", "margin", "look"], 1),
    ],
)
def test_columns_that_the_input_has_keep_their_names(
    columns: list[str], names: list[str], remarks: int
) -> None:
    writer = TableWriter("classes.csv", ",")
    header, line = csv.reader(io.StringIO(written(writer, [{name: f"my {name}" for name in columns}])))
    assert header == columns + names
    assert line == [*(f"my {name}" for name in columns), "good", "0.9", "2.5", ""]
    assert len(writer.remarks()) == remarks
    if remarks:
        assert (
            "classes.csv: the input already has a column 'label'; the answers go into 'label_predicted"
            in "".join(writer.remarks())
        )


def test_lines_of_json_give_the_columns_of_the_first_rows() -> None:
    writer = TableWriter("classes.csv", ",")
    text = written(
        writer,
        [{"text": "a", "id": 7}, {"text": "b", "tags": ["é", 1], "done": True, "id": None}],
        [{"text": "c", "late": 1, "later": 2}, {"text": "d", "late": 1}],
    )
    header, *lines = csv.reader(io.StringIO(text))
    assert header[:4] == ["text", "id", "tags", "done"]
    assert [line[:4] for line in lines] == [
        ["a", "7", "", ""],
        ["b", "", '["é", 1]', "true"],
        ["c", "", "", ""],
        ["d", "", "", ""],
    ]
    (remark,) = writer.remarks()
    assert "left out: late, later ('late' first came at in.jsonl line 3)" in remark


def test_a_line_of_json_says_all_of_an_answer() -> None:
    out = io.StringIO()
    LineWriter().write(out, [Row("line 1", {"text": "a"})], [answer("gut ✓", look=True)])
    assert json.loads(out.getvalue()) == {
        "class": 1, "label": "gut ✓", "probabilities": [0.1, 0.9], "decisions": [2.5], "margin": 2.5, "look": True
    }  # fmt: skip


@pytest.mark.parametrize(
    ("target", "kind"),
    [("-", LineWriter), ("a.JSONL", LineWriter), ("a.json", LineWriter),
     ("a.csv", TableWriter), ("a.TSV", TableWriter), ("/dev/null", LineWriter)],
)  # fmt: skip
def test_the_ending_tells_the_format(target: str, kind: type) -> None:
    assert type(writer_for(target)) is kind


@pytest.mark.parametrize("target", ["a", "a.xlsx", "a.parquet", "a.csv.gz"])
def test_an_ending_of_no_format_is_refused(target: str) -> None:
    with pytest.raises(
        UserError, match=rf"out: .* '{target}' from its ending; use one of .csv, .tsv, .jsonl"
    ):
        writer_for(target)
