"""The user's own files: CSV, TSV, JSON lines or Parquet with columns of any name and labels of any type."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lmntk.errors import UserError
from lmntk.system.notices import say
from lmntk.tasks.data import TaskData
from lmntk.tasks.example import Example
from lmntk.tasks.formats import read_file, read_rows
from lmntk.tasks.labelled import Labelled, index_of, labelled
from lmntk.tasks.labels import LabelIndex, refuse_several
from lmntk.tasks.rows import Row, Table, listed


@dataclass(frozen=True)
class Columns:
    """The names of a table's columns.

    A row without ``text``, the default, is read by lmntk's own names: ``text_a``, and ``text_b`` where it has one. This rule
    is the only one, for all commands.

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

    def found_in(self, names: Collection[str]) -> Columns:
        """Return these columns, or lmntk's own in their place where those are meant."""
        if not self.are_lmntks(names):
            return self
        text_b = self.text_b or ("text_b" if "text_b" in names else None)
        return replace(self, text="text_a", text_b=text_b)

    def are_lmntks(self, names: Collection[str]) -> bool:
        """Return whether a table's columns are lmntk's own."""
        return self.text == "text" and "text" not in names and "text_a" in names

    def texts(self, row: Row) -> tuple[str, str | None]:
        """Return a row's text, and its second one if there is to be one.

        Raises:
            UserError: a column is missing, or its cell holds no text.
        """
        columns = self.found_in(row.cells)
        for name, option in ((columns.text, "--text-column"), (columns.text_b, "--text-b-column")):
            if name is not None and name not in row.cells:
                raise UserError(
                    f"{row.where}: there is no column {name!r}; the columns are {listed(row.cells)}; name the text's with {option}"
                )
        text_b = columns.text_b
        if text_b is None or (self.text_b is None and row.cells[text_b] is None):
            return row.text(columns.text), None
        return row.text(columns.text), row.text(text_b)


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
    index = None if labels is None else LabelIndex.given(labels)
    for row in read_rows(path):
        text_b = row.text("text_b") if row.cells.get("text_b") is not None else None
        label = None
        if require_label or row.cells.get("label") is not None:
            label = _class_number(row, index)
        examples.append(Example(row.text("text_a"), text_b, label))
    if index is not None:
        index.say_guesses(str(path))
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
        labels: Labels in the order of their class indexes; by default the names of a ``ClassLabel``, else those that
            occur, sorted: a numeric column by value, else by code point.
        require_label: Refuse rows without a label; else their label is None, and the column may be absent.
        quoted: Whether CSV or TSV cells may stand in double quotes; by default as the file does it.

    Raises:
        UserError: The file cannot be read, a column is missing, a text is not text, or a label is missing or
            unknown.
    """
    table = read_file(Path(path), quoted=quoted)
    part = labelled(table, columns.label, labels, require_label=require_label)
    return list(examples_of(part, columns, index_of(part, labels)))


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
    train_table = read_file(Path(train), quoted=quoted)
    test_table = None if test is None else read_file(Path(test), quoted=quoted)
    data = task_data(train_table, test_table, columns, labels)
    if data.labels is not None and len(data.labels) < 2:
        raise UserError(
            f"{train}: column {columns.label!r} holds only one label ({''.join(data.labels)}); "
            "two or more are needed"
        )
    return data


def task_data(train: Table, test: Table | None, columns: Columns, labels: Sequence[Any] | None) -> TaskData:
    """Return the examples of a train and a test table; the classes are those given, else the train table's.

    Raises:
        UserError: As ``read_tables``.
    """
    part = labelled(train, columns.label, labels, side="train")
    index = index_of(part, labels)
    train_examples = examples_of(part, columns, index)
    test_examples: tuple[Example, ...] = ()
    if test is not None:
        test_part = labelled(test, columns.label, labels, side="test")
        _check_numbers_of_names(part, test_part)
        test_examples = examples_of(test_part, columns, index)
    return TaskData(train_examples, test_examples, index.names)


def _check_numbers_of_names(train: Labelled, test: Labelled) -> None:
    """Refuse numbers in the test texts where the classes' names are numbers too: they may be either's.

    Raises:
        UserError: so it is; says how both may have names.
    """
    if train.names is None or test.names is not None:
        return
    named_by_numbers = any(name.isdecimal() for name in train.names)
    if named_by_numbers and any(isinstance(value, int) for value in test.values):
        raise UserError(
            f"{test.source}: its labels are numbers, and so are the ClassLabel names {list(train.names)} of the train texts; "
            "give the test texts the same ClassLabel, or write the names"
        )


def examples_of(part: Labelled, columns: Columns, index: LabelIndex) -> tuple[Example, ...]:
    """Return one example per row, with labels looked up in ``index``.

    Raises:
        UserError: A column is missing, a text is not text, or a label is unknown; names the row.
    """
    if columns.text_b is None and any(
        "text_b" in row.cells and not columns.are_lmntks(row.cells) for row in part.rows[:1]
    ):
        say(f"{part.source}: column 'text_b' is not read; to read it, name it as the second text's column")
    examples = []
    for row, value in zip(part.rows, part.values, strict=True):
        label = None if value is None else index.index(value, row.where)
        examples.append(Example(*columns.texts(row), label))
    index.say_guesses(part.source)
    return tuple(examples)


def _class_number(row: Row, index: LabelIndex | None) -> int:
    value = row.cell("label")
    refuse_several(value, row.where)
    if isinstance(value, str) and index is not None:
        return index.index(value, row.where)
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserError(
            f"{row.where}: label {value!r} is not a class number; "
            "number the classes from 0, or name the labels' order"
        )
    if value < 0:
        raise UserError(f"{row.where}: label {value} is out of range; number the classes from 0")
    if index is not None and value >= len(index.names):
        raise UserError(
            f"{row.where}: label {value} is out of range; the {len(index.names)} classes are 0 to "
            f"{len(index.names) - 1}"
        )
    return value
