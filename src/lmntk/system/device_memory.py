"""The memory of a device that has one of its own: what is free, held, and taken by a piece of work."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

import torch

from lmntk.errors import UserError
from lmntk.system.memory import shown_bytes

Result = TypeVar("Result")
SHARE = 0.9  # of a GPU's free memory, unless more is asked for: libraries take some, and freed memory lies in pieces


class DeviceMemory(Protocol):
    """Answers of a device to the planner; a test answers for one that is not there."""

    def free(self) -> int:
        """Return the bytes that can still be taken."""
        ...

    def held(self) -> int:
        """Return the bytes of the tensors on it, of this process."""
        ...

    def peak_of(self, body: Callable[[], Result]) -> tuple[int, Result]:
        """Return how much ``held`` grew at most while the body ran, and what that returned."""
        ...


class CudaMemory:
    """Memory of a CUDA GPU, as PyTorch's allocator counts it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def free(self) -> int:
        """Return the bytes that the driver has, and those that the allocator holds and does not use."""
        kept = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return int(torch.cuda.mem_get_info(self.device)[0]) + kept

    def held(self) -> int:
        """Return the bytes of tensors."""
        return int(torch.cuda.memory_allocated(self.device))

    def peak_of(self, body: Callable[[], Result]) -> tuple[int, Result]:
        """Return the growth of the allocator's peak, and what the body returned."""
        torch.cuda.synchronize(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        before = self.held()
        result = body()
        torch.cuda.synchronize(self.device)
        return max(0, int(torch.cuda.max_memory_allocated(self.device)) - before), result


def memory_of(device: torch.device) -> DeviceMemory | None:
    """Return a device's own memory; None where it computes in the host's."""
    return CudaMemory(device) if device.type == "cuda" else None


def device_budget(device: torch.device, gpu: DeviceMemory | None, asked: int | None) -> int | None:
    """Return the bytes that tensors may take on a device; None where it has no memory of its own.

    Raises:
        UserError: more is asked for than there is, or of a device that has none.
    """
    if gpu is not None:
        return gpu_budget(gpu, asked)
    if asked is not None:
        raise UserError(
            f"device-memory: {device.type} has no memory of its own; bound the process with --memory"
        )
    return None


def least_budget(
    first: DeviceMemory, others: Iterable[DeviceMemory], asked: int | None, begun: bool = False
) -> int:
    """Return the bytes that tensors may take on each of several GPUs: the least of all.

    Args:
        first: the GPU that the model is on: its weights count.
        others: GPUs that will get a copy of it; what is held there is not the work's.
        asked: at most so many bytes.
        begun: of work that has been cut: it goes on as long as it can, in all that is free, and not in a share of it.

    Raises:
        UserError: more is asked for than one of them has; not of work that is begun.
    """

    def budget(gpu: DeviceMemory) -> int:
        if not begun:
            return gpu_budget(gpu, asked)
        there = gpu.held() + gpu.free()
        return there if asked is None else min(asked, there)

    return min([budget(first), *(budget(gpu) - gpu.held() for gpu in others)])


def gpu_budget(gpu: DeviceMemory, asked: int | None) -> int:
    """Return the bytes that tensors may take on a GPU, the weights that are there included.

    Raises:
        UserError: more is asked for than there is.
    """
    held, free = gpu.held(), gpu.free()
    if asked is None:
        return held + int(SHARE * free)
    if asked > held + free:
        raise UserError(
            f"device-memory: {shown_bytes(asked)}, and the GPU has {shown_bytes(held + free)} for this; give less"
        )
    return asked


@contextmanager
def reporting_full_device() -> Iterator[None]:
    """Turn the error of a device without room into one line that says what to do; also decorates a function.

    Raises:
        UserError: the GPU is full.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"device-memory: the GPU is full ({reason}); name less than it has, with --device-memory"
        ) from error
