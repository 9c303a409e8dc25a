"""Label values of any type, turned into class indexes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from lmntk.errors import UserError

_SHOWN = 12


def label_name(value: Any) -> str:
    """Return the text by which a label value is known: ``1``, ``1.0`` and ``"1"`` are the same label."""
    text = str(value).strip()
    try:
        number = float(text)
    except ValueError:
        return text
    return str(int(number)) if number.is_integer() else text


def is_blank(value: Any) -> bool:
    """Return True for a label cell that holds nothing: null, NaN or white space."""
    return (
        value is None
        or (isinstance(value, float) and value != value)
        or (isinstance(value, str) and not value.strip())
    )


@dataclass(frozen=True)
class LabelIndex:
    """Class indexes by label name: ``names[i]`` is class i."""

    names: tuple[str, ...]

    @classmethod
    def given(cls, names: Iterable[Any]) -> LabelIndex:
        """Return the index for a given order of labels.

        Raises:
            UserError: A label is named twice, or fewer than two are named.
        """
        listed = tuple(label_name(name) for name in names)
        twice = sorted({name for name in listed if listed.count(name) > 1})
        if twice:
            raise UserError(
                f"label {twice[0]!r} is named twice among {', '.join(listed)}: name each class once"
            )
        if len(listed) < 2:
            raise UserError(f"a classification needs two labels or more, not {len(listed)}: name every class")
        return cls(listed)

    @classmethod
    def found(cls, values: Iterable[Any]) -> LabelIndex:
        """Return the index for the labels that occur, sorted: as numbers if all are numbers, else as text.

        Blanks are no label.
        """
        names = {label_name(value) for value in values if not is_blank(value)}
        try:
            return cls(tuple(sorted(names, key=lambda name: (float(name), name))))
        except ValueError:
            return cls(tuple(sorted(names)))

    def index(self, value: Any, where: str) -> int:
        """Return the class index of a label value.

        Case, ``_`` and ``-`` are passed over if no name matches exactly. A number that is no label name is
        taken as the class index itself, if no label name is a number.

        Raises:
            UserError: The label is unknown; the message starts with ``where`` and lists the known ones.
        """
        name = label_name(value)
        if name in self.names:
            return self.names.index(name)
        alike = [i for i, known in enumerate(self.names) if _loose(known) == _loose(name)]
        if len(alike) == 1:
            return alike[0]
        if (
            name.isdecimal()
            and int(name) < len(self.names)
            and not any(_is_number(known) for known in self.names)
        ):
            return int(name)
        known = ", ".join(self.names[:_SHOWN]) + (
            f" and {len(self.names) - _SHOWN} more" if len(self.names) > _SHOWN else ""
        )
        raise UserError(f"{where}: unknown label {name!r}; the known labels are {known or 'none'}")


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True


def _loose(name: str) -> str:
    return name.casefold().replace("_", " ").replace("-", " ").strip()
