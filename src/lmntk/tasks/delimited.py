"""CSV and TSV: which separator, which quoting, which columns; what is guessed is said in one line."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lmntk.errors import UserError, one_line
from lmntk.system.notices import say
from lmntk.tasks.rows import Row, listed, text_lines

_SEPARATORS = (",", "\t", ";")
_NAMES = {",": "commas", "\t": "tabs", ";": "semicolons"}
_SEPARATOR_LINE = re.compile(r'"?sep=([^"\w\r\n])"?', re.IGNORECASE)  # as Excel writes and reads it
_LONGEST_CELL = 2**31 - 1  # the module's own limit is 131,072 characters
_LOOKS_QUOTED = re.compile(r'(?:^|\t)"[^\t\r\n]*"(?:\t|\r?$)', re.MULTILINE)

Record = tuple[int, list[str]]  # the line where it begins, and its cells


@dataclass(frozen=True)
class _Text:
    """A file's lines, the number of the first, and how its cells are told apart."""

    path: Path
    lines: Sequence[str]
    first: int
    delimiter: str
    quoted: bool


def delimited_rows(
    path: Path, is_tsv: bool, quoted: bool | None, header: tuple[str, ...] | None, *, skip_short: bool
) -> list[Row]:
    """Return the rows of a CSV or TSV file; arguments as for ``formats.read_file``.

    Raises:
        UserError: A row has more or fewer cells than there are columns, or broken quoting.
    """
    lines, usual = list(text_lines(path)), "\t" if is_tsv else ","
    if header is not None:
        whole = _Text(path, lines, 1, usual, quoted is not False)
        return _rows(path, list(_records(whole)), header, skip_short, whole.quoted)
    first, candidates = 1, [usual, *(each for each in _SEPARATORS if each != usual)]
    announced = _SEPARATOR_LINE.fullmatch(lines[0].rstrip("\r\n")) if lines else None
    if announced:
        first, lines, candidates = 2, lines[1:], [announced[1]]
        say(f"{path}: line 1 says that cells end at {announced[1]!r}; it is not a row")
    texts = [_Text(path, lines, first, each, _is_quoted(lines, each, is_tsv, quoted)) for each in candidates]
    # where none fits, the first mistake is said of the first that makes columns of the header
    chosen = next((text for text in texts if _fits(text)), None) or max(
        texts, key=lambda text: _width(text) > 1
    )
    if chosen.delimiter != candidates[0]:
        say(f"{path}: read as cells between {_NAMES[chosen.delimiter]}, which its header line has")
    if quoted is None and chosen.delimiter == "\t" and is_tsv:
        if chosen.quoted:
            say(f"{path}: cells in double quotes are read without them")
        elif _LOOKS_QUOTED.search("".join(lines)):
            say(f"{path}: double quotes are kept as text, because some cells that need them lack them")
    records = list(_records(chosen))
    if not records:
        return []
    (number, names), *records = records
    return _rows(path, records, _header(path, number, names), skip_short, chosen.quoted)


def _is_quoted(lines: Sequence[str], delimiter: str, is_tsv: bool, quoted: bool | None) -> bool:
    if quoted is not None:
        return quoted
    return not (is_tsv and delimiter == "\t") or is_consistently_quoted("".join(lines), delimiter)


def is_consistently_quoted(text: str, delimiter: str) -> bool:
    """Return whether a writer of quotes has written a text, and quotes are no part of what it says.

    Quotes stand around whole cells alone; all rows have as many cells as the first; and the quoted cells are those that need it
    (for a quote, a separator, a line break or a space at an end), or these and all with a comma (as Excel), or whole columns.
    """
    if '"' not in text:
        return False
    ends = re.escape(delimiter) + "\r\n"
    cell = re.compile(f'"([^"]*(?:""[^"]*)*)"(?=[{ends}]|\\Z)|([^"{ends}]*)(?=[{ends}]|\\Z)')
    rows: list[list[tuple[str, bool]]] = [[]]
    position = 0
    while position <= len(text):
        match = cell.match(text, position)
        if match is None:
            return False
        rows[-1].append((match[2] or match[1] or "", match[1] is not None))
        position = match.end()
        if text[position : position + 2] == "\r\n":
            position += 1
        if position < len(text) and text[position] != delimiter:
            rows.append([])
        position += 1
    rows = [row for row in rows if row not in ([], [("", False)])]
    if len({len(row) for row in rows}) != 1:
        return False
    cells = [cell for row in rows for cell in row]
    breaks = any("\n" in value or "\r" in value for value, _ in cells)
    if breaks and len({line.count(delimiter) for line in re.split("\r\n|\r|\n", text) if line}) == 1:
        return False  # each line is a row as it stands
    needing = re.compile(f'["{ends}]|^\\s|\\s$|^$')
    if all(needing.search(value) for value, is_quoted in cells if is_quoted):
        return True
    if all(bool(needing.search(value) or "," in value) == is_quoted for value, is_quoted in cells if value):
        return True
    return all(len({is_quoted for _, is_quoted in column}) == 1 for column in zip(*rows[1:], strict=True))


def _fits(text: _Text) -> bool:
    """Return whether a header of two columns or more is followed by rows of as many cells."""
    width = _width(text)
    try:
        return width > 1 and all(
            cells == [""] or (len(cells) >= width and not any(cell.strip() for cell in cells[width:]))
            for _, cells in _records(text)
        )
    except UserError:
        return False


def _width(text: _Text) -> int:
    """Return the number of columns in the header, 0 without one."""
    try:
        return next((len(_without_blank_end(cells)) for _, cells in _records(text)), 0)
    except UserError:
        return 0


def _header(path: Path, number: int, cells: Sequence[str]) -> tuple[str, ...]:
    header = tuple(name.strip() for name in cells)
    named = tuple(_without_blank_end(header)) or header
    if len(named) < len(header):
        count = len(header) - len(named)
        say(f"{path}: {count} column{'s' if count > 1 else ''} at the end without a name left out")
    twice = [name for name in named if named.count(name) > 1]
    if twice:
        raise UserError(f"{path} line {number}: column {twice[0]!r} is there twice; rename one")
    return named


def _without_blank_end(cells: Sequence[str]) -> Sequence[str]:
    width = len(cells)
    while width and not cells[width - 1].strip():
        width -= 1
    return cells[:width]


def _rows(
    path: Path, records: Sequence[Record], header: tuple[str, ...], skip_short: bool, quoted: bool
) -> list[Row]:
    rows, short = [], []
    for number, cells in records:
        if len(cells) == 1 and not cells[0].strip() and len(header) > 1:
            continue
        if skip_short and len(cells) < len(header):
            short.append(number)
            continue
        where = f"{path} line {number}"
        if len(cells) < len(header) or any(cell.strip() for cell in cells[len(header) :]):
            hint = (
                "put a text that has a separator or a quote in double quotes"
                if quoted
                else "a text may not hold a tab"
            )
            raise UserError(
                f"{where}: {len(cells)} cells for {len(header)} columns ({listed(header)}); {hint}"
            )
        rows.append(Row(where, dict(zip(header, cells, strict=False))))
    if short:
        say(f"{path}: {len(short)} broken rows with too few cells left out, the first at line {short[0]}")
    return rows


def _records(text: _Text) -> Iterator[Record]:
    """Yield the records, the header's too, each with the line where it begins; no blank line before the header."""
    begun = False
    for number, cells in _quoted_records(text) if text.quoted else _plain_records(text):
        begun = begun or any(cell.strip() for cell in cells)
        if begun:
            yield number, cells


def _plain_records(text: _Text) -> Iterator[Record]:
    for number, line in enumerate(text.lines, start=text.first):
        yield number, line.rstrip("\r\n").split(text.delimiter)


def _quoted_records(text: _Text) -> Iterator[Record]:
    reader = csv.reader(iter(text.lines), delimiter=text.delimiter, strict=True)
    number = text.first
    try:
        with _long_cells():
            for cells in reader:
                if cells:  # no blank line
                    yield number, cells
                number = text.first + reader.line_num
    except csv.Error as error:
        raise UserError(
            f"{text.path} line {number}: broken quoting ({one_line(error)}); "
            "double a quote that is part of the text"
        ) from error


@contextmanager
def _long_cells() -> Iterator[None]:
    before = csv.field_size_limit(_LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)
