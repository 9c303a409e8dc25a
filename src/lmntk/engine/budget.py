"""How a piece of work is cut to fit into memory: texts a batch, where the row texts' factors stay, column texts a tile.

The numbers come from a trial on the longest texts. They are written down with the work, for another cut gives other last bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from typing import Any, TypeVar

from lmntk.errors import UserError
from lmntk.kernels.gram import COPY_BYTES, TILE_BYTES
from lmntk.prompts.batching import length_sorted_batches
from lmntk.system.memory import shown_bytes

MARGIN = 192 * 2**20  # what libraries take when they are first used, and what freed memory leaves in pieces
DOUBLE = 8
ROOMY = 1.3
MOST_COLUMNS = 256  # of a tile: more save little, and are lost together when a run is cut short
COLUMNS_PER_ROW = 4  # or so many for each row text, whose gradients are made anew for each tile
LOSS_TEXTS = 16  # on which a lower precision is measured, at most
Value = TypeVar("Value")
Groups = Sequence[Sequence[int]]  # texts' lengths in tokens, by the group that they are batched in


@dataclass(frozen=True)
class Trial:
    """What a few of the longest texts took.

    Attributes:
        tokens: how many they had in all, and ``longest`` the longest.
        factors: bytes of their factors, and ``largest`` of the largest parameter's.
        working: bytes that the process grew by at most while they were captured.
        resident: bytes that the process holds without them.
        outputs: logits a text.
        held: of a card with memory of its own, on which then factors and working lie: what it holds without them. Else 0.
        checked: the most that the process held in the check of the captured gradients that came first, and ``card_checked`` the card.
    """

    tokens: int
    longest: int
    factors: int
    largest: int
    working: int
    resident: int
    outputs: int = 1
    held: int = 0
    checked: int = 0
    card_checked: int = 0


@dataclass(frozen=True)
class Schedule:
    """A cut. ``chunk`` is the texts of a tile; ``peak`` what the process will hold at most, in bytes; ``disk`` the row factors on disk.

    On a card with memory of its own ``card_peak`` is what that will hold at most, and row factors that it has no room for lie in the
    host's, ``rows_on_host``, or on disk. ``tile_bytes`` is the size of the contraction's buffers. ``copies`` is the workers that it is for.
    ``loss_texts`` is how many row texts a lower precision than float32 is measured on; 0 where there is none.
    """

    batch_size: int
    rows_on_disk: bool
    chunk: int
    peak: int
    disk: int
    rows_on_host: bool = False
    card_peak: int = 0
    tile_bytes: int = TILE_BYTES
    copies: int = 1
    loss_texts: int = 0

    def has_room(self, memory: int) -> bool:
        """True where freed memory may be kept: pieces of it that nothing fits into stay within the bound."""
        return ROOMY * self.peak <= memory

    def as_dict(self) -> dict[str, Any]:
        """Returns plain data."""
        return asdict(self)

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Schedule:
        """Returns the schedule in plain data."""
        return cls(**found)


def make_schedule(
    trial: Trial,
    rows: Groups,
    columns: Groups,
    blocks: int,
    batch_size: int,
    memory: int,
    *,
    has_scratch: bool,
    keep_factors: bool = False,
    copies: int = 1,
    processes: int = 1,
    weights: int = 0,
    lower: bool = False,
) -> Schedule:
    """Returns the cut that fits into the memory, with the largest tiles.

    Args:
        trial: what a few texts took.
        rows: the row texts' lengths in tokens, by group.
        columns: the lengths of the column texts that are not rows too, by group.
        blocks: pairs of texts of all kernels of the work, of each group of parameters its own.
        batch_size: the most texts in one forward pass.
        memory: bytes that the process may hold, the model included.
        has_scratch: the row factors may go to disk.
        keep_factors: they have to, and the column texts' too.
        copies: workers that share the memory, each with a model and row factors of its own.
        processes: that each have so much memory, on a machine that has so many times as much: an error says what to give the machine.
        weights: bytes of the model.
        lower: the precision is lower than float32, and what that costs is measured first.

    Raises:
        UserError: it cannot be done in so little; says the least that works.
    """
    factors, working = trial.factors / trial.tokens, trial.working / trial.tokens  # bytes a token
    every_row = [length for group in rows for length in group]
    fixed = (
        trial.resident
        + MARGIN
        + copies * 2 * TILE_BYTES
        + 2 * DOUBLE * blocks * trial.outputs**2
        + (copies - 1) * weights
    )
    batches = batch_sizes(batch_size)

    @cache
    def all_rows(batch: int) -> int:
        return int(factors * tokens_of(rows, batch))

    def slab(batch: int) -> int:
        """What of rows on disk is there at a time: one parameter's."""
        return int(all_rows(batch) * trial.largest / max(trial.factors, 1))

    @cache
    def tile(batch: int, chunk: int) -> float:
        """The factors of the chunk with the most tokens."""
        return factors * tile_tokens(columns, chunk, batch)

    @cache
    def most_tokens(batch: int, chunk: int) -> int:
        """The tokens of the batch with the most."""
        parts = [*rows, *chunks_of(columns, chunk)]
        return max(
            len(one) * part[one[-1]] for part in parts if part for one in length_sorted_batches(part, batch)
        )

    def copied(batch: int, chunk: int) -> int:
        """What factors without padding take, of rows and of one batch of columns: of two of the largest parameters, as gate and up are."""
        of_batch = int(trial.largest * most_tokens(batch, chunk) / trial.tokens)
        return min(COPY_BYTES, 2 * slab(batch)) + min(COPY_BYTES, 2 * of_batch) if batch > 1 else 0

    def peak(batch: int, on_disk: bool, chunk: int) -> int:
        capturing = (
            (0 if on_disk else all_rows(batch)) + tile(batch, chunk) + working * most_tokens(batch, chunk)
        )
        contracting = (
            (slab(batch) if on_disk else all_rows(batch)) + tile(batch, chunk) + copied(batch, chunk)
        )
        return max(
            int(fixed + copies * max(capturing, contracting)),
            measuring(batch, 1) if lower else 0,
            trial.checked,
        )

    def measuring(batch: int, count: int) -> int:
        return (
            trial.resident
            + MARGIN
            + 2 * TILE_BYTES
            + loss_bytes(trial, every_row, count, batch)
            + copied(batch, 1)
        )

    on_disk_first = (False, True) if not keep_factors else (True,)
    for on_disk in on_disk_first:
        for batch in batches:
            if (on_disk and not has_scratch) or peak(batch, on_disk, batch) > memory:
                continue
            if batch < min(batch_size, 8) and not on_disk and has_scratch:
                continue  # tiny batches are slower than a disk
            chunk = batch
            most = max(MOST_COLUMNS, COLUMNS_PER_ROW * len(every_row))
            while (
                2 * chunk <= most and peak(batch, on_disk, 2 * chunk) <= memory
            ):  # doubled: a little more room changes nothing
                chunk *= 2
            chunk = min(chunk, largest_of(columns))
            kept = int(factors * tokens_of(chunks_of(columns, chunk), batch)) if keep_factors else 0
            disk = all_rows(batch) + kept if on_disk else 0
            found = Schedule(batch, on_disk, chunk, peak(batch, on_disk, chunk), disk, copies=copies)
            if lower:
                count = most_that_fit(len(every_row), partial(measuring, batch), memory)
                found = replace(found, loss_texts=count, peak=max(found.peak, measuring(batch, count)))
            return found
    least = peak(1, has_scratch, 1)
    where = "" if has_scratch else ", or name a folder for what does not fit, with --scratch"
    raise too_little(memory, least, processes, where)


def too_little(memory: int, least: int, processes: int, where: str = "") -> UserError:
    """Returns the error of processes that share a machine's memory, each of which has ``memory`` and needs ``least``."""
    whose = "" if processes == 1 else f" for the {processes} processes of a machine"
    fewer = "" if processes == 1 else ", or give fewer --workers"
    size, enough = shown_bytes(memory * processes), whole_mebibytes(least * processes)
    return UserError(f"memory: {size}{whose} is too little for this; the least is {enough}{where}{fewer}")


def evenly(ordered: Sequence[Value], count: int) -> list[Value]:
    """Returns ``count`` of the values, the first and the last and those evenly between; one alone is the last."""
    if count == 1:
        return list(ordered[-1:])
    return [ordered[place * (len(ordered) - 1) // (count - 1)] for place in range(count)]


def loss_bytes(trial: Trial, rows: Sequence[int], count: int, batch_size: int) -> int:
    """Returns what it takes to measure a lower precision on so many row texts: their factors in both precisions, and a batch's passes."""
    few = evenly(sorted(rows), count)
    passing = max(len(batch) * few[batch[-1]] for batch in length_sorted_batches(few, batch_size))
    return int((2 * trial.factors * padded_tokens(few, batch_size) + trial.working * passing) / trial.tokens)


def most_that_fit(rows: int, held: Callable[[int], int], allowed: int) -> int:
    """Returns on how many of the row texts a lower precision is measured: 16, or as many as fit, and one in any case."""
    return next((count for count in batch_sizes(min(LOSS_TEXTS, rows)) if held(count) <= allowed), 1)


def batch_sizes(most: int) -> list[int]:
    """Returns the sizes of a batch to try, from the largest."""
    return [size for size in (most, *(2**power for power in range(10, -1, -1))) if size <= most]


def padded_tokens(lengths: Sequence[int], batch_size: int) -> int:
    """Returns the tokens of texts with the padding of their batches."""
    return sum(len(batch) * lengths[batch[-1]] for batch in length_sorted_batches(lengths, batch_size))


def tokens_of(groups: Groups, batch_size: int) -> int:
    """Returns the tokens of groups of texts with the padding of their batches, in which no two groups meet."""
    return sum(padded_tokens(group, batch_size) for group in groups)


def largest_of(groups: Groups) -> int:
    """Returns the number of texts in the largest group, and at least one."""
    return max((len(group) for group in groups), default=0) or 1


def spans(texts: int, chunk: int) -> list[tuple[int, int]]:
    """Returns the first text of each tile that a group of column texts is cut into, and the one after its last."""
    return [(start, min(start + chunk, texts)) for start in range(0, texts, chunk)]


def chunks_of(groups: Groups, chunk: int) -> list[Sequence[int]]:
    """Returns the lengths of each tile's column texts."""
    return [group[start:stop] for group in groups for start, stop in spans(len(group), chunk)]


def tile_tokens(columns: Groups, chunk: int, batch_size: int) -> int:
    """Returns the tokens of the tile with the most, with the padding of its batches."""
    return max((padded_tokens(part, batch_size) for part in chunks_of(columns, chunk)), default=0)


def whole_mebibytes(size: int) -> str:
    """Returns a size as an option takes it, no smaller."""
    return f"{-(-size // 2**20):,}MiB".replace(",", "")
