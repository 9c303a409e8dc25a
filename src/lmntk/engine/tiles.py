"""Tiles: the kernels of row texts with a chunk of column texts, as they are asked for and as they come."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Report = Callable[[int, int], None]  # texts captured, pairs of texts contracted, since the last call
GroupReport = Callable[[str, int, int, int], None]  # the same of a group, or of its chunk from this text on
SEPARATOR, NOISE, LOGITS = "\t", "noise", "logits"  # of the names of a tile's tensors in a file
NOT_COUNTED = -1  # in a file, where a number has to be


@dataclass(frozen=True)
class Job:
    """A tile to make: which row groups, and which texts of a column group."""

    rows: tuple[str, ...]
    column: str
    start: int
    stop: int

    @property
    def name(self) -> str:
        """A name among the work's tiles."""
        return f"{self.column}-{self.start:08d}-{self.stop:08d}"


@dataclass(frozen=True)
class Tile:
    """Kernels and logits that a job comes to, in the texts' order.

    Attributes:
        kernels: by row group, kernel name and parameter group, [n, c, m, d].
        column_logits: of the chunk's texts, [m, d].
        row_logits: by row group, [n, c].
        noise: by row group, how many coordinates were left out of its sign kernels; None where nobody looked for any.
    """

    kernels: dict[tuple[str, str, str], Tensor]
    column_logits: Tensor
    row_logits: dict[str, Tensor]
    noise: dict[str, int | None]

    def as_tensors(self) -> dict[str, Tensor]:
        """Return all of it as tensors by name, as a file has them."""
        named = {SEPARATOR.join(label): values for label, values in self.kernels.items()}
        named |= {SEPARATOR.join((row, LOGITS)): values for row, values in self.row_logits.items()}
        for row, count in self.noise.items():
            named[SEPARATOR.join((row, NOISE))] = torch.tensor(NOT_COUNTED if count is None else count)
        return named | {LOGITS: self.column_logits}

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> Tile:
        """Return the tile of tensors by name."""
        kernels, row_logits, noise = {}, {}, dict[str, int | None]()
        for label, values in tensors.items():
            match label.split(SEPARATOR):
                case [row, name, group]:
                    kernels[row, name, group] = values
                case [row, kind] if kind == LOGITS:
                    row_logits[row] = values
                case [row, _]:
                    noise[row] = None if int(values) == NOT_COUNTED else int(values)
        return cls(kernels, tensors[LOGITS], row_logits, noise)


def in_order(values: Tensor, order: Sequence[int]) -> Tensor:
    """Return rows that were computed in ``order`` in the order of the texts."""
    restored = torch.empty_like(values)
    restored[torch.as_tensor(order, device=values.device)] = values
    return restored
