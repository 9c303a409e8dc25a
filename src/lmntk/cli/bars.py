"""Progress bars of a run at a terminal: on stderr, so that stdout stays the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from lmntk.cli.lines import finished_before, finished_split


class Bars(AbstractContextManager["Bars"]):
    """Progress bars with the time left: one over the splits, one over the work at hand."""

    def __init__(self, console: Console) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._bars = Progress(*columns, console=console, transient=True)
        self._console = console
        self._splits: TaskID | None = None
        self._work: TaskID | None = None
        self._noted: set[str] = set()

    def __enter__(self) -> Bars:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars.live.is_started:
            self._bars.stop()

    def start(self, splits: int, finished: int) -> None:
        """Show the splits' bar."""
        self._bars.start()
        self._splits = self._bars.add_task("splits", total=splits, completed=finished)
        if finished:
            self._console.print(finished_before(splits, finished), highlight=False)

    def work(self, description: str, total: float | None) -> None:
        """Show a new bar for the work at hand."""
        self._bars.start()
        if self._work is not None:
            self._bars.remove_task(self._work)
        self._work = self._bars.add_task(description, total=total)

    def phase(self, description: str) -> None:
        """Show a bar without an end."""
        self.work(description, None)

    def advance(self, amount: float) -> None:
        """Move the bar of the work at hand."""
        if self._work is not None:
            self._bars.advance(self._work, amount)

    def finished(self, split: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Print a finished split in one line and move the splits' bar."""
        if self._splits is not None:
            self._bars.advance(self._splits)
        self._console.print(finished_split(split, rows), highlight=False)

    def note(self, line: str) -> None:
        """Print a line, once."""
        if line not in self._noted:
            self._noted.add(line)
            self._console.print(line, style="dim", highlight=False, markup=False, soft_wrap=True)
