"""The result of one setting of a solver."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lmntk.solvers.inputs import Array
from lmntk.solvers.linear_form import LinearForm


@dataclass(frozen=True, eq=False)
class GridResult:
    """One setting: its decisions on every eval set, and figures on the solve.

    Leave-one-out decisions on train are there if they were asked for.

    ``linear`` is there where decisions are linear in the gradient of the text to classify.
    """

    setting: Mapping[str, float]
    decisions: Mapping[str, Array]  # name -> (m, c)
    loo: Array | None = None  # (n, c)
    diagnostics: Mapping[str, float] = field(default_factory=dict)
    linear: LinearForm | None = None

    @property
    def dev_decision(self) -> Array:
        """Decisions [M, C] on "dev"."""
        return self.decisions["dev"]

    @property
    def test_decision(self) -> Array:
        """Decisions [M, C] on "test"."""
        return self.decisions["test"]
