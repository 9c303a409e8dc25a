"""The executor of an engine's name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lmntk.errors import UserError
from lmntk.system.executors.base import Executor
from lmntk.system.executors.local import Local


def chosen_executor(
    engine: str,
    address: str | None = None,
    workers: int | None = None,
    devices: Sequence[Any] = (),
    device: str = "auto",
) -> Executor:
    """Return the executor of an engine's name; on several devices one that uses them all.

    A cluster's workers have devices of their own.

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

        from lmntk.system.executors.ray_cluster import RayCluster

        if device not in ("auto", "cpu", "cuda"):
            raise UserError(
                f"device: {device!r} is of this machine, and a Ray worker takes the GPU that Ray gives it; write cuda, or cpu"
            )
        takes_gpus = any(used.type == "cuda" for used in devices)
        return RayCluster(
            address,
            workers,
            None if workers is None and address is None else torch.get_num_threads(),
            takes_gpus,
        )
    if engine != "local":
        raise UserError(f"engine: {engine!r} is not one of local, ray")
    if address is not None or workers is not None:
        raise UserError(
            f"{'address' if address is not None else 'workers'}: the local engine has none; add --engine ray"
        )
    if len(devices) > 1:
        from lmntk.system.executors.threads import Devices

        return Devices(tuple(devices))
    return Local()
