"""Labels: a label is the text that the file has. Which columns are numbers, which classes they make, in which order.

A *numeric column* has only whole numbers of at most 15 digits, written plainly: ``-?(0|[1-9]\\d*)(\\.0+)?``. There alone the
``.0`` is dropped, and classes are sorted by value. In every other column a label is kept as it is written, ``0111`` and
``1e5`` too, and classes are sorted by code point. Cells of typed columns (JSON, Parquet) go by the text of their value.
"""

from __future__ import annotations

import ast
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from lmntk.errors import UserError
from lmntk.system.notices import say
from lmntk.tasks.rows import shown_value

HIDDEN = "-1"
"""The label by which hubs hide a label."""

_SHOWN = 12
_DIGITS = 15  # float64, which spreadsheets and pandas put numbers into, keeps so many
_WHOLE = re.compile(r"(-?(?:0|[1-9][0-9]*))(?:\.0+)?")
_NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_MISSING = frozenset({"nan", "na", "n/a", "#n/a", "<na>", "none", "null"})
_VARIATION = re.compile("[\ufe00-\ufe0f]")  # marks that choose between forms of a sign


def label_text(value: Any) -> str:
    """Return the text of a label cell: text as it is, a typed value as JSON writes it.

    Raises:
        TypeError: a cell that holds no text, number, truth value or date.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        return f"{value:f}"
    if value is None or isinstance(value, list | tuple | dict | set | bytes):
        raise TypeError(f"{value!r} is neither text nor a number")
    return str(value)


def refuse_several(value: Any, where: str, column: str = "label") -> None:
    """Refuse a label cell that holds a list, as texts with several labels have it, written as text too.

    Raises:
        UserError: so it is; says what to do.
    """
    listed = value
    if isinstance(value, str) and value.strip().startswith("[") and value.strip().endswith("]"):
        try:
            listed = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return
    if isinstance(listed, list | tuple | set):
        raise UserError(
            f"{where}: {column!r} holds a list of labels ({shown_value(value)}), and texts with several labels are not supported; "
            "give each text one label, or make a task of each label: yes or no"
        )


def is_blank(value: Any) -> bool:
    """Return True for a label cell that holds nothing: null, NaN or white space."""
    return (
        value is None
        or (isinstance(value, float | Decimal) and value != value)
        or (isinstance(value, str) and not value.strip())
    )


def whole_number(text: str) -> str | None:
    """Return the text without ``.0`` where it is a whole number as a numeric column has them, else None."""
    match = _WHOLE.fullmatch(text)
    return match[1] if match and len(match[1].lstrip("-")) <= _DIGITS else None


def is_numeric(texts: Iterable[str]) -> bool:
    """Return whether a column of these labels is numeric."""
    return all(whole_number(text) is not None for text in texts)


def loose(name: str) -> str:
    """Return a label without what loose matching passes over: case, form of accents, and ``_`` or ``-`` inside of it."""
    return re.sub(r"(?<=\w)[\s_-]+(?=\w)", " ", unicodedata.normalize("NFC", name).casefold().strip())


def shown(name: str) -> str:
    """Return a label for a message; quoted where it is not plain to see."""
    return name if name and name.isprintable() and name == name.strip() and name.isascii() else ascii(name)


@dataclass(frozen=True)
class LabelIndex:
    """Class indexes by label: ``names[i]`` is class i.

    Attributes:
        names: the classes, in order.
        numeric: their column is one of numbers, so ``1.0`` is ``1``.
        forgiving: labels that are no name may match loosely, or be numbers of classes; what did is kept in ``guessed``.
        guessed: the class index of each label that was not a name as it stands.
    """

    names: tuple[str, ...]
    numeric: bool = False
    forgiving: bool = False
    guessed: dict[str, int] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def given(cls, names: Iterable[Any]) -> LabelIndex:
        """Return the index for a given order of labels.

        Raises:
            UserError: A label is named twice, or fewer than two are named.
        """
        listed = [label_text(name) for name in names]
        numeric = is_numeric(listed)
        if numeric:
            listed = [whole_number(name) or name for name in listed]
        twice = sorted({name for name in listed if listed.count(name) > 1})
        if twice:
            raise UserError(
                f"label {twice[0]!r} is named twice among {', '.join(listed)}: name each class once"
            )
        if len(listed) < 2:
            raise UserError(f"a classification needs two labels or more, not {len(listed)}: name every class")
        return cls(tuple(listed), numeric, forgiving=True)

    @classmethod
    def found(cls, texts: Iterable[str]) -> LabelIndex:
        """Return the index for the labels that occur, sorted: a numeric column by value, else by code point."""
        names = set(texts)
        if not is_numeric(names):
            return cls(tuple(sorted(names)))
        names = {whole_number(name) or name for name in names}
        return cls(tuple(sorted(names, key=lambda name: (int(name), name))), numeric=True)

    def index(self, value: Any, where: str) -> int:
        """Return the class index of a label cell.

        Where the index forgives, a label that is no name matches one loosely; and a whole number that is no name is the class
        index itself, if no name is a number.

        Raises:
            UserError: The label is unknown; the message starts with ``where`` and lists the known ones.
        """
        try:
            text = label_text(value)
        except TypeError as error:
            raise UserError(f"{where}: the label {error}; give every row a label") from None
        name = (whole_number(text) if self.numeric else None) or text
        if name in self.names:
            return self.names.index(name)
        if self.forgiving:
            alike = [i for i, known in enumerate(self.names) if loose(known) == loose(name)]
            if len(alike) != 1 and not any(_NUMBER.fullmatch(known) for known in self.names):
                number = whole_number(name)
                alike = [int(number)] if number is not None and 0 <= int(number) < len(self.names) else []
            if len(alike) == 1:
                self.guessed[text] = alike[0]
                return alike[0]
        near = [known for known in self.names if _lookalike(known) == _lookalike(name)]
        hint = f" ({shown(near[0])} is another label to the letter)" if near else ""
        known = ", ".join(map(shown, self.names[:_SHOWN])) + (
            f" and {len(self.names) - _SHOWN} more" if len(self.names) > _SHOWN else ""
        )
        raise UserError(
            f"{where}: unknown label {ascii_if_odd(name)}{hint}; the known labels are {known or 'none'}"
        )

    def say_guesses(self, source: str) -> None:
        """Say which labels were read as which class, if any were not names as they stand."""
        if self.guessed:
            pairs = sorted(self.guessed.items())
            read = ", ".join(f"{ascii_if_odd(text)} as {shown(self.names[i])}" for text, i in pairs[:_SHOWN])
            more = f" and {len(pairs) - _SHOWN} more" if len(pairs) > _SHOWN else ""
            say(f"{source}: label {read}{more}")
            self.guessed.clear()


def ascii_if_odd(name: str) -> str:
    """Return a label in quotes, with escapes where it holds signs that cannot be told apart by eye."""
    return repr(name) if name.isprintable() and name.isascii() else ascii(name)


def check_missing(texts: Sequence[tuple[str, str]], source: str) -> None:
    """Refuse ``NaN`` and its like among numbers; beside words say that it is a class.

    Args:
        texts: each distinct label, with the place where it first stands.
        source: where the labels are from.

    Raises:
        UserError: every other label is a number; names the place.
    """
    missing = [(text, where) for text, where in texts if text.strip().casefold() in _MISSING]
    if not missing:
        return
    text, where = missing[0]
    others = [other for other, _ in texts if other not in dict(missing)]
    if all(_NUMBER.fullmatch(other) for other in others):
        raise UserError(
            f"{where}: label {text!r} among numbers means a missing label; give every row a label"
        )
    say(f"{source}: {' and '.join(repr(name) for name, _ in missing)} among the labels counts as a class")


def say_lookalikes(names: Sequence[str], source: str) -> None:
    """Say which labels differ only by case, the form of an accent, or a sign that cannot be seen."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_lookalike(name), []).append(name)
    for group in groups.values():
        if len(group) > 1:
            say(
                f"{source}: labels {' and '.join(map(ascii_if_odd, group))} differ only by case, form of accent or an "
                f"invisible sign; they are {len(group)} classes"
            )


def _lookalike(name: str) -> str:
    seen = "".join(s for s in name if s.isspace() or unicodedata.category(s) not in ("Cf", "Cc"))
    return " ".join(unicodedata.normalize("NFC", _VARIATION.sub("", seen)).casefold().split())
