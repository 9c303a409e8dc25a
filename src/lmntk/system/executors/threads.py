"""Jobs on several devices of this machine: a thread and a worker of its own for each, jobs handed out as workers come free.

Threads, not processes: arithmetic on a card leaves the interpreter to the others, nothing is copied between processes, and a mistake is
raised where it can be read. A job's result does not depend on who does it.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from lmntk.system.executors.base import Worker, close


@dataclass(frozen=True)
class Devices:
    """Workers of this process, one a device.

    Args:
        devices: ``torch.device``s of one kind.
    """

    devices: tuple[Any, ...]

    def run(self, make_worker: Callable[..., Worker], jobs: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Yields each job's place and result, as they come; the first error of a worker ends the run, when the others' jobs have ended.

        Args:
            make_worker: called with each device in turn, before anything runs; what it makes is closed when all jobs have ended.
            jobs: plain data.
        """
        workers: list[Worker] = []
        try:
            workers += (make_worker(device) for device in self.devices[: len(jobs)])
            yield from self._run(workers, jobs)
        finally:
            for worker in workers:
                close(worker)

    def _run(self, workers: Sequence[Worker], jobs: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        waiting: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        for numbered in enumerate(jobs):
            waiting.put(numbered)
        done: queue.SimpleQueue[tuple[int, Any, BaseException | None]] = queue.SimpleQueue()
        stop = threading.Event()

        def work(device: Any, worker: Worker) -> None:
            try:
                with _current(device):
                    while not stop.is_set():
                        try:
                            place, job = waiting.get_nowait()
                        except queue.Empty:
                            return
                        done.put((place, worker(job), None))
            except BaseException as error:  # raised again where the results are read
                done.put((-1, None, error))

        threads = [
            threading.Thread(target=work, args=pair, name=f"lmntk-{place}", daemon=True)
            for place, pair in enumerate(zip(self.devices, workers, strict=False))
        ]
        for thread in threads:
            thread.start()
        try:
            for _ in jobs:
                place, result, error = done.get()
                if error is not None:
                    raise error
                yield place, result
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def _current(device: Any) -> AbstractContextManager[Any]:
    """While the body runs, a card is the one that new tensors and streams of this thread are of."""
    if getattr(device, "type", "cpu") != "cuda":
        return nullcontext()
    import torch

    return torch.cuda.device(device)
