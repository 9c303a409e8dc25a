"""Precision of products: float32 in full, TensorFloat-32, or bfloat16 passes; never a global setting's.

PyTorch has process-wide switches that let float32 products round their operands (to 11 bits on a GPU, to 8 on some processors).
A kernel must not depend on whether some other library has turned one, so they are set while lmntk computes, and put back after.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, cast

import torch

from lmntk.errors import UserError

Precision = Literal["float32", "tf32", "bfloat16"]
PRECISIONS = ("float32", "tf32", "bfloat16")
FULL: Precision = "float32"
AMPERE = 8  # the major compute capability from which on a GPU has TF32 and bfloat16


def check_precision(precision: str, dtype: str, devices: Sequence[torch.device]) -> Precision:
    """Return the precision, if these devices have it.

    Raises:
        UserError: no such precision, one that the weights' dtype or a device does not go with.
    """
    if precision not in PRECISIONS:
        raise UserError(f"precision: {precision!r} is not one of {', '.join(PRECISIONS)}")
    if precision != FULL and dtype != "float32":
        raise UserError(f"precision: {precision} would spoil --dtype {dtype}; leave one of them out")
    for device in devices:
        if precision == "tf32" and device.type != "cuda":
            raise UserError(
                f"precision: tf32 needs a GPU, and this is {device.type}; use float32, or bfloat16"
            )
        if (
            precision != FULL
            and device.type == "cuda"
            and torch.cuda.get_device_capability(device)[0] < AMPERE
        ):
            name = torch.cuda.get_device_name(device)
            raise UserError(f"precision: {name} has no {precision}, which needs Ampere or newer; use float32")
    return cast(Precision, precision)


def passes_dtype(precision: Precision) -> torch.dtype | None:
    """Return what forward and backward passes are to run in by autocast; None: in the weights' own."""
    return torch.bfloat16 if precision == "bfloat16" else None


def products(precision: Precision) -> AbstractContextManager[None]:
    """Make float32 products as exact as the precision says, while the body runs.

    float32 passes multiply in full. With ``tf32`` and ``bfloat16`` a GPU multiplies float32 matrices in TF32, which holds a bfloat16
    number exactly; a processor multiplies them in full even then. Several threads may be inside with one precision; one that needs
    another waits for them, for the switches are the whole process's.
    """
    return _switches.held(precision != FULL)


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """Compute the network's products in ``dtype``, while the body runs; None changes nothing."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype, cache_enabled=False)


class _Switches:
    """The process's switches, shared by the threads that need them alike."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._holders: dict[int, int] = {}  # by thread, how many times
        self._tf32 = False
        self._before: list[Any] = []

    @contextmanager
    def held(self, tf32: bool) -> Iterator[None]:
        me = threading.get_ident()
        with self._changed:
            if me in self._holders and self._tf32 != tf32:
                raise RuntimeError("products of one precision asked for within those of another")
            self._changed.wait_for(lambda: not self._holders or self._tf32 == tf32)
            if not self._holders:
                self._tf32, self._before = tf32, _switch(tf32)
            self._holders[me] = self._holders.get(me, 0) + 1
        try:
            yield
        finally:
            with self._changed:
                self._holders[me] -= 1
                if not self._holders[me]:
                    del self._holders[me]
                if not self._holders:
                    _put_back(self._before)
                    self._changed.notify_all()


_switches = _Switches()


def _places() -> list[tuple[Any, str, str]]:
    """Return (module, switch, its value for TF32 on a GPU and none on a processor)."""
    backends: Any = torch.backends
    reduced = [(backends.cuda.matmul, "allow_bf16_reduced_precision_reduction", "")]
    if not hasattr(backends, "fp32_precision"):  # before torch 2.9
        return [
            (backends.cuda.matmul, "allow_tf32", "tf32"),
            (backends.cudnn, "allow_tf32", "tf32"),
            *reduced,
        ]
    gpu = [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn]
    processor = [
        getattr(backends.mkldnn, name) for name in ("matmul", "conv", "rnn") if hasattr(backends.mkldnn, name)
    ]
    return [
        *((module, "fp32_precision", "tf32") for module in gpu),
        *((module, "fp32_precision", "ieee") for module in processor),
        *reduced,
    ]


def _switch(tf32: bool) -> list[Any]:
    """Set the switches; return what they were."""
    places = _places()
    before = [getattr(module, name) for module, name, _ in places]
    for module, name, lower in places:
        setattr(
            module,
            name,
            (lower if tf32 else "ieee") if name == "fp32_precision" else tf32 and lower == "tf32",
        )
    return before


def _put_back(before: Sequence[Any]) -> None:
    for (module, name, _), value in zip(_places(), before, strict=True):
        setattr(module, name, value)
