"""Texts' lengths in batches and tiles: how many tokens they are with their padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from lmntk.prompts.batching import length_sorted_batches

Value = TypeVar("Value")
Groups = Sequence[Sequence[int]]  # texts' lengths in tokens, by the group that they are batched in


def batch_sizes(most: int) -> list[int]:
    """Return the sizes of a batch to try, from the largest."""
    return [size for size in (most, *(2**power for power in range(10, -1, -1))) if size <= most]


def halved(size: int) -> Iterator[int]:
    """Yield a size, half of it, and so on down to one."""
    while size:
        yield size
        size //= 2


def padded_tokens(lengths: Sequence[int], batch_size: int) -> int:
    """Return the tokens of texts with the padding of their batches."""
    return sum(len(batch) * lengths[batch[-1]] for batch in length_sorted_batches(lengths, batch_size))


def tokens_of(groups: Groups, batch_size: int) -> int:
    """Return the tokens of groups of texts with the padding of their batches, in which no two groups meet."""
    return sum(padded_tokens(group, batch_size) for group in groups)


def most_tokens(groups: Groups, batch_size: int) -> int:
    """Return the tokens of the batch with the most, its padding included."""
    return max(
        len(batch) * group[batch[-1]]
        for group in groups
        if group
        for batch in length_sorted_batches(group, batch_size)
    )


def largest_of(groups: Groups) -> int:
    """Return the number of texts in the largest group, and at least one."""
    return max((len(group) for group in groups), default=0) or 1


def spans(texts: int, chunk: int) -> list[tuple[int, int]]:
    """Return the first text of each tile that a group of column texts is cut into, and the one after its last."""
    return [(start, min(start + chunk, texts)) for start in range(0, texts, chunk)]


def chunks_of(groups: Groups, chunk: int) -> list[Sequence[int]]:
    """Return the lengths of each tile's column texts."""
    return [group[start:stop] for group in groups for start, stop in spans(len(group), chunk)]


def tile_tokens(columns: Groups, chunk: int, batch_size: int) -> int:
    """Return the tokens of the tile with the most, with the padding of its batches."""
    return max((padded_tokens(part, batch_size) for part in chunks_of(columns, chunk)), default=0)


def evenly(ordered: Sequence[Value], count: int) -> list[Value]:
    """Return ``count`` of the values, the first and the last and those evenly between; one alone is the last."""
    if count == 1:
        return list(ordered[-1:])
    return [ordered[index * (len(ordered) - 1) // (count - 1)] for index in range(count)]
