"""The memory model of kernels: bytes in each phase, on a processor and on a GPU; see ``phases``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

from lmntk.engine.budget import Bytes, Phases
from lmntk.engine.lengths import Groups, chunks_of, largest_of, most_tokens, tile_tokens, tokens_of
from lmntk.engine.phases import DOUBLE, GPU_MARGIN, MARGIN, Trial, measuring_bytes
from lmntk.kernels.gram import COPY_BYTES, GPU_TILE_BYTES, TILE_BYTES

MOST_COLUMNS = 256  # of a tile: more save little, and are lost together when a run is cut short
COLUMNS_PER_ROW = 4  # or so many for each row text, whose gradients are made anew for each tile
BUFFERS = 4  # of a GPU's tiles at once: rows and columns, and, where signs are taken, theirs
PINNED = 2  # pinned blocks are powers of two: at most this much for what is in them
STREAMED = 2  # of row factors that come to a GPU from elsewhere: the parameter at hand, and the next

Place = Literal[
    "near", "host", "disk"
]  # of row factors: beside the arithmetic, in the host's memory, on disk


@dataclass(frozen=True)
class KernelSizes:
    """Sizes of the work on kernels.

    Attributes:
        trial: what a few texts took.
        rows: the row texts' lengths in tokens, by group.
        columns: the lengths of the column texts that are not rows too, by group.
        blocks: pairs of texts of all kernels of the work, of each group of parameters its own.
        kernels: how many a pair of texts has, of each group of parameters its own.
        batch_size: the most texts in one forward pass.
        weights: bytes of the model.
        copies: workers that share the host's memory, each with row factors of its own; on a processor with a model too.
        has_scratch: the row factors may go to disk.
        keep_factors: they have to, and the column texts' too.
        lower: the precision is lower than float32, and what that costs is measured first.
        columns_of_lora: the most of a parameter, whose projected inputs are there one at a time.
    """

    trial: Trial
    rows: Groups
    columns: Groups
    blocks: int
    kernels: int = 1
    batch_size: int = 32
    weights: int = 0
    copies: int = 1
    has_scratch: bool = False
    keep_factors: bool = False
    lower: bool = False
    columns_of_lora: int = 0

    @property
    def row_lengths(self) -> list[int]:
        """The lengths of the row texts of all groups."""
        return [length for group in self.rows for length in group]


@dataclass(frozen=True)
class KernelCut:
    """A cut of the work on kernels.

    Attributes:
        place: where row factors stay.
        batch: texts in one forward pass.
        chunk: column texts of a tile.
        tile_bytes: of the contraction's buffers.
        loss_texts: row texts that a lower precision is measured on; 0 where there is none.
    """

    place: Place
    batch: int
    chunk: int
    tile_bytes: int = TILE_BYTES
    loss_texts: int = 0


class KernelMemory(ABC):
    """Memory of the work on kernels, by its cut.

    Attributes:
        places: where row factors may stay, from the nearest.
        most_columns: column texts of a tile, at most.
        most_tile_bytes: of the contraction's buffers.
        advice: what could be done beside giving more of the host's memory.
    """

    places: list[Place]
    most_columns: int = MOST_COLUMNS
    most_tile_bytes: int
    advice: str = ""

    def __init__(self, sizes: KernelSizes) -> None:
        self.sizes, self.trial = sizes, sizes.trial
        self.results = (
            2 * DOUBLE * sizes.blocks * sizes.trial.outputs**2
        )  # once more while they are put together
        self.row_bytes, self.tile_bytes = cache(self._row_bytes), cache(self._tile_bytes)

    @abstractmethod
    def phases(self, cut: KernelCut) -> Phases:
        """Return what each phase holds."""

    def disk_bytes(self, cut: KernelCut) -> int:
        """Return the bytes of the factors on disk."""
        if cut.place != "disk":
            return 0
        columns = chunks_of(self.sizes.columns, cut.chunk) if self.sizes.keep_factors else []
        return self.row_bytes(cut.batch) + int(self._a_token * tokens_of(columns, cut.batch))

    def parameter_bytes(self, batch: int) -> int:
        """Return the bytes of the largest parameter's row factors: what is there at a time if they live elsewhere."""
        return int(self.row_bytes(batch) * self.trial.largest / max(self.trial.factors, 1))

    @property
    def _a_token(self) -> float:
        """The bytes of one token's factors."""
        return self.trial.factors / self.trial.tokens

    def projected_bytes(self, batch: int, chunk: int) -> int:
        """Return what one parameter's projected inputs take, of the rows and of a tile's columns."""
        tokens = tokens_of(self.sizes.rows, batch) + tile_tokens(self.sizes.columns, chunk, batch)
        return int(DOUBLE * self.sizes.columns_of_lora * tokens)

    def _row_bytes(self, batch: int) -> int:
        """Return the bytes of all row factors."""
        return int(self._a_token * tokens_of(self.sizes.rows, batch))

    def _tile_bytes(self, batch: int, chunk: int) -> float:
        """Return the bytes of the column factors of the tile with the most tokens."""
        return self._a_token * tile_tokens(self.sizes.columns, chunk, batch)


class ProcessorMemory(KernelMemory):
    """Memory of the work on kernels where the processor computes: all of it is the host's."""

    most_tile_bytes = TILE_BYTES

    def __init__(self, sizes: KernelSizes) -> None:
        super().__init__(sizes)
        near: list[Place] = [] if sizes.keep_factors else ["near"]
        self.places = [*near, "disk"] if sizes.has_scratch else near
        self.most_columns = max(MOST_COLUMNS, COLUMNS_PER_ROW * len(sizes.row_lengths))
        self.advice = "" if sizes.has_scratch else ", or name a folder for what does not fit, with --scratch"
        self.batch_tokens = cache(self._batch_tokens)

    def phases(self, cut: KernelCut) -> Phases:
        """Return what each phase holds: each worker has a model, row factors and buffers of its own."""
        sizes, trial = self.sizes, self.trial
        fixed = trial.resident + MARGIN + sizes.copies * 2 * TILE_BYTES + self.results
        fixed += (sizes.copies - 1) * sizes.weights
        rows, tile = self.row_bytes(cut.batch), self.tile_bytes(cut.batch, cut.chunk)
        is_near = cut.place == "near"
        passes = trial.working / trial.tokens * self.batch_tokens(cut.batch, cut.chunk)
        capturing = (rows if is_near else 0) + tile + passes
        contracting = (rows if is_near else self.parameter_bytes(cut.batch)) + tile + self._copied(cut)
        contracting += self.projected_bytes(cut.batch, cut.chunk)
        phases = {
            "capturing": Bytes(int(fixed + sizes.copies * capturing)),
            "contracting": Bytes(int(fixed + sizes.copies * contracting)),
            "checking": Bytes(trial.checked),
        }
        if cut.loss_texts:
            measured = measuring_bytes(trial, sizes.row_lengths, cut.loss_texts, cut.batch)
            copied = self._copied(replace(cut, chunk=1))
            phases["measuring"] = Bytes(trial.resident + MARGIN + 2 * TILE_BYTES + measured + copied)
        return phases

    def _batch_tokens(self, batch: int, chunk: int) -> int:
        """Return the tokens of the batch with the most."""
        return most_tokens([*self.sizes.rows, *chunks_of(self.sizes.columns, chunk)], batch)

    def _copied(self, cut: KernelCut) -> int:
        """Return what factors without padding take, of rows and of one batch of columns.

        Of each side they are of two of the largest parameters at a time, as gate and up are. A batch of one text has no padding.
        """
        if cut.batch == 1:
            return 0
        of_batch = int(self.trial.largest * self.batch_tokens(cut.batch, cut.chunk) / self.trial.tokens)
        return min(COPY_BYTES, 2 * self.parameter_bytes(cut.batch)) + min(COPY_BYTES, 2 * of_batch)


class GpuMemory(KernelMemory):
    """Memory of the work on kernels where a GPU computes.

    On it lie the weights, the column factors of a tile, the result, what a batch takes while it is captured, and, if there is room, the
    row factors. If there is none they wait in the host's pinned memory, or on disk, and come in a parameter at a time.
    """

    most_tile_bytes = GPU_TILE_BYTES

    def __init__(self, sizes: KernelSizes) -> None:
        super().__init__(sizes)
        every: list[Place] = ["near", "host", "disk"]
        self.places = every[2:] if sizes.keep_factors else every if sizes.has_scratch else every[:2]

    def phases(self, cut: KernelCut) -> Phases:
        """Return what each phase holds: each GPU has row factors of its own, in the host's memory or read from disk too."""
        sizes, trial = self.sizes, self.trial
        rows, parameter = self.row_bytes(cut.batch), self.parameter_bytes(cut.batch)
        pinned = {"near": 0, "host": PINNED * rows, "disk": PINNED * STREAMED * parameter}[cut.place]
        host = trial.resident + MARGIN + self.results + sizes.copies * pinned
        fixed = trial.held + GPU_MARGIN
        near, tile = rows if cut.place == "near" else 0, self.tile_bytes(cut.batch, cut.chunk)
        texts = min(cut.batch, largest_of([*sizes.rows, *sizes.columns]))
        capturing = near + tile + trial.working / trial.tokens * trial.longest * texts
        # columns that are rows too come whole: a tile may be as wide as a group. The result is there twice while its axes turn
        wide = max(cut.chunk, largest_of(sizes.rows))
        result = 2 * DOUBLE * sizes.kernels * len(sizes.row_lengths) * wide * trial.outputs**2
        contracting = (near or STREAMED * parameter) + tile + BUFFERS * cut.tile_bytes + result
        contracting += self.projected_bytes(cut.batch, cut.chunk)
        phases = {
            "capturing": Bytes(host, int(fixed + capturing)),
            "contracting": Bytes(host, int(fixed + contracting)),
            "checking": Bytes(trial.checked, trial.gpu_checked),
        }
        if cut.loss_texts:
            measured = measuring_bytes(trial, sizes.row_lengths, cut.loss_texts, cut.batch)
            phases["measuring"] = Bytes(host, fixed + BUFFERS * TILE_BYTES + measured)
        return phases
