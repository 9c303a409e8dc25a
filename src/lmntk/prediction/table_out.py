"""The output of ``lmntk predict``: the input's table with columns of answers, or lines of JSON."""

from __future__ import annotations

import csv
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from lmntk.errors import UserError
from lmntk.prediction.texts import STANDARD
from lmntk.tasks.rows import Row, listed

if TYPE_CHECKING:
    from lmntk.prediction.answers import Answer

ANSWER_COLUMNS = ("label", "probability", "margin", "look")
SUFFIX = "_predicted"
"""Behind the name of a column of answers where the input has one of that name."""

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_LINES = (".jsonl", ".json")


class AnswerWriter(ABC):
    """Answers on their way into an open file."""

    @abstractmethod
    def write(self, out: IO[str], rows: Sequence[Row], answers: Sequence[Answer]) -> None:
        """Write the answers on some rows of the input."""

    def remarks(self) -> list[str]:
        """Return what there is to say of the columns, in a line each."""
        return []


class LineWriter(AnswerWriter):
    """Lines of JSON, with the probabilities of all classes and all decisions, and nothing of the input."""

    def write(self, out: IO[str], rows: Sequence[Row], answers: Sequence[Answer]) -> None:
        """Write a line an answer."""
        for answer in answers:
            line = {
                "class": answer.index,
                "label": answer.label,
                "probabilities": [round(value, 6) for value in answer.probabilities],
                "decisions": answer.decisions,
                "margin": answer.margin,
                "look": answer.look,
            }
            out.write(json.dumps(line, ensure_ascii=False) + "\n")


class _Lines:
    """A file for ``csv.writer``, which puts a lone carriage return into quotes only where lines end in one; here they do not."""

    END = "\r\n"

    def __init__(self, out: IO[str]) -> None:
        self.out = out

    def write(self, line: str) -> int:
        """Write a row."""
        return self.out.write(line.removesuffix(self.END) + "\n")


class TableWriter(AnswerWriter):
    """The input's columns as they are, in their order, and ``ANSWER_COLUMNS`` behind them.

    The columns are those of the first rows that are written: lines of JSON may bring others later, which are left out and remarked.
    """

    def __init__(self, target: str, delimiter: str) -> None:
        self.target, self.delimiter = target, delimiter
        self.columns: list[str] = []
        self.names: dict[str, str] = {}
        self.left_out: dict[str, str] = {}  # columns that came too late, and where they first came

    def write(self, out: IO[str], rows: Sequence[Row], answers: Sequence[Answer]) -> None:
        """Write a row an answer, and the header before the first."""
        table = csv.writer(_Lines(out), delimiter=self.delimiter, lineterminator=_Lines.END)
        if not self.names:
            self.columns = list(dict.fromkeys(name for row in rows for name in row.cells))
            self.names = _free_names(self.columns)
            table.writerow([*self.columns, *self.names.values()])
        known = set(self.columns)
        for row, answer in zip(rows, answers, strict=True):
            for name in row.cells:
                if name not in known:
                    self.left_out.setdefault(name, row.where)
            cells = [_as_text(row.cells.get(name)) for name in self.columns]
            numbers = [f"{number:.6g}" for number in (answer.probability, answer.margin)]
            table.writerow([*cells, answer.label, *numbers, "yes" if answer.look else ""])

    def remarks(self) -> list[str]:
        """Return which columns have other names than usual, and which were left out."""
        lines = [
            f"{self.target}: the input already has a column {usual!r}; the answers go into {name!r}"
            for usual, name in self.names.items()
            if usual != name
        ]
        if self.left_out:
            name, where = next(iter(self.left_out.items()))
            lines.append(
                f"{self.target}: columns that the first rows lack are left out: {listed(self.left_out)} "
                f"({name!r} first came at {where})"
            )
        return lines


def writer_for(target: str) -> AnswerWriter:
    """Return the writer for a file, by its ending; stdout, pipes and devices get lines of JSON where they have none.

    Raises:
        UserError: the ending is of no format that can be written.
    """
    path = Path(target)
    ending = path.suffix.lower()
    if target != STANDARD and ending in _DELIMITERS:
        return TableWriter(target, _DELIMITERS[ending])
    is_stream = target == STANDARD or (path.exists() and not path.is_file())
    if ending not in _LINES and not is_stream:
        endings = ", ".join([*_DELIMITERS, *_LINES])
        raise UserError(f"out: cannot tell the format of {target!r} from its ending; use one of {endings}")
    return LineWriter()


def _free_names(columns: Sequence[str]) -> dict[str, str]:
    """Return the names of the columns of answers: the usual ones, with suffixes where the input has them."""
    names = {}
    for usual in ANSWER_COLUMNS:
        name = usual
        while name in columns:
            name += SUFFIX
        names[usual] = name
    return names


def _as_text(value: Any) -> str:
    """Return a cell as text: of a list or an object its JSON, of nothing nothing."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, bool | list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)
