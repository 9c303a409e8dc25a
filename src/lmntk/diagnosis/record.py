"""The record of one fine-tuning that was diagnosed, and its form in a file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lmntk.diagnosis.forecast import Forecast, forecast_of
from lmntk.diagnosis.regime import Regime, regime_of
from lmntk.diagnosis.verdict import Verdict
from lmntk.system.hashing import versions

FORMAT = "lmntk diagnosis 3"


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """The record that ``lmntk diagnose`` writes; parts that are not known are None or empty."""

    identity: Mapping[str, Any]  # split, task, k, seed, mode, metric, method, formula
    verdict: Verdict
    numbers: Mapping[str, float | None]
    trajectory: Sequence[Mapping[str, float]] = ()
    logits: Mapping[str, Any] | None = None
    predictions: Mapping[str, Sequence[int] | None] | None = None
    emulation: Mapping[str, Any] | None = None
    spectrum: Mapping[str, Any] | None = None
    groups: Mapping[str, float] | None = None
    kernels: Mapping[str, Any] | None = None
    versions: Mapping[str, str] = field(default_factory=versions)

    @property
    def regime(self) -> Regime:
        """An answer to the question if training stayed in its kernel's regime."""
        return regime_of([self.as_dict()])

    @property
    def forecast(self) -> Forecast:
        """By how much the kernel's metric, and the emulator's, missed fine-tuning's."""
        return forecast_of([self.as_dict()])

    def as_dict(self, key: str = "") -> dict[str, Any]:
        """Return plain data for JSON, numbers that are not finite being null.

        Args:
            key: the hash of all that the diagnosis depends on.
        """
        parts = {
            "trajectory": list(self.trajectory) or None,
            "logits": self.logits,
            "predictions": self.predictions,
            "emulation": self.emulation,
            "spectrum": self.spectrum,
            "groups": self.groups,
            "kernels": self.kernels,
            "versions": self.versions,
        }
        head = {
            "format": FORMAT,
            "key": key,
            **self.identity,
            **self.verdict.as_dict(),
            "numbers": self.numbers,
        }
        plain: dict[str, Any] = _plain(head | parts)
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value
