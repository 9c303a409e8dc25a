"""Whom a long computation tells how far it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Progress(Protocol):
    """Listens to a run."""

    def start(self, splits: int, finished: int) -> None:
        """Take the number of splits, and how many of them an earlier run finished."""

    def work(self, description: str, total: float | None) -> None:
        """Take what is computed now, and its amount if that is known."""

    def phase(self, description: str) -> None:
        """Take what is done now, whose amount nobody counts: loading, checking, writing."""

    def advance(self, amount: float) -> None:
        """Take the amount that was done since the last call."""

    def finished(self, split: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take the name of a finished split and the rows of its results."""

    def note(self, line: str) -> None:
        """Take a line worth reading once."""


class Silent:
    """Listens and shows nothing."""

    def start(self, splits: int, finished: int) -> None: ...  # noqa: D102
    def work(self, description: str, total: float | None) -> None: ...  # noqa: D102
    def phase(self, description: str) -> None: ...  # noqa: D102
    def advance(self, amount: float) -> None: ...  # noqa: D102
    def finished(self, split: str, rows: Sequence[Mapping[str, Any]]) -> None: ...  # noqa: D102
    def note(self, line: str) -> None: ...  # noqa: D102
