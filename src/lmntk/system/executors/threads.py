"""Jobs on several devices of this machine: a thread and a worker for each, and the next job for who is free.

Threads, not processes: arithmetic on a GPU leaves the interpreter to the others, nothing is copied between processes, and a mistake is
raised where it can be read. A job's result does not depend on who does it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from queue import SimpleQueue
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
        """Yield each job's index and result, as they come.

        The first error of a worker ends the run, when the others' jobs have ended.

        Args:
            make_worker: called with each device in turn, before anything runs; what it makes is closed when all jobs have ended.
            jobs: plain data.
        """
        if not jobs:
            return
        workers: list[Worker] = []
        try:
            workers += (make_worker(device) for device in self.devices[: len(jobs)])
            yield from self._run(workers, jobs)
        finally:
            for worker in workers:
                close(worker)

    def _run(self, workers: Sequence[Worker], jobs: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        free: SimpleQueue[tuple[Any, Worker]] = SimpleQueue()
        for pair in zip(self.devices, workers, strict=False):
            free.put(pair)
        own = threading.local()  # a thread keeps its worker, for PyTorch keeps state by thread

        def take_worker() -> None:
            own.device, own.worker = free.get()

        def work(job: Any) -> Any:
            with _current(own.device):
                return own.worker(job)

        pool = ThreadPoolExecutor(len(workers), "lmntk", initializer=take_worker)
        try:
            running = {pool.submit(work, job): index for index, job in enumerate(jobs)}
            for future in as_completed(running):
                yield running.pop(future), future.result()
        finally:
            pool.shutdown(cancel_futures=True)  # waits for the jobs that have begun


def _current(device: Any) -> AbstractContextManager[Any]:
    """Make a GPU the one that new tensors and streams of this thread are of, while the body runs."""
    if getattr(device, "type", "cpu") != "cuda":
        return nullcontext()
    import torch

    return torch.cuda.device(device)
