"""How a piece of work is cut for a card with memory of its own: two budgets, the host's and the card's.

On the card lie the weights, the column factors of a tile, the result, what a batch takes while it is captured, and, if there is room,
the row factors. If there is none they wait in the host's pinned memory, or on disk, and come in a parameter at a time.
"""

from __future__ import annotations

from functools import cache, partial

from lmntk.engine.budget import (
    DOUBLE,
    MARGIN,
    MOST_COLUMNS,
    Groups,
    Schedule,
    Trial,
    batch_sizes,
    chunks_of,
    largest_of,
    loss_bytes,
    most_that_fit,
    tile_tokens,
    tokens_of,
    too_little,
    whole_mebibytes,
)
from lmntk.errors import UserError
from lmntk.kernels.gram import GPU_TILE_BYTES, TILE_BYTES
from lmntk.system.memory import shown_bytes

CARD_MARGIN = (
    96 * 2**20
)  # a matrix library's workspace (32 MiB and more on recent cards), and what lies in pieces
BUFFERS = 4  # tile buffers at once: rows and columns, and, where signs are taken, theirs
PINNED = 2  # pinned blocks are powers of two: at most this much for what is in them
STREAMED = 2  # of row factors that live elsewhere: the parameter at hand, and the next
ON_CARD, ON_HOST, ON_DISK = "card", "host", "disk"
FULL_BATCH = 8  # texts: smaller batches leave a card idle, and are worse than row factors that live elsewhere


def make_card_schedule(
    trial: Trial,
    rows: Groups,
    columns: Groups,
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
        rows: the row texts' lengths in tokens, by group.
        columns: the lengths of the column texts that are not rows too, by group.
        blocks: pairs of texts of all kernels of the work, of each group of parameters its own.
        batch_size: the most texts in one forward pass.
        memory: bytes that the process may hold of the host's.
        card: bytes that tensors may take of each card, the weights included.
        kernels: how many a pair of texts has, of each group of parameters its own.
        has_scratch: the row factors may go to disk.
        keep_factors: they have to, and the column texts' too.
        copies: cards, each with row factors of its own.
        processes: that each have so much of the host's memory, as in ``make_schedule``.
        lower: the precision is lower than float32, and what that costs is measured first.

    Raises:
        UserError: one of the two is too small; says the least that works.
    """
    factors, working = trial.factors / trial.tokens, trial.working / trial.tokens  # bytes a token
    every_row = [length for group in rows for length in group]
    c = trial.outputs

    @cache
    def all_rows(batch: int) -> int:
        return int(factors * tokens_of(rows, batch))

    def slab(batch: int) -> int:
        """One parameter's part of them."""
        return int(all_rows(batch) * trial.largest / max(trial.factors, 1))

    @cache
    def tile(batch: int, chunk: int) -> float:
        """The factors of the chunk with the most tokens."""
        return factors * tile_tokens(columns, chunk, batch)

    def on_card(where: str, batch: int, chunk: int, tile_bytes: int) -> int:
        here = all_rows(batch) if where == ON_CARD else 0
        capturing = (
            here + tile(batch, chunk) + working * trial.longest * min(batch, largest_of([*rows, *columns]))
        )
        # columns that are rows too come whole: a tile may be as wide as a group. The result is there twice while its axes turn
        result = 2 * DOUBLE * kernels * len(every_row) * max(chunk, largest_of(rows)) * c * c
        contracting = (here or STREAMED * slab(batch)) + tile(batch, chunk) + BUFFERS * tile_bytes + result
        least = max(measuring(batch, 1) if lower else 0, trial.card_checked)
        return max(int(trial.held + CARD_MARGIN + max(capturing, contracting)), least)

    def measuring(batch: int, count: int) -> int:
        return trial.held + CARD_MARGIN + BUFFERS * TILE_BYTES + loss_bytes(trial, every_row, count, batch)

    def on_host(where: str, batch: int) -> int:
        rows_there = {
            ON_CARD: 0,
            ON_HOST: PINNED * all_rows(batch),
            ON_DISK: PINNED * STREAMED * slab(batch),
        }[where]
        return max(
            int(trial.resident + MARGIN + 2 * DOUBLE * blocks * c * c + copies * rows_there), trial.checked
        )

    places = [ON_DISK] if keep_factors else [ON_CARD, ON_HOST, *([ON_DISK] if has_scratch else [])]
    for where in places:
        for batch in batch_sizes(batch_size):
            if on_host(where, batch) > memory or on_card(where, batch, batch, TILE_BYTES) > card:
                continue
            elsewhere = (
                place
                for place in places[1:]
                if on_host(place, 1) <= memory and on_card(place, 1, 1, TILE_BYTES) <= card
            )
            if where == ON_CARD and batch < min(batch_size, FULL_BATCH) and any(elsewhere):
                continue
            chunk, tile_bytes = batch, TILE_BYTES
            while 2 * chunk <= MOST_COLUMNS and on_card(where, batch, 2 * chunk, tile_bytes) <= card:
                chunk *= 2
            chunk = min(chunk, largest_of(columns))
            while 2 * tile_bytes <= GPU_TILE_BYTES and on_card(where, batch, chunk, 2 * tile_bytes) <= card:
                tile_bytes *= 2
            measured = most_that_fit(len(every_row), partial(measuring, batch), card) if lower else 0
            kept = int(factors * tokens_of(chunks_of(columns, chunk), batch)) if keep_factors else 0
            return Schedule(
                batch,
                where == ON_DISK,
                chunk,
                on_host(where, batch),
                all_rows(batch) + kept if where == ON_DISK else 0,
                rows_on_host=where == ON_HOST,
                card_peak=max(
                    on_card(where, batch, chunk, tile_bytes), measuring(batch, measured) if lower else 0
                ),
                tile_bytes=tile_bytes,
                copies=copies,
                loss_texts=measured,
            )
    host = min(on_host(where, 1) for where in places)
    if host > memory:
        raise too_little(memory, host, processes)
    possible = [where for where in places if on_host(where, 1) <= memory]
    least = min(on_card(where, 1, 1, TILE_BYTES) for where in possible)
    raise UserError(
        f"device-memory: {shown_bytes(card)} is too little for this; the least is {whole_mebibytes(least)}"
    )
