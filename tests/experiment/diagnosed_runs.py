"""Small runs that are fine-tuned and diagnosed, and what they left."""

from __future__ import annotations

import json

import pytest
from kept import latest_at
from tiny import films

from lmntk.experiment.steps import diagnose as diagnoses
from lmntk.experiment.steps import finetune as arms
from lmntk.experiment.steps import kernels as kernel_steps
from lmntk.finetuning import replay as courses
from lmntk.system.progress import Silent

CELL = "films-k2-seed13-prompt"


def changed(values, **change):
    return values | {"finetuning": values["finetuning"] | change}


def diagnosis(values, arm="sgd-fine-tuning", split=CELL):
    return json.loads(latest_at(values["out"] / "diagnoses" / f"{split}-{arm}.json").read_text())


class Noting(Silent):
    def __init__(self):
        self.notes = []

    def note(self, line):
        self.notes.append(line)


def nothing_is_computed(monkeypatch):
    monkeypatch.setattr(arms, "search", lambda *a, **k: pytest.fail("trained a grid"))
    monkeypatch.setattr(courses, "fine_tune", lambda *a, **k: pytest.fail("trained once more"))
    monkeypatch.setattr(diagnoses, "diagnose_split", lambda *a, **k: pytest.fail("diagnosed again"))
    monkeypatch.setattr(kernel_steps, "stream_kernels", lambda *a, **k: pytest.fail("computed a kernel"))


def diagnosed_values(model, tmp_path):
    """Return the configuration of a run on films that is fine-tuned with SGD and diagnosed."""
    how = {"learning_rates": [1e-1], "batch_sizes": [2], "steps": 4, "eval_every": 2}
    return {
        "model": str(model), "own_tasks": [films(tmp_path, 40, 12)], "k": [2], "seeds": [13], "formulas": [], "finetune": ["sgd"],
        "finetuning": how, "diagnose": True, "out": tmp_path / "out",
    }  # fmt: skip
