"""Jobs on a Ray cluster: actors that each hold the model, and do one job after the other.

What travels is the worker (the model, once an actor), jobs (a range of texts) and results (a tile of a kernel); factors never do.
A job that is lost with its process or node is done again on another, for jobs are idempotent; one that kills whoever does it ends the run.
"""

from __future__ import annotations

import os
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lmntk.errors import UserError
from lmntk.system.executors.base import Worker, close
from lmntk.system.executors.ray_layout import Layout, Machine, laid_out, machines_of, own_gpu

DEATHS = (
    3  # of workers on one job: machines go down now and then, but not three times in a row at the same tile
)
PATIENCE = (
    600  # seconds for one worker to find a place and load the model: on a busy machine 120 were too few
)
ANSWER = 10  # seconds for a cluster to answer at its address
PARTING = 10  # seconds for workers to put away what they have
KEPT = "what is finished is kept, and the same command goes on from there"


@dataclass(frozen=True)
class RayCluster:
    """Actors of a Ray cluster; ``pip install 'lmntk[ray]'``.

    Args:
        address: of a running cluster, as ``ray.init`` takes it ("auto", "ray://host:10001"); None starts one on this machine.
        workers: actors; by default one a GPU, or on processors as many as ``threads`` goes into them.
        threads: processors of an actor. Results are those of a local run with as many threads, to the bit.
        takes_gpus: each actor computes on a GPU that Ray gives it, and ``make_worker`` is called with that device.
    """

    address: str | None = None
    workers: int | None = None
    threads: int | None = None
    takes_gpus: bool = False

    @cached_property
    def sharing(self) -> int:
        """The most processes that share one machine's memory: its workers, and this process.

        Raises:
            UserError: as ``run``.
        """
        ray = _ray()
        if self.address is None and not ray.is_initialized():
            return self._layout([self._own_machine()]).together + 1
        with self._connected(ray):
            return self._layout(machines_of(ray.nodes())).together + 1

    def run(self, make_worker: Callable[..., Worker], jobs: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Yield each job's index and result, as they come.

        Raises:
            UserError: Ray is not installed, there is no cluster at the address, it has no room for one actor, or it went away; workers
                died, three of the same job or of loading the model.
        """
        if not jobs:
            return
        ray = _ray()
        with self._connected(ray), _reporting_failures(ray):
            yield from self._run(ray, make_worker, jobs)

    def _own_machine(self) -> Machine:
        """Return what this machine lends to a cluster of its own."""
        processors = self.workers * (self.threads or 1) if self.workers else os.cpu_count() or 1
        if not self.takes_gpus:
            return Machine(processors)
        import torch

        return Machine(processors, torch.cuda.device_count())

    def _layout(self, machines: Sequence[Machine]) -> Layout:
        return laid_out(machines, self.workers, self.threads, self.takes_gpus)

    @contextmanager
    def _connected(self, ray: Any) -> Iterator[None]:
        """Hold a connection to the cluster: one that was there before, and stays, or one of its own."""
        if ray.is_initialized():
            yield
            return
        quiet: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
        if self.address is None:  # a machine of our own: no dashboard, nothing that listens to others
            own = self._own_machine()
            quiet |= {"include_dashboard": False, "num_cpus": own.processors, "num_gpus": own.gpus}
        try:
            check_reachable(self.address)
            ray.init(address=self.address, **quiet)
        except (Exception, SystemExit) as error:  # whose own processes are killed at start, Ray raises either
            ray.shutdown()
            if self.address is None:
                raise UserError(
                    f"engine: Ray does not start here ({_reason(error)}); leave --engine out"
                ) from error
            if "ray[client]" in str(error):
                raise UserError(
                    f"address: {self.address!r} is reached with Ray's client; pip install 'ray[client]'"
                ) from error
            raise UserError(
                f"address: no Ray cluster at {self.address!r} ({_reason(error)}); start one with `ray start --head`"
            ) from error
        try:
            yield
        finally:
            ray.shutdown()

    def _run(
        self, ray: Any, make_worker: Callable[..., Worker], jobs: Sequence[Any]
    ) -> Iterator[tuple[int, Any]]:
        # not Ray's max_restarts and ActorPool: a restarted actor keeps its job, though another is idle and its machine is gone;
        # what a worker's making raises comes wrapped; and the pool says neither whose job was lost nor replaces who is dead
        layout = self._layout(machines_of(ray.nodes()))
        shared = ray.put(make_worker)
        actor = ray.remote(
            num_cpus=layout.threads, num_gpus=int(self.takes_gpus), max_restarts=0, max_task_retries=0
        )(_Actor)
        starting: dict[Any, Any] = {}  # only an actor that has found its place and has the model gets a job
        running: dict[Any, tuple[int, Any]] = {}
        idle: list[Any] = []
        waiting = list(range(len(jobs)))[::-1]
        deaths: Counter[int] = Counter()
        early = 0  # deaths before any job, since an actor last came to have the model

        def start_worker() -> None:
            worker = actor.remote()
            starting[worker.start.remote(shared, layout.threads, self.takes_gpus)] = worker

        for _ in range(min(layout.workers, len(jobs))):
            start_worker()
        try:
            while running or waiting:
                while waiting and idle:
                    index, worker = waiting.pop(), idle.pop()
                    running[worker.work.remote(jobs[index])] = index, worker
                done, _ = ray.wait(
                    [*starting, *running], num_returns=1, timeout=None if running else PATIENCE
                )
                if not done:
                    raise UserError(
                        f"engine: no worker of {layout.threads} processors came up in {PATIENCE} s; give fewer --workers, or wait"
                    )
                if (started := starting.pop(done[0], None)) is not None:
                    if _result(ray, done[0]) is not LOST:
                        idle.append(started)
                        early = 0
                        continue
                    early += 1
                    if early < DEATHS:
                        start_worker()
                    elif not (starting or running or idle):
                        raise UserError(death_message("loading the model", early))
                    continue
                index, worker = running.pop(done[0])
                result = _result(ray, done[0])
                if result is not LOST:
                    idle.append(worker)
                    yield index, result
                    continue
                deaths[index] += 1
                if deaths[index] == DEATHS:
                    job = f"the job {getattr(jobs[index], 'name', jobs[index])!r}"
                    raise UserError(death_message(job, DEATHS))
                ray.kill(worker)  # where it is alive after all, and only out of reach
                waiting.append(index)
                start_worker()
        finally:
            ready = [*idle, *(worker for _, worker in running.values())]
            closing = [worker.close.remote() for worker in ready]
            if closing:  # one in the middle of a job may not come to it
                ray.wait(closing, num_returns=len(closing), timeout=PARTING)
            for worker in [*ready, *starting.values()]:
                ray.kill(worker)


LOST = object()  # in place of a result: who was to bring it is no more


def _result(ray: Any, reference: Any) -> Any:
    """Return a job's result, or LOST if its process or node went away; raise what the worker raised."""
    errors = ray.exceptions
    try:
        return ray.get(reference)
    except errors.RayTaskError as error:
        cause = getattr(error, "cause", None)
        raise (cause if isinstance(cause, Exception) else error) from None
    except (
        errors.RayActorError,
        errors.WorkerCrashedError,
        errors.OutOfMemoryError,
        errors.NodeDiedError,
        errors.ObjectLostError,
    ):
        return LOST


def check_reachable(address: str | None) -> None:
    """Check that somebody listens at a host and port: Ray itself would try for minutes.

    Raises:
        OSError: nobody does.
    """
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER).close()


def death_message(what: str, deaths: int) -> str:
    """Return a line about work that kills who does it."""
    return (
        f"engine: {deaths} workers died, one after the other, of {what}: most likely a machine had too little memory for them; "
        f"give fewer --workers, or a smaller --memory, which may cut the work anew; {KEPT}"
    )


def _reason(error: BaseException) -> str:
    """Return the beginning of what an error says, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


@contextmanager
def _reporting_failures(ray: Any) -> Iterator[None]:
    """Turn what goes wrong in Ray itself into one line; what a worker raised stays as it is.

    Raises:
        UserError: Ray or the connection to it failed.
    """
    try:
        yield
    except ray.exceptions.RayTaskError:
        raise
    except (ray.exceptions.RayError, ConnectionError) as error:
        raise UserError(f"engine: Ray failed ({_reason(error)}); look at `ray status`; {KEPT}") from error


class _Actor:
    """A process of the cluster that does jobs."""

    def start(self, make_worker: Callable[..., Worker], threads: int, takes_gpu: bool) -> None:
        """Make the worker; where the process begins Ray would wrap what is raised in an error of its own."""
        os.environ["OMP_NUM_THREADS"] = str(threads)  # of a PyTorch that is loaded later
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(threads)
        if not takes_gpu:
            self.worker = make_worker()
            return
        import torch

        device = torch.device(own_gpu(_ray().get_gpu_ids(), os.environ.get("CUDA_VISIBLE_DEVICES")))
        if not torch.cuda.is_available():
            raise UserError(
                f"device: PyTorch sees no GPU on {os.uname().nodename}, and Ray gave one; install its CUDA build there"
            )
        torch.cuda.set_device(device)
        self.worker = make_worker(device)

    def work(self, job: Any) -> Any:
        """Return a job's result."""
        return self.worker(job)

    def close(self) -> None:
        """Put away what the worker has."""
        close(self.worker)


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise UserError("engine: ray is not installed; pip install 'lmntk[ray]'") from error
    return ray
