"""The texts of one task, ready to be split."""

from __future__ import annotations

from dataclasses import dataclass

from lmntk.tasks.example import Example


@dataclass(frozen=True)
class TaskData:
    """Train and test examples in file order.

    Args:
        train: Examples to draw train (and, where ``dev`` is None, validation) from.
        test: Examples to test on; may be empty when no test file was named.
        labels: Meaning of each class index, or None when only the indexes are known.
        dev: Validation examples when the source is already split (LM-BFF's k-shot folders), else None.
    """

    train: tuple[Example, ...]
    test: tuple[Example, ...]
    labels: tuple[str, ...] | None = None
    dev: tuple[Example, ...] | None = None
