"""Few-shot splits, drawn exactly as LM-BFF and the paper's reference code draw them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lmntk.errors import UserError
from lmntk.system.notices import say

SEEDS = (13, 21, 42, 87, 100)
"""The five split seeds of LM-BFF and of the paper."""

TEST_SEED = 42
"""The test cut always reseeds with this, whatever the split's seed."""


@dataclass(frozen=True)
class RowNumbers:
    """Row numbers from 0: ``train`` and ``dev`` in the train file, ``test`` in the test file."""

    train: tuple[int, ...]
    dev: tuple[int, ...]
    test: tuple[int, ...]


def k_shot_split(
    train_labels: Sequence[int],
    test_size: int,
    k: int,
    seed: int,
    test_limit: int | None = 1000,
    csv_style: bool = False,
    names: Sequence[str] | None = None,
) -> RowNumbers:
    """Return ``k`` train and ``k`` dev rows per label, and the rows to test on.

    The train rows are shuffled in place with numpy's legacy generator seeded with ``seed``; labels come in
    the order in which they first appear in the shuffled list; the first ``k`` rows of each are train and the
    next ``k`` dev, label block by label block. ``numpy.random.RandomState(seed)`` gives the stream of
    ``numpy.random.seed(seed)`` without touching the global generator, and shuffling moves rows by position
    alone, so that row numbers stand in for rows.

    Args:
        train_labels: Class of each row of the train file, in file order.
        test_size: Number of rows of the test file.
        k: Examples per label.
        seed: Seed of the split; the paper uses ``SEEDS``.
        test_limit: Longest test set: a longer one is cut with seed 42. None tests on all rows.
        csv_style: Draw that cut as pandas samples (``Task.csv_style``) instead of by a shuffle.
        names: Meaning of each class, for messages; a class that is named here and has no rows counts as too
            small.

    Returns:
        A split of len(labels) * k train rows, as many dev rows (fewer where a label has under 2k rows) and
        min(test_size, test_limit) test rows. With no cut the test rows are in file order, else in the order
        drawn.

    Raises:
        UserError: k is below 1, a row has no label, or a label has fewer than k rows (says the largest k
            possible).

    Says once, with a notice, which labels have fewer than 2k rows.
    """
    if k < 1:
        raise UserError(f"k must be at least 1 example per label, not {k}")
    order = _shuffled(len(train_labels), seed)
    groups: dict[int, list[int]] = {}
    for row in order:
        label = train_labels[row]
        if label is None:
            raise UserError(
                f"row {row + 1} of the train texts has no label, so it cannot be drawn for a {k}-shot split"
            )
        groups.setdefault(label, []).append(row)
    _check_sizes({label: len(rows) for label, rows in groups.items()}, k, names)
    train = tuple(row for rows in groups.values() for row in rows[:k])
    dev = tuple(row for rows in groups.values() for row in rows[k : 2 * k])
    return RowNumbers(train, dev, cut_test(test_size, test_limit, csv_style))


def cut_test(test_size: int, limit: int | None = 1000, csv_style: bool = False) -> tuple[int, ...]:
    """Return the rows to test on: all in file order, or ``limit`` of more, drawn with seed 42.

    GLUE-like tasks shuffle and keep the first ``limit``. CSV tasks take the rows that
    ``pandas.DataFrame.sample`` draws, in its order: numpy's legacy generator draws them without replacement.
    """
    if limit is None or test_size <= limit:
        return tuple(range(test_size))
    if csv_style:
        import numpy as np  # here, so that --help does not wait for it

        rows = np.random.RandomState(TEST_SEED).choice(test_size, limit, replace=False)
        return tuple(rows.tolist())
    return tuple(_shuffled(test_size, TEST_SEED)[:limit])


def _shuffled(count: int, seed: int) -> list[int]:
    import numpy as np  # here, so that --help does not wait for it

    rows = list(range(count))
    # A list, not an array: the reference shuffles a list, and both draw from the same stream.
    np.random.RandomState(seed).shuffle(rows)  # type: ignore[arg-type]
    return rows


def _check_sizes(sizes: dict[int, int], k: int, names: Sequence[str] | None) -> None:
    counts = {label: sizes.get(label, 0) for label in range(len(names))} if names else {}
    counts.update(sizes)
    if not counts:
        raise UserError("there are no train texts to draw a few-shot split from")
    ordered = sorted(counts)
    smallest = min(ordered, key=lambda label: counts[label])
    most = counts[smallest]
    if most < k:
        advice = f"the largest k possible is {most}" if most else "no k is possible without it"
        raise UserError(
            f"label {_called(smallest, names)} has {most} train rows, fewer than k = {k}: {advice}"
        )
    short = [label for label in ordered if counts[label] < 2 * k]
    if short:
        listed = ", ".join(f"{_called(label, names)}: {counts[label] - k}" for label in short)
        say(
            f"fewer than 2k = {2 * k} train rows for some labels, so their dev block is shorter than k = {k} "
            f"(label {listed})"
        )


def _called(label: int, names: Sequence[str] | None) -> str:
    return f"{label} ({names[label]})" if names and 0 <= label < len(names) else str(label)
