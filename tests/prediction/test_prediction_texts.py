"""Columns that texts are taken from: the named ones, else those that the predictor remembers, else the usual ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lmntk.prediction.texts import TextSource
from lmntk.tasks.example import Example

ROW = {"text": "t", "text_b": "tb", "message": "m", "reply": "r"}
SINGLE, PAIR = {"text": "message", "text_b": None}, {"text": "message", "text_b": "reply"}


@pytest.mark.parametrize(
    ("named", "remembered", "row", "example"),
    [
        ({}, None, ROW, Example("t", "tb")),
        ({}, None, ROW | {"text_a": "ta"}, Example("t", "tb")),
        ({}, None, {"text_a": "ta", "text_b": "tb"}, Example("ta", "tb")),
        ({}, None, {"text": "t", "text_b": None}, Example("t")),
        ({}, SINGLE, ROW, Example("m")),
        ({}, PAIR, ROW, Example("m", "r")),
        ({"text_column": "reply"}, SINGLE, ROW, Example("r")),
        ({"text_column": "text"}, PAIR, ROW, Example("t", "r")),
        ({"text_b_column": "text_b"}, SINGLE, ROW, Example("m", "tb")),
        ({"text_column": "message"}, None, ROW, Example("m", "tb")),
    ],
)
def test_columns(
    tmp_path: Path,
    named: dict[str, str],
    remembered: dict[str, Any] | None,
    row: dict[str, Any],
    example: Example,
) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    source = TextSource(str(tmp_path / "a.jsonl"), **named).with_columns(remembered)
    ((found, read),) = source.examples()
    assert (found.cells, read) == (row, example)
