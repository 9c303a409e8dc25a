"""Rows of text files: JSON lines, CSV, TSV and Parquet, each row with its place for messages."""

from __future__ import annotations

import csv
import gzip
import json
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmntk.errors import UserError, one_line

FORMATS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
"""File endings that can be read; all but Parquet also with ``.gz`` behind."""

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
            raise UserError(f"{self.where}: {column!r} holds {_shown(value)}, not text")
        return value


def read_rows(
    path: Path, *, quoted: bool | None = None, header: tuple[str, ...] | None = None, skip_short: bool = False
) -> list[Row]:
    """Return the rows of one file, whose format is told by its ending.

    Args:
        path: A ``.jsonl``, ``.json`` (JSON lines), ``.csv``, ``.tsv`` or ``.parquet`` file; text also with
            ``.gz``.
        quoted: Whether cells may stand in double quotes; by default they may in CSV and may not in TSV
            (GLUE's TSV has stray quotes).
        header: Column names of a CSV or TSV file that has no header line.
        skip_short: Leave out CSV and TSV rows with too few cells, with one warning, instead of refusing the
            file.

    Raises:
        UserError: The file is missing, empty, not UTF-8 or broken (with the line number), or its ending is
            unknown.
    """
    if not path.is_file():
        raise UserError(missing(path))
    ending = _ending(path)
    if ending in (".jsonl", ".json"):
        rows = _json_rows(path)
    elif ending == ".csv":
        rows = _delimited_rows(path, ",", quoted is not False, header, skip_short)
    elif ending == ".tsv":
        rows = _delimited_rows(path, "\t", quoted is True, header, skip_short)
    elif ending == ".parquet":
        rows = _parquet_rows(path)
    else:
        raise UserError(f"{path}: cannot tell the format from the ending; use one of {', '.join(FORMATS)}")
    if not rows:
        raise UserError(f"{path}: the file is empty; it needs at least one row")
    return rows


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


def _ending(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] == [".gz"]:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _shown(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _lines(path: Path) -> Iterator[str]:
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


def _json_rows(path: Path) -> list[Row]:
    rows = []
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:  # ValueError: broken JSON, or a number too long to read
            raise UserError(f"{where}: not JSON ({one_line(error)}); write one object a line") from error
        if not isinstance(record, dict):
            raise UserError(f"{where}: a JSON object is needed, not {_shown(record)}")
        rows.append(Row(where, record))
    return rows


def _delimited_rows(
    path: Path, delimiter: str, quoted: bool, header: tuple[str, ...] | None, skip_short: bool
) -> list[Row]:
    rows, short = [], []
    for number, cells in _records(path, delimiter, quoted):
        if not cells or (len(cells) == 1 and not cells[0].strip() and (header is None or len(header) > 1)):
            continue
        if header is None:
            header = tuple(name.strip() for name in cells)
            twice = [name for name in header if header.count(name) > 1]
            if twice:
                raise UserError(f"{path} line {number}: column {twice[0]!r} is there twice; rename one")
            continue
        if skip_short and len(cells) < len(header):
            short.append(number)
            continue
        where = f"{path} line {number}"
        if len(cells) != len(header):
            hint = (
                "put a text that has a comma or a quote in double quotes"
                if quoted
                else "a text may not hold a tab"
            )
            raise UserError(
                f"{where}: {len(cells)} cells where the columns are {len(header)} ({listed(header)}); {hint}"
            )
        rows.append(Row(where, dict(zip(header, cells, strict=True))))
    if short:
        warnings.warn(
            f"{path}: {len(short)} broken rows with too few cells left out, the first at line {short[0]}",
            stacklevel=2,
        )
    return rows


def _records(path: Path, delimiter: str, quoted: bool) -> Iterator[tuple[int, list[str]]]:
    if not quoted:
        for number, line in enumerate(_lines(path), start=1):
            yield number, line.rstrip("\r\n").split(delimiter)
        return
    reader = csv.reader(_lines(path), delimiter=delimiter, strict=True)
    first = 1
    try:
        for cells in reader:
            yield first, cells
            first = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{path} line {first}: broken quoting ({one_line(error)}); "
            "double a quote that is part of the text"
        ) from error


def _parquet_rows(path: Path) -> list[Row]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            f"{path}: reading Parquet needs pyarrow; install it with pip install 'lmntk[data]'"
        ) from error
    try:
        records = pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
        raise UserError(f"{path}: not a Parquet file that can be read ({one_line(error)})") from error
    return [Row(f"{path} row {number}", record) for number, record in enumerate(records, start=1)]
