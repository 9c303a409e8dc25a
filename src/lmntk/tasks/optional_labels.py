"""Texts whose labels are optional: those that kernels are computed of, and those that a model is looked at on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lmntk.errors import UserError
from lmntk.tasks.example import Example
from lmntk.tasks.formats import read_file
from lmntk.tasks.labelled import Labelled, index_of, labelled
from lmntk.tasks.labels import LabelIndex
from lmntk.tasks.rows import listed
from lmntk.tasks.tables import PLAIN_COLUMNS, Columns, examples_of


def read_texts(
    paths: Sequence[Path], columns: Columns = PLAIN_COLUMNS, labels: Sequence[Any] | None = None
) -> tuple[list[tuple[Example, ...]], tuple[str, ...] | None]:
    """Return the texts of each file, and the classes of all their labels together; None where no text has one.

    The files and their labels are read as a task's are; see ``read_data``.

    Raises:
        UserError: a file cannot be read, a column that was named is missing, a text is not text, or a label is none.
    """
    parts = []
    for path in paths:
        table = read_file(path.expanduser())
        first = table.rows[0]
        if columns.label != PLAIN_COLUMNS.label and columns.label not in first.cells:
            raise UserError(
                f"{first.where}: there is no column {columns.label!r}; the columns are {listed(first.cells)}; "
                "name the label's with --label-column"
            )
        parts.append(labelled(table, columns.label, labels, require_label=False))
    values = [value for part in parts for value in part.values]
    if all(value is None for value in values):
        nothing = LabelIndex(())
        return [examples_of(part, columns, nothing) for part in parts], None
    names = next((part.names for part in parts if part.names is not None), None)
    together = Labelled(parts[0].source, [row for part in parts for row in part.rows], values, names)
    index = index_of(together, labels)
    return [examples_of(part, columns, index) for part in parts], index.names


def renumbered(
    examples: Sequence[Example], found: Sequence[str] | None, classes: Sequence[str]
) -> tuple[Example, ...]:
    """Return examples of the classes ``found`` with their numbers among ``classes``."""
    if found is None or tuple(found) == tuple(classes):
        return tuple(examples)
    numbers = [classes.index(name) for name in found]
    return tuple(
        example if example.label is None else replace(example, label=numbers[example.label])
        for example in examples
    )
