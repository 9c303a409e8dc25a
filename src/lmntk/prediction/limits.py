"""Limits of the passes of a predictor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmntk.engine.settings import Settings
    from lmntk.system.device_memory import DeviceMemory


@dataclass(frozen=True)
class PassLimits:
    """Limits of one forward pass.

    Attributes:
        batch_size: texts in one pass, at most.
        memory: bytes that the process may hold, the model and v included; None does not bound it.
        device_memory: bytes that tensors may take on a GPU, the model and v included; by default most of what is free.
        gpu: stands in for the device's memory; for tests.
    """

    batch_size: int = 32
    memory: int | None = None
    device_memory: int | None = None
    gpu: DeviceMemory | None = None


def limits_of(settings: Settings) -> PassLimits:
    """Return the limits that passes have in a run with these settings."""
    return PassLimits(settings.batch_size, settings.memory, settings.device_memory, settings.gpu)
