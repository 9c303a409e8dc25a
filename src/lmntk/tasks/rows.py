"""A row of a file, a table of rows, the lines of a text file, and the messages on files that are not as they should be."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmntk.errors import UserError, one_line

_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Row:
    """One record and where it stands: ``data/train.csv line 3``."""

    where: str
    cells: dict[str, Any]

    def cell(self, column: str) -> Any:
        """Return the cell of ``column``.

        Raises:
            UserError: There is no such column; the message lists those there.
        """
        if column not in self.cells:
            raise UserError(
                f"{self.where}: there is no column {column!r}; the columns are {listed(self.cells)}"
            )
        return self.cells[column]

    def text(self, column: str) -> str:
        """Return the text in ``column``, which may be empty.

        Raises:
            UserError: The column is missing, or its cell holds no text.
        """
        value = self.cell(column)
        if not isinstance(value, str):
            raise UserError(f"{self.where}: {column!r} holds {shown_value(value)}, not text")
        return value


@dataclass(frozen=True)
class Table:
    """The rows of one file or split.

    Attributes:
        source: its name in messages.
        rows: in order.
        classes: of each column of class numbers (a ``ClassLabel``), what they mean.
    """

    source: str
    rows: list[Row]
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def missing(path: Path) -> str:
    """Return the message for a path that is not there (or is a folder), saying what is there instead."""
    if path.is_dir():
        return f"{path} is a folder, not a file; it has {_inside(path)}"
    if not path.parent.is_dir():
        above = next(parent for parent in path.absolute().parents if parent.is_dir())
        return f"{path} does not exist, nor does its folder; {above} has {_inside(above)}"
    return f"{path} does not exist; its folder has {_inside(path.parent)}"


def listed(names: Any) -> str:
    """Return names for a message, in one line: the first few, then how many more."""
    names = [str(name) for name in names]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(names[:_SHOWN]) + more) or "none"


def _inside(folder: Path) -> str:
    try:
        names = sorted(
            entry.name + ("/" if entry.is_dir() else "")
            for entry in folder.iterdir()
            if not entry.name.startswith(".")
        )
    except OSError as error:
        return f"contents that cannot be read ({error.strerror})"
    return listed(names) if names else "nothing in it"


def shown_value(value: Any) -> str:
    """Return a value for a message, shortened."""
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def text_lines(path: Path) -> Iterator[str]:
    """Yield the lines with their ends, split at line feeds and carriage returns alone.

    Other separators (U+2028) are text.
    """
    try:
        content = path.read_bytes()
        if path.suffix.lower() == ".gz":
            content = gzip.decompress(content)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: not a whole gzip file ({one_line(error)}); copy it again") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").splitlines(keepends=True), start=1):
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path} line {number}: not UTF-8 text ({error.reason}); save the file as UTF-8"
            ) from error
