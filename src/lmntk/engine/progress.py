"""Progress of a piece of work, reported once per text and pair."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lmntk.engine.estimate import Estimate
from lmntk.engine.kernel_work import KernelWork
from lmntk.engine.tiles import Job, Report


@dataclass(frozen=True)
class Listener:
    """Who is told of a piece of work; by default nobody.

    Attributes:
        report: called with the texts captured and the pairs contracted since the last call.
        announce: told what the work will take, before it starts; this machine's speed is measured for it, and kept.
        note: told what is worth reading once.
    """

    report: Report = lambda captured, contracted: None
    announce: Callable[[Estimate], None] | None = None
    note: Callable[[str], None] = lambda line: None


class Account:
    """What is done of the work, each text and pair told once, whoever did it and however often.

    Several workers capture the row texts each for itself: what the first of them has done counts. Of a job that another process did, which
    nobody hears, it is told at the end. Workers' threads tell it of their work at any time.
    """

    def __init__(self, work: KernelWork, jobs: Sequence[Job], report: Report) -> None:
        self._report = report
        texts, row_names = work.texts, work.row_groups
        chunks = {
            (job.column, job.start): job.stop - job.start for job in jobs if job.column not in row_names
        }
        self._texts = chunks | {(name, 0): len(texts[name]) for name in row_names}
        self._pairs = {
            (job.column, job.start): (job.stop - job.start) * sum(len(texts[row]) for row in job.rows)
            for job in jobs
        }
        self._rows = [(name, 0) for name in row_names]
        self._by_worker: Counter[tuple[str, int, int]] = Counter()  # texts of a group or chunk, by thread
        self._done: Counter[tuple[str, int]] = Counter()
        self._lock = threading.Lock()

    def report(self, group: str, start: int, captured: int, contracted: int) -> None:
        """Take a report and pass on what is new of it."""
        with self._lock:
            mine = (group, start, threading.get_ident())
            self._by_worker[mine] += captured
            self._pass_on([((group, start), self._by_worker[mine])], (group, start) if contracted else None)

    def settle(self, job: Job, *, with_rows: bool = True) -> None:
        """Reports what of a finished job is not told: its texts and pairs, and of one that was made now its rows."""
        with self._lock:
            own = job.column, job.start
            groups = [own] if own not in self._rows else []
            groups += [
                (group, 0) for group in (*job.rows, job.column) if with_rows and (group, 0) in self._rows
            ]
            self._pass_on([(group, self._texts[group]) for group in groups], own)

    def close(self) -> None:
        """Reports the rows of jobs that an earlier run has done."""
        with self._lock:
            self._pass_on([(group, self._texts[group]) for group in self._rows], None)

    def _pass_on(
        self, reached: Sequence[tuple[tuple[str, int], int]], contracted: tuple[str, int] | None
    ) -> None:
        captured = 0
        for group, count in reached:
            more = max(0, min(count, self._texts[group]) - self._done[group])
            self._done[group] += more
            captured += more
        pairs = 0 if contracted is None else self._pairs.pop(contracted, 0)
        if captured or pairs:
            self._report(captured, pairs)
