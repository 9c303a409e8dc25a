"""The pieces that the kernels of a unit are computed in, written down when they begin.

Which kernels are missing changes while they are saved; what was begun does not. A run that goes on follows the pieces that it finds, finds
their tiles so, and ends in the bits of one that was never cut short.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lmntk.engine.work import Owner, Scratch, saying_full
from lmntk.system.files import write_text

PIECES = "pieces.json"


@dataclass(frozen=True)
class Piece:
    """Cells, by name, whose kernels of these formulas are computed together; ``work`` is the name of its scratch files."""

    splits: tuple[str, ...]
    formulas: tuple[str, ...]
    work: str


class Begun:
    """The pieces of one unit's work.

    Args:
        root: the scratch folder; without one nothing is written down.
        key: a hash of what is asked for: splits and formulas, but not how the work is cut.
        owner: whose the work is.
    """

    def __init__(self, root: Path | None, key: str, owner: Owner) -> None:
        self.owner = owner
        self.scratch = None if root is None else Scratch(root, key)

    def read(self) -> list[Piece]:
        """Returns the pieces that an earlier run began, if it was cut short."""
        if self.scratch is None:
            return []
        try:
            found = json.loads((self.scratch.folder / PIECES).read_text(encoding="utf8"))
            return [Piece(tuple(one["cells"]), tuple(one["formulas"]), str(one["work"])) for one in found]
        except (OSError, ValueError, KeyError, TypeError):
            return []

    def write(self, pieces: Sequence[Piece]) -> None:
        """Writes the pieces down.

        Raises:
            UserError: the disk is full.
        """
        if self.scratch is not None:
            self.scratch.claim(self.owner)
            with saying_full(self.scratch.folder):
                write_text(
                    self.scratch.folder / PIECES,
                    json.dumps(
                        [{"cells": p.splits, "formulas": p.formulas, "work": p.work} for p in pieces],
                        indent=1,
                    )
                    + "\n",
                )

    def remove(self) -> None:
        """Forgets them: all of their kernels are kept, or of no use any more."""
        if self.scratch is not None:
            self.scratch.remove()
