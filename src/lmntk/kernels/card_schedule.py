"""How a piece of work is cut for a card with memory of its own: two budgets, the host's and the card's.

On the card lie the weights, the column factors of a tile, the result, what a batch takes while it is captured, and, if there is room,
the row factors. If there is none they wait in the host's pinned memory, or on disk, and come in a parameter at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from lmntk.errors import UserError
from lmntk.kernels.gram import GPU_TILE_BYTES, TILE_BYTES
from lmntk.kernels.schedule import (
    DOUBLE,
    MARGIN,
    MOST_COLUMNS,
    Schedule,
    Trial,
    batch_sizes,
    loss_bytes,
    most_that_fit,
    padded_tokens,
    too_little,
    whole_mebibytes,
)
from lmntk.memory import shown_bytes

CARD_MARGIN = 96 * 2**20  # a matrix library's workspace (32 MiB and more on recent cards), and what lies in pieces
BUFFERS = 4  # tile buffers at once: rows and columns, and, where signs are taken, theirs
PINNED = 2  # pinned blocks are powers of two: at most this much for what is in them
STREAMED = 2  # of row factors that live elsewhere: the parameter at hand, and the next
ON_CARD, ON_HOST, ON_DISK = "card", "host", "disk"
FULL_BATCH = 8  # texts: smaller batches leave a card idle, and are worse than row factors that live elsewhere


def make_card_schedule(
    trial: Trial,
    rows: Sequence[int],
    columns: Sequence[int],
    blocks: int,
    batch_size: int,
    memory: int,
    card: int,
    *,
    kernels: int,
    has_scratch: bool,
    keep_factors: bool = False,
    copies: int = 1,
    processes: int = 1,
    lower: bool = False,
) -> Schedule:
    """Returns the cut that fits into both memories: row factors as near as they can be, then the largest batches and tiles.

    Args:
        trial: what a few texts took, on the card.
        rows: the row texts' lengths in tokens.
        columns: the lengths of the column texts that are not rows too.
        blocks: pairs of texts of all kernels of the work.
        batch_size: the most texts in one forward pass.
        memory: bytes that the process may hold of the host's.
        card: bytes that tensors may take of each card, the weights included.
        kernels: how many a pair of texts has.
        has_scratch: the row factors may go to disk.
        keep_factors: they have to, and the column texts' too.
        copies: cards, each with row factors of its own.
        processes: that each have so much of the host's memory, as in ``make_schedule``.
        lower: the precision is lower than float32, and what that costs is measured first.

    Raises:
        UserError: one of the two is too small; says the least that works.
    """
    factors, working = trial.factors / trial.tokens, trial.working / trial.tokens  # bytes a token
    all_rows = int(factors * padded_tokens(rows, batch_size))
    slab = int(all_rows * trial.largest / max(trial.factors, 1))
    c = trial.outputs

    def tile(chunk: int) -> float:
        """The factors of the chunk with the most tokens."""
        chunks = (columns[start : start + chunk] for start in range(0, len(columns), chunk))
        return factors * max((padded_tokens(part, batch_size) for part in chunks), default=0)

    def on_card(where: str, batch: int, chunk: int, tile_bytes: int) -> int:
        here = all_rows if where == ON_CARD else 0
        capturing = here + tile(chunk) + working * trial.longest * min(batch, max(len(columns), len(rows)))
        # columns that are rows too come whole: a tile may be as wide as the rows. The result is there twice while its axes are turned
        result = 2 * DOUBLE * kernels * len(rows) * max(chunk, len(rows)) * c * c
        contracting = (here or STREAMED * slab) + tile(chunk) + BUFFERS * tile_bytes + result
        return max(int(trial.held + CARD_MARGIN + max(capturing, contracting)), measuring(batch, 1) if lower else 0)

    def measuring(batch: int, count: int) -> int:
        return trial.held + CARD_MARGIN + BUFFERS * TILE_BYTES + loss_bytes(trial, rows, count, batch)

    def on_host(where: str) -> int:
        rows_there = {ON_CARD: 0, ON_HOST: PINNED * all_rows, ON_DISK: PINNED * STREAMED * slab}[where]
        return int(trial.resident + MARGIN + 2 * DOUBLE * blocks * c * c + copies * rows_there)

    places = [ON_DISK] if keep_factors else [ON_CARD, ON_HOST, *([ON_DISK] if has_scratch else [])]
    for where in places:
        for batch in batch_sizes(batch_size):
            if on_host(where) > memory or on_card(where, batch, batch, TILE_BYTES) > card:
                continue
            elsewhere = (place for place in places[1:] if on_host(place) <= memory and on_card(place, 1, 1, TILE_BYTES) <= card)
            if where == ON_CARD and batch < min(batch_size, FULL_BATCH) and any(elsewhere):
                continue
            chunk, tile_bytes = batch, TILE_BYTES
            while 2 * chunk <= MOST_COLUMNS and on_card(where, batch, 2 * chunk, tile_bytes) <= card:
                chunk *= 2
            chunk = min(chunk, max(len(columns), 1))
            while 2 * tile_bytes <= GPU_TILE_BYTES and on_card(where, batch, chunk, 2 * tile_bytes) <= card:
                tile_bytes *= 2
            measured = most_that_fit(len(rows), partial(measuring, batch), card) if lower else 0
            kept = int(factors * padded_tokens(columns, batch_size)) if keep_factors else 0
            return Schedule(
                batch,
                where == ON_DISK,
                chunk,
                on_host(where),
                all_rows + kept if where == ON_DISK else 0,
                rows_on_host=where == ON_HOST,
                card_peak=max(on_card(where, batch, chunk, tile_bytes), measuring(batch, measured) if lower else 0),
                tile_bytes=tile_bytes,
                copies=copies,
                loss_texts=measured,
            )
    host = min(on_host(where) for where in places)
    if host > memory:
        raise too_little(memory, host, processes)
    possible = [where for where in places if on_host(where) <= memory]
    least = min(on_card(where, 1, 1, TILE_BYTES) for where in possible)
    raise UserError(f"device-memory: {shown_bytes(card)} is too little for this; the least is {whole_mebibytes(least)}")
