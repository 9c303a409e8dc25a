"""Jobs on a Ray cluster: actors that each hold the model, and do one job after the other.

What travels is the worker (the model, once an actor), jobs (a range of texts) and results (a tile of a kernel); factors never do.
A job that is lost with its process or node is done again on another, as often as it takes: jobs are idempotent.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lmntk.errors import UserError
from lmntk.execution.local import Worker, close

RESTARTS = -1  # as often as it takes
PATIENCE = 120  # seconds to find a place for one worker
PARTING = 10  # seconds for workers to put away what they have


@dataclass(frozen=True)
class RayCluster:
    """Actors of a Ray cluster; ``pip install 'lmntk[ray]'``.

    Args:
        address: of a running cluster, as ``ray.init`` takes it ("auto", "ray://host:10001"); None starts one on this machine.
        workers: actors; by default one a GPU, or without GPUs as many as ``threads`` goes into the processors.
        threads: processors of an actor. Results are those of a local run with as many threads, to the bit.
    """

    address: str | None = None
    workers: int | None = None
    threads: int | None = None

    def run(self, make_worker: Callable[[], Worker], jobs: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Yields each job's place and result, as they come.

        Raises:
            UserError: Ray is not installed, there is no cluster at the address, or it has no room for one actor.
        """
        if not jobs:
            return
        ray = _ray()
        started = not ray.is_initialized()
        if started:
            self._connect(ray)
        try:
            yield from self._run(ray, make_worker, jobs)
        finally:
            if started:
                ray.shutdown()

    def _connect(self, ray: Any) -> None:
        quiet: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
        if self.address is None:  # a machine of our own: no dashboard, nothing that listens to others
            quiet |= {"include_dashboard": False, "num_cpus": (self.workers or 1) * (self.threads or 1) if self.workers else None}
        try:
            ray.init(address=self.address, ignore_reinit_error=True, **quiet)
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"address: no Ray cluster at {self.address!r} ({reason}); start one with `ray start --head`") from error

    def _run(self, ray: Any, make_worker: Callable[[], Worker], jobs: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        there = ray.cluster_resources()
        gpus, processors = int(there.get("GPU", 0)), int(there.get("CPU", 1))
        threads = self.threads or max(1, processors // (self.workers or gpus or 2))
        count = self.workers or gpus or max(1, processors // threads)
        if threads > processors:
            raise UserError(f"threads: {threads} for a worker, and the cluster has {processors} processors; give fewer")
        needs = {"num_cpus": threads, "num_gpus": 1 if gpus else 0, "max_restarts": RESTARTS, "max_task_retries": RESTARTS}
        shared = ray.put(make_worker)
        actor = ray.remote(**needs)(_Actor)
        actors = [actor.remote(shared, threads) for _ in range(min(count, len(jobs)))]
        waiting = list(enumerate(jobs))[::-1]
        coming = {one.ready.remote(): one for one in actors}  # only an actor that has found its place gets a job
        running: dict[Any, tuple[int, Any]] = {}
        placed = []
        try:
            while running or waiting:
                done, _ = ray.wait([*coming, *running], num_returns=1, timeout=None if running else PATIENCE)
                if not done:
                    raise UserError(
                        f"engine: no worker of {threads} processors found a place in {PATIENCE} s; give fewer --workers, or wait"
                    )
                if done[0] in coming:
                    one = coming.pop(done[0])
                    _result(ray, done[0])
                    placed.append(one)
                else:
                    place, one = running.pop(done[0])
                    yield place, _result(ray, done[0])
                if waiting:
                    following, job = waiting.pop()
                    running[one.work.remote(job)] = following, one
        finally:
            parting = [one.close.remote() for one in placed]
            if parting:
                ray.wait(parting, num_returns=len(parting), timeout=PARTING)  # one in the middle of a job may not come to it
            for one in actors:
                ray.kill(one)


def _result(ray: Any, reference: Any) -> Any:
    """Returns a job's result; what the worker raised is raised here as it was."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = getattr(error, "cause", None)
        raise (cause if isinstance(cause, Exception) else error) from None


class _Actor:
    """A process of the cluster that does jobs."""

    def __init__(self, make_worker: Callable[[], Worker], threads: int) -> None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
        import torch

        torch.set_num_threads(threads)
        self.worker = make_worker()

    def ready(self) -> bool:
        """Returns that there is a process."""
        return True

    def work(self, job: Any) -> Any:
        """Returns a job's result."""
        return self.worker(job)

    def close(self) -> None:
        """Puts away what the worker has."""
        close(self.worker)


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise UserError("engine: ray is not installed; pip install 'lmntk[ray]'") from error
    return ray
