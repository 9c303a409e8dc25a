"""A training that is asked about: its texts, their kernel, and what training on a part of them comes to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lmntk.attribution.parts import Parts, Refits
from lmntk.errors import UserError
from lmntk.solvers.inputs import Array


class Refitted(Protocol):
    """A training that can be done on a part of its texts."""

    def refits(self, cross: Any = None, cross_f0: Any = None) -> Refits:
        """Return the training, whose outcomes are those of other texts; by default of its own."""
        ...

    def parts(self, cross: Array, cross_f0: Array) -> Parts:
        """Return decisions on other texts, taken apart."""
        ...


@dataclass(frozen=True, eq=False)
class Trained:
    """A kept training.

    Attributes:
        folder: where it is.
        name: what it is called in sentences.
        settings: how it was trained, by name.
        plain: the N training texts.
        rows: their numbers for people, from 1.
        numbers: their classes.
        same: of each the number of the first text that is the same.
        labels: the classes' names.
        intercept: the part of each decision that no training text has [C].
        solution: what refits.
    """

    folder: Path
    name: str
    settings: Mapping[str, Any]
    plain: Sequence[str]
    rows: Sequence[int]
    numbers: Sequence[int]
    same: Sequence[int]
    labels: Sequence[str]
    intercept: Array
    solution: Refitted

    def groups(self) -> list[list[int]]:
        """Return the numbers of the texts that are the same, together, in the order of the first of each."""
        found: dict[int, list[int]] = {}
        for number, first in enumerate(self.same):
            found.setdefault(first, []).append(number)
        return list(found.values())

    def number_of(self, row: int) -> int:
        """Return the number of the text in a row.

        Raises:
            UserError: there is no such row.
        """
        if row not in self.rows:
            raise UserError(
                f"explain: row {row} is not in the training set of {self.name}, whose rows are {self.rows[0]} to {self.rows[-1]}"
            )
        return self.rows.index(row)

    def numbers_of(self, text: str) -> list[int]:
        """Return the numbers of the training texts that read so.

        Raises:
            UserError: there is none.
        """
        found = [number for number, plain in enumerate(self.plain) if plain == text]
        if not found:
            import difflib

            near = difflib.get_close_matches(text, self.plain, n=1)
            hint = (
                f"; near it is row {self.rows[self.plain.index(near[0])]}, {near[0][:60]!r}" if near else ""
            )
            raise UserError(
                f"explain: the text {text[:60]!r} is not in the training set of {self.name}{hint}"
            )
        return found

    def class_of(self, label: str) -> int:
        """Return the number of a class.

        Raises:
            UserError: there is no such class.
        """
        if label not in self.labels:
            raise UserError(
                f"explain: {label!r} is no class of {self.name}; the classes are {', '.join(self.labels)}"
            )
        return self.labels.index(label)
