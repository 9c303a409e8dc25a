"""Settings of a computation: in which batches and memory, where, at which precision."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from lmntk.engine.work import WorkOwner
from lmntk.kernels.gram import Grouping
from lmntk.system.device_memory import DeviceMemory
from lmntk.system.executors.base import Executor
from lmntk.system.executors.local import Local
from lmntk.system.executors.threads import Devices
from lmntk.system.memory import default_memory
from lmntk.system.precision import FULL, Precision
from lmntk.tangents.rules import RULES

MACHINE = "machine.json"  # the name of the file with this machine's speed
SCRATCH = "scratch"  # the name of the folder for scratch files in an output folder
NOT_KEPT = "keep-factors: none were kept, because the kernels are there already; name a new folder with --out"


@dataclass(frozen=True)
class Settings:
    """Settings that change nothing that is computed beyond rounding, but for ``drop_noise`` and ``precision``.

    Attributes:
        batch_size: the most texts in one forward pass.
        memory: bytes that lmntk may hold on one machine, the model included: this process, and a cluster's workers there.
        drop_noise: leave coordinates that are rounding noise out of the sign kernels.
        grouping: from a parameter's name to its group, for per-group values.
        scratch: a folder for row factors that do not fit into memory, and for finished tiles; without one there is neither.
        keep_factors: leave all texts' factors in the scratch folder.
        executor: where tiles are made: here, or on a cluster.
        rates: the file in which this machine's speed is kept.
        precision: of passes and products: ``float32`` (in full), ``tf32``, ``bfloat16``. A lower one changes what is computed, and how much
            is measured.
        device_memory: bytes that tensors may take of each GPU, the weights included; by default most of what is free.
        gpu: stands in for the device's memory; for tests.
        owner: whose the scratch files are: what is begun for it and not gone on with ``WorkFolder.sweep`` removes.
    """

    batch_size: int = 32
    memory: int = field(default_factory=default_memory)
    drop_noise: bool = True
    grouping: Grouping | None = None
    scratch: Path | None = None
    keep_factors: bool = False
    executor: Executor = field(default_factory=Local)
    rates: Path | None = None
    precision: Precision = FULL
    device_memory: int | None = None
    gpu: DeviceMemory | None = None
    owner: WorkOwner | None = None

    @property
    def copies(self) -> int:
        """Workers in this process, each with a model and row factors of its own."""
        return len(self.executor.devices) if isinstance(self.executor, Devices) else 1

    @property
    def processes(self) -> int:
        """Processes that share the memory of one machine: the workers that a cluster has on one, and this one."""
        return int(getattr(self.executor, "sharing", 1))

    @property
    def share(self) -> int:
        """Bytes that each of them may hold."""
        return self.memory // self.processes

    def cut(self) -> dict[str, object]:
        """Return what the cut of the work depends on, and so the last bits of its numbers.

        The memory is not part of it: work that goes on keeps to its cut as long as that fits.
        """
        rules = sorted(f"{kind.__module__}.{kind.__qualname__}" for kind in RULES)
        return {"batch_size": self.batch_size, "keep_factors": self.keep_factors, "rules": rules}
