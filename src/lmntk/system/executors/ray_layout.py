"""The layout of a Ray cluster: how many workers, how many on a machine, and which GPU is a worker's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lmntk.errors import UserError


@dataclass(frozen=True)
class Machine:
    """Processors and GPUs that one machine lends to a cluster."""

    processors: int
    gpus: int = 0


@dataclass(frozen=True)
class Layout:
    """So many ``workers`` of so many ``threads``, and at most so many ``together`` on one machine."""

    workers: int
    threads: int
    together: int


def machines_of(nodes: Sequence[Mapping[str, Any]]) -> list[Machine]:
    """Return the machines of ``ray.nodes()`` that are up and lend processors."""
    lent = [node["Resources"] for node in nodes if node["Alive"]]
    return [
        Machine(int(amounts["CPU"]), int(amounts.get("GPU", 0)))
        for amounts in lent
        if amounts.get("CPU", 0) >= 1
    ]


def laid_out(
    machines: Sequence[Machine], workers: int | None, threads: int | None, takes_gpus: bool
) -> Layout:
    """Return the workers of a cluster.

    They are as many as asked for, or one a GPU, or as many as ``threads`` goes into the processors.

    Raises:
        UserError: no machine has that many processors, or workers are to take GPUs and there are none.
    """
    processors = sum(machine.processors for machine in machines)
    largest = max((machine.processors for machine in machines), default=0)
    gpus = sum(machine.gpus for machine in machines) if takes_gpus else 0
    if takes_gpus and not gpus:
        raise UserError(
            "device: the cluster has no GPU; start its machines with `ray start --num-gpus`, or give --device cpu"
        )
    each = threads or max(1, min(processors // (workers or gpus or 2), largest))
    if each > largest:
        raise UserError(
            f"threads: {each} for a worker, and no machine of the cluster has more than {largest} processors; give fewer"
        )
    count = workers or gpus or max(1, processors // each)
    room = max(min(machine.processors // each, machine.gpus if takes_gpus else count) for machine in machines)
    return Layout(count, each, min(count, room))


def own_gpu(assigned: Sequence[Any], visible: str | None) -> str:
    """Return the device of the GPU that Ray gave a worker, as PyTorch numbers it in that process.

    Args:
        assigned: ``ray.get_gpu_ids()``: numbers or names among the machine's cards.
        visible: ``CUDA_VISIBLE_DEVICES``, which Ray narrows to what is assigned unless it is told not to; None where there is none.

    Raises:
        UserError: it gave none, or one that the process does not see.
    """
    if not assigned:
        raise UserError("device: Ray gave a worker no GPU; give --device cpu, or look at `ray status`")
    seen = None if visible is None else [part.strip() for part in visible.split(",")]
    if seen is not None and str(assigned[0]) not in seen:
        raise UserError(
            f"device: Ray gave a worker the GPU {assigned[0]}, and it has CUDA_VISIBLE_DEVICES={visible}; leave that to Ray"
        )
    return f"cuda:{assigned[0] if seen is None else seen.index(str(assigned[0]))}"
