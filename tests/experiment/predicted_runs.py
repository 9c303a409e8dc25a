"""Runs whose solutions are saved for lmntk predict, and the decisions that their kernels made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import films

from lmntk.experiment.steps import solve as solving


def decisions_by_kernel(monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Returns, after a run, each method's decisions on the test texts, as its kernel made them."""
    found: dict[str, np.ndarray] = {}
    with_test = solving.Outcome.with_test

    def noted(self: Any, decisions: np.ndarray, labels: Any) -> Any:
        found[self.method] = decisions
        return with_test(self, decisions, labels)

    monkeypatch.setattr(solving.Outcome, "with_test", noted)
    return found


def predicted_values(tmp_path: Path) -> dict[str, Any]:
    """Return the configuration of a run on films whose solutions are saved; it lacks the model."""
    return {
        "own_tasks": [films(tmp_path, 40, 20)],
        "k": [4],
        "seeds": [13],
        "out": tmp_path / "out",
        "save_models": True,
        "dtype": "float64",
    }
