"""Jobs one after the other, in this process; and what every executor offers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from lmntk.errors import UserError

Worker = Callable[[Any], Any]  # from a job to its result; where it has a method ``close``, that is called at the end


class Executor(Protocol):
    """Runs jobs that do not depend on each other, each any number of times if need be."""

    def run(self, make_worker: Callable[[], Worker], jobs: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Yields each job's place and result, as they come.

        Args:
            make_worker: returns what does jobs; called once in each process, where it may take memory and time.
            jobs: plain data.
        """
        ...


class Local:
    """In this process, in order."""

    def run(self, make_worker: Callable[[], Worker], jobs: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Yields each job's place and result."""
        if not jobs:
            return
        worker = make_worker()
        try:
            for place, job in enumerate(jobs):
                yield place, worker(job)
        finally:
            close(worker)


def close(worker: Worker) -> None:
    """Lets a worker put away what it has, if it wants to."""
    getattr(worker, "close", lambda: None)()


def chosen_executor(
    engine: str, address: str | None = None, workers: int | None = None, devices: Sequence[Any] = (), device: str = "auto"
) -> Executor:
    """Returns the executor of an engine's name; on several devices one that uses them all (a cluster's workers have their own).

    Args:
        engine: local or ray.
        address: of a cluster.
        workers: on a cluster.
        devices: that ``device`` means on this machine.
        device: as it was named.

    Raises:
        UserError: there is no such engine, or it takes no address, workers or devices of these names.
    """
    if engine == "ray":
        import torch

        from lmntk.execution.ray_cluster import RayCluster

        if device not in ("auto", "cpu", "cuda"):
            raise UserError(f"device: {device!r} is of this machine, and a Ray worker takes the card that Ray gives it; write cuda, or cpu")
        takes_cards = any(one.type == "cuda" for one in devices)
        return RayCluster(address, workers, None if workers is None and address is None else torch.get_num_threads(), takes_cards)
    if engine != "local":
        raise UserError(f"engine: {engine!r} is not one of local, ray")
    if address is not None or workers is not None:
        raise UserError(f"{'address' if address is not None else 'workers'}: the local engine has none; add --engine ray")
    if len(devices) > 1:
        from lmntk.execution.devices import Devices

        return Devices(tuple(devices))
    return Local()
