"""The user's own files: CSV, TSV, JSON lines or Parquet with columns of any name and labels of any type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmntk.errors import UserError
from lmntk.tasks.data import TaskData
from lmntk.tasks.example import Example
from lmntk.tasks.labels import LabelIndex, is_blank
from lmntk.tasks.rows import Row, read_rows


@dataclass(frozen=True)
class Columns:
    """The names of a table's columns.

    Attributes:
        text: Column of the text, or of the first text of a pair.
        text_b: Column of the second text, or None for single texts.
        label: Column of the label.
    """

    text: str = "text"
    text_b: str | None = None
    label: str = "label"

    def names(self) -> list[str]:
        """Return the names of the columns that are there."""
        return [name for name in (self.text, self.text_b, self.label) if name is not None]


PLAIN_COLUMNS = Columns()


def read_jsonl(
    path: str | Path, require_label: bool = True, labels: Sequence[str] | None = None
) -> list[Example]:
    """Return the examples of one JSON-lines file.

    Its fields are ``text_a``, ``text_b`` (optional) and ``label``, a class number from 0.

    Args:
        path: A ``.jsonl`` file, also with ``.gz``; blank lines are passed over.
        require_label: Refuse rows without a label; else their label is None.
        labels: Meaning of each class; with it the class number must be below their count, and a name may
            stand for its number.

    Raises:
        UserError: The file cannot be read, or a row has no text or no proper label (with the line number).
    """
    path = Path(path)
    examples = []
    for row in read_rows(path):
        text_b = row.text("text_b") if row.cells.get("text_b") is not None else None
        label = None
        if require_label or row.cells.get("label") is not None:
            label = _class_number(row, labels)
        examples.append(Example(row.text("text_a"), text_b, label))
    return examples


def read_table(
    path: str | Path,
    *,
    columns: Columns = PLAIN_COLUMNS,
    labels: Sequence[Any] | None = None,
    require_label: bool = True,
    quoted: bool | None = None,
) -> list[Example]:
    """Return the examples of one CSV, TSV, JSON-lines or Parquet file.

    The classes are the labels in the order given, else sorted.

    Args:
        path: The file; its ending tells the format. CSV and TSV need a header line.
        columns: Names of the columns; the label's holds text, numbers or truth values.
        labels: Labels in the order of their class indexes; by default those that occur, sorted as numbers or
            else as text.
        require_label: Refuse rows without a label; else their label is None, and the column may be absent.
        quoted: Whether CSV or TSV cells may stand in double quotes; by default in CSV they may, in TSV not.

    Raises:
        UserError: The file cannot be read, a column is missing, a text is not text, or a label is missing or
            unknown.
    """
    rows = read_rows(Path(path), quoted=quoted)
    values = (row.cells.get(columns.label) for row in rows)
    index = LabelIndex.found(values) if labels is None else LabelIndex.given(labels)
    return examples_of(rows, columns, index, require_label)


def read_tables(
    train: str | Path,
    test: str | Path | None = None,
    *,
    columns: Columns = PLAIN_COLUMNS,
    labels: Sequence[Any] | None = None,
    quoted: bool | None = None,
) -> TaskData:
    """Return the examples of the user's train and test files.

    The classes are the labels given, else the train file's, sorted.

    Arguments are those of ``read_table``; without a test file ``test`` is empty.

    Raises:
        UserError: As ``read_table``; also when the test file has a label that the train file lacks (naming
            file, row and label).
    """
    train_rows = read_rows(Path(train), quoted=quoted)
    if labels is not None:
        index = LabelIndex.given(labels)
    else:
        index = LabelIndex.found(row.cell(columns.label) for row in train_rows)
        if len(index.names) < 2:
            raise UserError(
                f"{train}: column {columns.label!r} holds only one label ({''.join(index.names)}); "
                "two or more are needed"
            )
    train_examples = examples_of(train_rows, columns, index)
    test_examples: list[Example] = []
    if test is not None:
        test_examples = examples_of(read_rows(Path(test), quoted=quoted), columns, index)
    return TaskData(tuple(train_examples), tuple(test_examples), index.names)


def examples_of(
    rows: Sequence[Row], columns: Columns, index: LabelIndex, require_label: bool = True
) -> list[Example]:
    """Return one example per row, with labels looked up in ``index``.

    Raises:
        UserError: A column is missing, a text is not text, or a label is missing or unknown; names the row.
    """
    examples = []
    for row in rows:
        label = None
        if require_label or not is_blank(row.cells.get(columns.label)):
            value = row.cell(columns.label)
            if is_blank(value):
                raise UserError(f"{row.where}: {columns.label!r} is empty; give every row a label")
            label = index.index(value, row.where)
        text_b = row.text(columns.text_b) if columns.text_b is not None else None
        examples.append(Example(row.text(columns.text), text_b, label))
    return examples


def _class_number(row: Row, labels: Sequence[str] | None) -> int:
    value = row.cell("label")
    if isinstance(value, str) and labels is not None:
        return LabelIndex.given(labels).index(value, row.where)
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserError(
            f"{row.where}: label {value!r} is not a class number; "
            "number the classes from 0, or name the labels' order"
        )
    if value < 0:
        raise UserError(f"{row.where}: label {value} is out of range; number the classes from 0")
    if labels is not None and value >= len(labels):
        raise UserError(
            f"{row.where}: label {value} is out of range; the {len(labels)} classes are 0 to "
            f"{len(labels) - 1}"
        )
    return value
