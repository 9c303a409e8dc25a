"""Executors run jobs that do not depend on each other; each offers this."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

# from a job to its result; where it has a method ``close``, that is called at the end
Worker = Callable[[Any], Any]


class Executor(Protocol):
    """Runs jobs that do not depend on each other, each any number of times if need be."""

    def run(self, make_worker: Callable[[], Worker], jobs: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Yield each job's index and result, as they come.

        Args:
            make_worker: returns what does jobs; called once in each process, where it may take memory and time.
            jobs: plain data.
        """
        ...


def close(worker: Worker) -> None:
    """Let a worker put away what it has, if it wants to."""
    getattr(worker, "close", lambda: None)()
