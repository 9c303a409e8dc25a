"""Devices that a network computes on: chosen by name, moved to, copied to."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from lmntk.errors import UserError

AUTO = "auto"
Model = TypeVar("Model", bound=nn.Module)


def move_to(pretrained: Any, device: str = AUTO) -> torch.device:
    """Move a network to a device, of several to the first, and return that.

    "auto" is the first GPU, or the processor where there is none.

    Raises:
        UserError: there is no such device here.
    """
    first = chosen_devices(device)[0]
    with _reporting_no_device(device):
        pretrained.network.to(first)
    return first


def chosen_devices(device: str = AUTO) -> tuple[torch.device, ...]:
    """Return the devices that are meant: of "cuda" all GPUs of this machine, of "cuda:0,cuda:2" those two.

    "cpu,cpu" are two workers on the processor, each with a copy of the model: for tests, for one with more threads is faster.

    Raises:
        UserError: there is no such device here, a GPU is named twice, or the devices are of several kinds.
    """
    if device == AUTO:
        return (torch.device("cuda:0" if torch.cuda.is_available() else "cpu"),)
    with _reporting_no_device(device):
        named = [torch.device(part.strip()) for part in device.split(",")]
        if named == [torch.device("cuda")]:
            named = [torch.device("cuda", index) for index in range(max(1, torch.cuda.device_count()))]
        # "cuda" among others is one of them, which has a number
        named = [torch.empty(0, device=chosen).device for chosen in named]
    if len({chosen.type for chosen in named}) > 1:
        raise UserError(
            f"device: {device!r} is of several kinds, whose results differ in the last bits; name GPUs, or cpu"
        )
    if named[0].type != "cpu" and len(set(named)) < len(named):
        raise UserError(f"device: {device!r} names one twice; name each once")
    return tuple(named)


@contextmanager
def _reporting_no_device(device: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"device: {device!r} is not to be had here ({reason}); use cpu, or leave it out"
        ) from error


class _Taken(TorchFunctionMode):
    """Make deep copies of one device's tensors on another, while the body runs."""

    def __init__(self, source: torch.device, target: torch.device) -> None:
        super().__init__()
        self.source, self.target = source, target

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.Tensor.__deepcopy__ or args[0].device != self.source:
            return func(*args, **(kwargs or {}))
        tensor, memo = args
        if id(tensor) not in memo:
            memo[id(tensor)] = tensor.detach().to(self.target, copy=True).requires_grad_(tensor.requires_grad)
        return memo[id(tensor)]


def copy_to(
    device: torch.device, model: Model, trainable: Mapping[str, nn.Parameter]
) -> tuple[Model, dict[str, nn.Parameter]]:
    """Return a copy of a model on a device, and the copy's parameters that count.

    What is shared in the model is shared in the copy. Tensors that are neither parameters nor buffers, such as what a module has put
    by, go along if they are where the model is.

    Memory: of the model, on that device alone.
    """
    made: dict[int, Any] = {}
    for parameter in model.parameters():
        made[id(parameter)] = nn.Parameter(
            parameter.detach().to(device, copy=True), requires_grad=parameter.requires_grad
        )
    for buffer in model.buffers():
        made[id(buffer)] = buffer.detach().to(device, copy=True)
    with _Taken(next(model.parameters()).device, device):
        copied = copy.deepcopy(model, made)
    return copied, {name: made[id(parameter)] for name, parameter in trainable.items()}
