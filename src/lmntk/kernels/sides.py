"""One parameter's factors on both sides of a Gram matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from lmntk.tangents.form import Factors

Placed = Sequence[tuple[slice, Factors]]  # batches of examples, each with its examples among all of them


@dataclass(frozen=True)
class Sides:
    """One parameter's factors of the rows and the columns, and the sums that their kernels are added to."""

    left: Placed
    right: Placed
    names: Sequence[str]  # of the kernels
    sums: Mapping[str, Sequence[Tensor]]  # [c, n, d, m], by kernel: all that the parameter is part of

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the sums' shape."""
        return tuple(self.sums[self.names[0]][0].shape)

    @property
    def is_own(self) -> bool:
        """Return whether the columns are the rows."""
        return self.left is self.right
