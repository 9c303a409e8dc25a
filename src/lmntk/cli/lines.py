"""Progress of a run where stderr is a file or a pipe: a line a finished split, and one a minute."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

SECONDS = 60.0  # between two lines


class Lines(AbstractContextManager["Lines"]):
    """Progress as lines on stderr; a thread writes one a minute, for a long piece of work may report nothing for longer."""

    def __init__(self) -> None:
        self._began = self._work_began = time.monotonic()
        self._splits: tuple[int, int] | None = None  # finished, of how many
        self._work, self._done = "starting", 0.0
        self._total: float | None = None
        self._noted: set[str] = set()
        self._ended = threading.Event()
        self._clock = threading.Thread(target=self._tick, name="progress", daemon=True)

    def __enter__(self) -> Lines:
        self._clock.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._clock.join()

    def start(self, splits: int, finished: int) -> None:
        """Take the number of splits, and say how many are finished."""
        self._splits = (finished, splits)
        if finished:
            self._print(finished_before(splits, finished))

    def work(self, description: str, total: float | None) -> None:
        """Take what is computed now."""
        self._work, self._total, self._done = description, total, 0.0
        self._work_began = time.monotonic()

    def phase(self, description: str) -> None:
        """Take what is computed now, of unknown amount."""
        self.work(description, None)

    def advance(self, amount: float) -> None:
        """Take the amount that was done."""
        self._done += amount

    def finished(self, split: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Print a finished split."""
        if self._splits is not None:
            self._splits = (self._splits[0] + 1, self._splits[1])
        self._print(finished_split(split, rows))

    def note(self, line: str) -> None:
        """Print a line, once."""
        if line not in self._noted:
            self._noted.add(line)
            self._print(line)

    def _print(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def _tick(self) -> None:
        while not self._ended.wait(SECONDS):
            self._print(self._line())

    def _line(self) -> str:
        """Say how long it has been, which splits are finished, what is done now and how much of it, and the time left of it."""
        from lmntk.engine.estimate import shown_time

        now = time.monotonic()
        parts = [f"after {shown_time(now - self._began)}"]
        if self._splits is not None:
            parts.append(f"{self._splits[0]} of {self._splits[1]} splits finished")
        work, share = self._work, self._done / self._total if self._total else None
        if share is not None:
            work += f" {100 * min(share, 1):.0f} %"
            if 0 < share < 1:
                work += f", about {shown_time((now - self._work_began) * (1 / share - 1))} left of it"
        elif self._done:
            work += f", {self._done:.0f} done"
        return f"{', '.join(parts)}: {work}"


def finished_before(splits: int, finished: int) -> str:
    """Return a line on the splits that an earlier run finished."""
    return f"{finished} of {splits} splits were finished before and are not computed again"


def finished_split(split: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a line on a finished split: each method's test metric."""
    shown = (
        f"{row['method']} {'diverged' if row['test'] is None else format(100 * row['test'], '.1f')}"
        for row in rows
    )
    return f"{split}: {', '.join(shown)}"
