"""The cut of the work on kernels: texts a batch, where the row texts' factors stay, column texts a tile.

A cut is written down with the work, for another one gives other last bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from lmntk.engine.budget import Budget, Search
from lmntk.engine.kernel_phases import GpuMemory, KernelCut, KernelMemory, KernelSizes, Place, ProcessorMemory
from lmntk.engine.lengths import batch_sizes, largest_of
from lmntk.kernels.gram import TILE_BYTES

FULL_BATCH = 8  # texts: smaller batches are worse than row factors that live elsewhere
LOSS_TEXTS = 16  # on which a lower precision is measured, at most


@dataclass(frozen=True)
class Schedule:
    """A cut, and what it holds; these are the names that it is written down with.

    Attributes:
        batch_size: texts in one forward pass.
        rows_on_disk: row factors lie on disk.
        chunk: column texts of a tile.
        peak: bytes that the process will hold at most.
        disk: bytes of factors on disk.
        rows_on_host: row factors lie in the host's memory, and a GPU computes.
        gpu_peak: bytes that a GPU will hold at most; 0 where the processor computes.
        tile_bytes: of the contraction's buffers.
        copies: workers that it is for.
        loss_texts: row texts that a lower precision than float32 is measured on; 0 where there is none.
    """

    batch_size: int
    rows_on_disk: bool
    chunk: int
    peak: int
    disk: int
    rows_on_host: bool = False
    gpu_peak: int = 0
    tile_bytes: int = TILE_BYTES
    copies: int = 1
    loss_texts: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Schedule:
        """Return the schedule in plain data."""
        return cls(**plain)


def make_schedule(sizes: KernelSizes, budget: Budget) -> Schedule:
    """Return the cut that fits into the budget.

    Row factors are as near as they can be; then batches and tiles are as large as they can be.

    Raises:
        UserError: it cannot be done in so little; says which option gives too little, and the least that works.
    """
    memory = (ProcessorMemory if budget.device_memory is None else GpuMemory)(sizes)
    search = Search(budget, memory.phases)
    least = [_smallest(sizes, place) for place in memory.places or ["near"]]
    cut = search.first(_cuts(sizes, memory, search), least, advice=memory.advice)
    cut = search.last(cut, _with_larger_tiles(cut, memory))
    cut = replace(cut, chunk=min(cut.chunk, largest_of(sizes.columns)))
    cut = search.last(cut, _with_larger_buffers(cut, memory))
    if sizes.lower:  # one text fits, or the cut would not have been taken
        counts = batch_sizes(min(LOSS_TEXTS, len(sizes.row_lengths)))
        cut = search.first((replace(cut, loss_texts=count) for count in counts), [cut])
    held = search.held(cut)
    return Schedule(
        cut.batch,
        cut.place == "disk",
        cut.chunk,
        int(held.host),
        memory.disk_bytes(cut),
        rows_on_host=cut.place == "host",
        gpu_peak=int(held.gpu),
        tile_bytes=cut.tile_bytes,
        copies=sizes.copies,
        loss_texts=cut.loss_texts,
    )


def _smallest(sizes: KernelSizes, place: Place) -> KernelCut:
    """Return the cut that holds the least."""
    return KernelCut(place, 1, 1, loss_texts=int(sizes.lower))


def _cuts(sizes: KernelSizes, memory: KernelMemory, search: Search[KernelCut]) -> Iterator[KernelCut]:
    """Yield cuts in the order of preference, with the smallest tiles.

    Those of tiny batches with row factors near are left out where the row factors could live elsewhere.
    """
    for place in memory.places:
        for batch in batch_sizes(sizes.batch_size):
            is_tiny = place == memory.places[0] and batch < min(sizes.batch_size, FULL_BATCH)
            if is_tiny and any(search.fits(_smallest(sizes, other)) for other in memory.places[1:]):
                continue
            yield replace(_smallest(sizes, place), batch=batch, chunk=batch)


def _with_larger_tiles(cut: KernelCut, memory: KernelMemory) -> Iterator[KernelCut]:
    """Yield cuts with tiles of twice as many columns each time: a little more room changes nothing."""
    chunk = cut.chunk
    while (chunk := 2 * chunk) <= memory.most_columns:
        yield replace(cut, chunk=chunk)


def _with_larger_buffers(cut: KernelCut, memory: KernelMemory) -> Iterator[KernelCut]:
    """Yield cuts with buffers of twice the size each time."""
    size = cut.tile_bytes
    while (size := 2 * size) <= memory.most_tile_bytes:
        yield replace(cut, tile_bytes=size)
