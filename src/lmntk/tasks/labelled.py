"""The label column of a table: which rows have a label, which hide it, and the classes that the labels make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lmntk.errors import UserError
from lmntk.system.notices import say
from lmntk.tasks.labels import (
    HIDDEN,
    LabelIndex,
    check_missing,
    is_blank,
    label_text,
    refuse_several,
    say_lookalikes,
    whole_number,
)
from lmntk.tasks.rows import Row, Table

_ADVICE = {
    "train": "train on texts with labels",
    "test": "name test texts with labels; `lmntk predict` classifies texts without",
}

Side = Literal["train", "test"]


@dataclass(frozen=True)
class Labelled:
    """The rows of a table that can be used, and their labels.

    Attributes:
        source: the table's name in messages.
        rows: in order.
        values: the label cell of each row, class numbers as names; None where there is none.
        names: what the class numbers mean, where the column is of such.
    """

    source: str
    rows: list[Row]
    values: list[Any]
    names: tuple[str, ...] | None = None


def hides_labels(table: Table, column: str) -> bool:
    """Return whether the column is there and every label in it is -1 or nothing, as hubs hide labels."""
    values = [row.cells.get(column) for row in table.rows]
    return all(map(_is_hidden, values)) or all(map(is_blank, values))


def labelled(
    table: Table,
    column: str,
    given: Sequence[Any] | None = None,
    *,
    side: Side = "train",
    require_label: bool = True,
) -> Labelled:
    """Return the rows of a table with their labels.

    In a column of class numbers -1 is no label, and its rows are left out, which is said; in another it is a label beside others.

    Args:
        table: the rows.
        column: the label's.
        given: the labels that the user named, if any.
        side: what the labels are for.
        require_label: refuse an empty cell; else its label is None, and the column may be absent.

    Raises:
        UserError: No such column, an empty cell, labels that are all hidden, or ``NaN`` among numbers; names the row.
    """
    if not require_label:
        return _labelled_in_part(table, column, given)
    cells = [row.cell(column) for row in table.rows]
    for row, cell in zip(table.rows, cells, strict=True):
        refuse_several(cell, row.where, column)
    if hides_labels(table, column):
        what = "is empty" if is_blank(cells[0]) else "is -1, as hubs hide labels"
        raise UserError(f"{table.source}: every label in {column!r} {what}; {_ADVICE[side]}")
    for row, cell in zip(table.rows, cells, strict=True):
        if is_blank(cell):
            raise UserError(f"{row.where}: {column!r} is empty; give every row a label")
    names = _class_names(table, column, given)
    if names is None:
        firsts: dict[str, str] = {}
        for row, cell in zip(table.rows, cells, strict=True):
            firsts.setdefault(_text_of(cell, row.where, column), row.where)
        if given is None and side == "train":  # what a test label means is up to the train texts' classes
            check_missing(list(firsts.items()), table.source)
        return Labelled(table.source, table.rows, cells)
    kept = [(row, cell) for row, cell in zip(table.rows, cells, strict=True) if not _is_hidden(cell)]
    if len(kept) < len(cells):
        first = next(row for row, cell in zip(table.rows, cells, strict=True) if _is_hidden(cell))
        say(f"{len(cells) - len(kept)} rows without a label left out, the first {first.where}")
    values = [_named(cell, names, row) for row, cell in kept]
    return Labelled(table.source, [row for row, _ in kept], values, names)


def _labelled_in_part(table: Table, column: str, given: Sequence[Any] | None) -> Labelled:
    """Return all rows of a table, with a label or None each."""
    values = [None if is_blank(cell := row.cells.get(column)) else cell for row in table.rows]
    for row, value in zip(table.rows, values, strict=True):
        refuse_several(value, row.where, column)
    if hides_labels(table, column):
        return Labelled(table.source, table.rows, [None] * len(values))
    names = _class_names(table, column, given)
    if names is None:
        return Labelled(table.source, table.rows, values)
    named = [
        None if value is None or _is_hidden(value) else _named(value, names, row)
        for row, value in zip(table.rows, values, strict=True)
    ]
    return Labelled(table.source, table.rows, named, names)


def index_of(part: Labelled, given: Sequence[Any] | None) -> LabelIndex:
    """Return the classes: the labels given, else those of a ``ClassLabel``, else those that occur, sorted."""
    if given is not None:
        return LabelIndex.given(given)
    if part.names is not None:
        if len(set(part.names)) < len(part.names):
            raise UserError(
                f"{part.source}: its ClassLabel names {list(part.names)} are not all different; name them anew"
            )
        index = LabelIndex(part.names, forgiving=True)
    else:
        index = LabelIndex.found(label_text(value) for value in part.values if value is not None)
    say_lookalikes(index.names, part.source)
    return index


def _is_hidden(value: Any) -> bool:
    return isinstance(value, str | int | float) and whole_number(label_text(value)) == HIDDEN


def _class_names(table: Table, column: str, given: Sequence[Any] | None) -> tuple[str, ...] | None:
    """Return what class numbers mean, unless the user named the numbers themselves."""
    names = table.classes.get(column)
    if names is not None and given is not None:
        listed = [label_text(name) for name in given]
        if all(whole_number(name) is not None for name in listed) and not set(listed) & set(names):
            return None
    return names


def _named(cell: Any, names: Sequence[str], row: Row) -> Any:
    if isinstance(cell, bool) or not isinstance(cell, int):
        return cell
    if not 0 <= cell < len(names):
        raise UserError(
            f"{row.where}: class number {cell} is out of range; the {len(names)} classes are 0 to {len(names) - 1}"
        )
    return names[cell]


def _text_of(cell: Any, where: str, column: str) -> str:
    try:
        return label_text(cell)
    except TypeError as error:
        raise UserError(f"{where}: {column!r} holds {error}; a label is one of these") from None
