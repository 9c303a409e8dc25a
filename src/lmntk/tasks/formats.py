"""Files by their endings: JSON lines, CSV, TSV, Parquet, and folders of ``save_to_disk``, each as a table of rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

from lmntk.errors import UserError, one_line
from lmntk.system.library_bars import without_bars
from lmntk.tasks.delimited import delimited_rows
from lmntk.tasks.rows import Row, Table, missing, shown_value, text_lines

FORMATS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
"""File endings that can be read; all but Parquet also with ``.gz`` behind."""

SAVED_SPLIT, SAVED_SPLITS = "state.json", "dataset_dict.json"
"""Files by which the folder of a saved split of ``datasets`` is known, and that of several."""

_NEED = "needs {}; install it with pip install 'lmntk[data]'"
_FLOAT_LENGTH = 15
_ROWS = 1024  # of Parquet that are held as one


def read_rows(
    path: Path, *, quoted: bool | None = None, header: tuple[str, ...] | None = None, skip_short: bool = False
) -> list[Row]:
    """Return the rows of one file; arguments as for ``read_file``."""
    return read_file(path, quoted=quoted, header=header, skip_short=skip_short).rows


def read_file(
    path: Path, *, quoted: bool | None = None, header: tuple[str, ...] | None = None, skip_short: bool = False
) -> Table:
    """Return the table in one file, whose format is told by its ending, or in the folder of a saved split.

    Args:
        path: A ``.jsonl``, ``.json`` (JSON lines), ``.csv``, ``.tsv`` or ``.parquet`` file; text also with
            ``.gz``.
        quoted: Whether cells may stand in double quotes; by default they may in CSV, and in TSV where all cells that
            need quotes have them, and no others (GLUE's TSV has stray quotes).
        header: Column names of a CSV or TSV file that has no header line.
        skip_short: Leave out CSV and TSV rows with too few cells, and say so, instead of refusing the
            file.

    Raises:
        UserError: The file is missing, empty, not UTF-8 or broken (with the line number), or its ending is
            unknown.
    """
    if is_saved(path, SAVED_SPLIT):
        table = table_of(load_saved(path), str(path))
    elif not path.is_file():
        raise UserError(missing(path))
    elif ending_of(path) in (".jsonl", ".json"):
        table = Table(str(path), list(json_rows(text_lines(path), str(path))))
    elif ending_of(path) in (".csv", ".tsv"):
        table = Table(
            str(path), delimited_rows(path, ending_of(path) == ".tsv", quoted, header, skip_short=skip_short)
        )
    elif ending_of(path) == ".parquet":
        table = _parquet_table(path)
    else:
        raise UserError(f"{path}: cannot tell the format from the ending; use one of {', '.join(FORMATS)}")
    if not table.rows:
        raise UserError(f"{path}: the file is empty; it needs at least one row")
    return table


def rows_as_read(path: Path) -> Iterator[Row]:
    """Yield the rows of one file without holding all, where the format allows; of CSV and TSV all are read first.

    Raises:
        UserError: As ``read_file``, but for an empty file.
    """
    if is_saved(path, SAVED_SPLIT):
        yield from _saved_rows(load_saved(path), str(path))
    elif path.is_file() and ending_of(path) == ".parquet":
        with _parquet_file(path) as file:
            yield from _parquet_rows(file, path)
    else:
        yield from read_file(path).rows


def ending_of(path: Path) -> str:
    """Return a file's ending in small letters, without ``.gz``."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] == [".gz"]:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def is_saved(folder: Path, mark: str = SAVED_SPLITS) -> bool:
    """Return whether ``save_to_disk`` of ``datasets`` wrote the folder."""
    return (folder / mark).is_file()


def load_saved(folder: Path) -> Any:
    """Return what ``save_to_disk`` wrote into a folder, a split or a dict of them.

    Raises:
        UserError: ``datasets`` is not installed, or the folder is broken.
    """
    try:
        from datasets import load_from_disk
    except ImportError as error:
        raise UserError(f"{folder}: reading a saved dataset {_NEED.format('datasets')}") from error
    try:
        with without_bars():
            return load_from_disk(str(folder))
    except Exception as error:  # the library raises its own and pyarrow's
        raise UserError(
            f"{folder}: not a saved dataset that can be read ({one_line(error)[:300]})"
        ) from error


def table_of(split: Any, source: str) -> Table:
    """Return a split of ``datasets`` as a table."""
    names = {name: getattr(feature, "names", None) for name, feature in (split.features or {}).items()}
    rows = list(_saved_rows(split, source))
    return Table(source, rows, {name: tuple(known) for name, known in names.items() if known})


def _saved_rows(split: Any, source: str) -> Iterator[Row]:
    for number, record in enumerate(split, start=1):
        yield Row(f"{source}, row {number}", dict(record))


def json_rows(lines: Iterable[str], source: str) -> Iterator[Row]:
    """Yield the object of each line of JSON, as it comes; a decimal that float64 cannot hold stays one.

    Raises:
        UserError: A line is no JSON object; names it.
    """
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{source} line {number}"
        try:
            record = json.loads(line, parse_float=_number)
        except (ValueError, RecursionError) as error:  # ValueError: broken JSON, or a number too long to read
            raise UserError(f"{where}: not JSON ({one_line(error)}); write one object a line") from error
        if not isinstance(record, dict):
            raise UserError(f"{where}: a JSON object is needed, not {shown_value(record)}")
        yield Row(where, record)


def _number(text: str) -> float | Decimal:
    number = float(text)
    if len(text) <= _FLOAT_LENGTH or Decimal(repr(number)) == Decimal(text):
        return number
    return Decimal(text)


def _parquet_table(path: Path) -> Table:
    with _parquet_file(path) as file:
        rows = list(_parquet_rows(file, path))
        return Table(str(path), rows, _class_names(file.schema_arrow.metadata or {}))


@contextmanager
def _parquet_file(path: Path) -> Iterator[Any]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(f"{path}: reading Parquet {_NEED.format('pyarrow')}") from error
    try:
        # not read_table: it makes columns of the folders above, where they are called NAME=VALUE
        with pyarrow.parquet.ParquetFile(path) as file:
            yield file
    except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
        raise UserError(f"{path}: not a Parquet file that can be read ({one_line(error)})") from error


def _parquet_rows(file: Any, path: Path) -> Iterator[Row]:
    number = 0
    for batch in file.iter_batches(_ROWS):
        for record in batch.to_pylist():
            number += 1
            yield Row(f"{path} row {number}", record)


def _class_names(metadata: Mapping[bytes, bytes]) -> dict[str, tuple[str, ...]]:
    """Return the meaning of class numbers by column, as ``datasets`` writes it beside the columns."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        described = {name: feature for name, feature in features.items() if isinstance(feature, dict)}
        return {
            str(name): tuple(map(str, feature["names"]))
            for name, feature in described.items()
            if feature.get("_type") == "ClassLabel" and feature.get("names")
        }
    except (KeyError, TypeError, ValueError, AttributeError):  # of another tool, or of none
        return {}
