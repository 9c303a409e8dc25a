"""Texts to be classified: JSON lines as they come, from a file or a pipe of any length, or a table of any format."""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lmntk.errors import UserError
from lmntk.tasks.example import Example
from lmntk.tasks.formats import SAVED_SPLIT, ending_of, is_saved, json_rows, read_rows
from lmntk.tasks.rows import Row, missing

STANDARD = "-"  # stdin, stdout
_TABLES = (".csv", ".tsv", ".parquet")


@dataclass(frozen=True)
class TextSource:
    """Where texts come from.

    Attributes:
        name: a file, or ``-`` for JSON lines on stdin.
        text_column: the column of the text; by default ``text_a``, else ``text``.
        text_b_column: the column of the second text; by default ``text_b`` where there is one.

    Raises:
        UserError: there is no such file.
    """

    name: str
    text_column: str | None = None
    text_b_column: str | None = None

    def __post_init__(self) -> None:
        path = Path(self.name)
        if (
            self.name != STANDARD and (not path.exists() or path.is_dir()) and not self._is_table
        ):  # a pipe exists
            raise UserError(f"input: {missing(path)}")

    @property
    def _is_table(self) -> bool:
        path = Path(self.name)
        return self.name != STANDARD and (
            (path.is_file() and ending_of(path) in _TABLES) or is_saved(path, SAVED_SPLIT)
        )

    def examples(self) -> Iterator[tuple[str, Example]]:
        """Yield each text with its place; JSON lines as they come, a table after it was read whole.

        Raises:
            UserError: a line or a row that is no text.
        """
        if self._is_table:
            for row in read_rows(Path(self.name)):
                yield row.where, self._example(row)
            return
        with _reading(self.name) as lines:
            name = "stdin" if self.name == STANDARD else self.name
            for row in json_rows(_decoded(lines, name), name):
                yield row.where, self._example(row)

    def _example(self, row: Row) -> Example:
        named = self.text_column or (
            "text" if "text" in row.cells and "text_a" not in row.cells else "text_a"
        )
        text_b = None
        if self.text_b_column is not None or row.cells.get("text_b") is not None:
            text_b = row.text(self.text_b_column or "text_b")
        return Example(row.text(named), text_b)


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
            f"input: {name} cannot be read ({reason}); save it as UTF-8 text, or copy it again"
        ) from error
