"""Texts to be classified: a table of any format, or lines of JSON as they come, from a file or a pipe of any length."""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from lmntk.errors import UserError
from lmntk.tasks.example import Example
from lmntk.tasks.formats import FORMATS, SAVED_SPLIT, ending_of, is_saved, json_rows, rows_as_read
from lmntk.tasks.rows import Row, missing
from lmntk.tasks.tables import PLAIN_COLUMNS, Columns

STANDARD = "-"  # stdin, stdout
_LINES = (".jsonl", ".json")


@dataclass(frozen=True)
class TextSource:
    """Where texts come from.

    Attributes:
        name: a table's file, the folder of a saved split, or ``-`` for JSON lines on stdin; what is no regular file holds JSON lines.
        text_column: the column of the text; by default ``text``, else ``text_a``.
        text_b_column: the column of the second text; by default ``text_b`` where there is one.
        takes_text_b: take this column by default.
        command: whose mistakes they are.

    Raises:
        UserError: there is no such file, or its ending is of no table.
    """

    name: str
    text_column: str | None = None
    text_b_column: str | None = None
    takes_text_b: bool = True
    command: str = "predict"

    def __post_init__(self) -> None:
        path = Path(self.name)
        if self.name == STANDARD or is_saved(path, SAVED_SPLIT):
            return
        if not path.exists() or path.is_dir():  # a pipe exists
            raise UserError(f"{self.command}: {missing(path)}")
        if path.is_file() and ending_of(path) not in FORMATS:
            raise UserError(
                f"{self.command}: cannot tell the format of {self.name!r} from its ending; use one of {', '.join(FORMATS)}"
            )

    def with_columns(self, columns: Mapping[str, Any] | None) -> TextSource:
        """Return the source with the columns that a predictor remembers, where no others were named."""
        if columns is None:
            return self
        return replace(
            self,
            text_column=self.text_column or columns["text"],
            text_b_column=self.text_b_column or columns["text_b"],
            takes_text_b=False,
        )

    def examples(self) -> Iterator[tuple[Row, Example]]:
        """Yield each row with its text, as they come; see ``rows_as_read``.

        Raises:
            UserError: a line or a row that is no text.
        """
        for row in self._rows():
            yield row, self._example(row)

    def _rows(self) -> Iterator[Row]:
        path = Path(self.name)
        if self.name != STANDARD and (path.is_dir() or (path.is_file() and ending_of(path) not in _LINES)):
            yield from rows_as_read(path)
            return
        with _reading(self.name) as lines:
            name = "stdin" if self.name == STANDARD else self.name
            yield from json_rows(_decoded(lines, name), name)

    def _example(self, row: Row) -> Example:
        text_b = self.text_b_column
        if text_b is None and self.takes_text_b and row.cells.get("text_b") is not None:
            text_b = "text_b"
        return Example(*Columns(self.text_column or PLAIN_COLUMNS.text, text_b).texts(row))


@contextmanager
def _reading(source: str) -> Iterator[IO[str]]:
    if source == STANDARD:
        yield sys.stdin
        return
    if source.lower().endswith(".gz"):
        with gzip.open(source, "rt", encoding="utf-8-sig") as lines:
            yield lines
    else:
        with Path(source).open(encoding="utf-8-sig") as lines:
            yield lines


def _decoded(lines: IO[str], name: str) -> Iterator[str]:
    """Yield the lines, as they come.

    Raises:
        UserError: they are no text, or the file is cut short.
    """
    try:
        yield from lines
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"predict: {name} cannot be read ({reason}); save it as UTF-8 text, or copy it again"
        ) from error
