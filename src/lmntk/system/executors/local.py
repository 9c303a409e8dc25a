"""Jobs one after the other, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lmntk.system.executors.base import Worker, close


class Local:
    """In this process, in order."""

    def run(self, make_worker: Callable[[], Worker], jobs: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Yield each job's index and result."""
        if not jobs:
            return
        worker = make_worker()
        try:
            for index, job in enumerate(jobs):
                yield index, worker(job)
        finally:
            close(worker)
