"""Small runs that are fine-tuned, and what they left."""

from __future__ import annotations

import csv

import pytest
from kept import latest_at
from tiny import films

from lmntk.experiment.run import Silent
from lmntk.experiment.steps import finetune as module
from lmntk.experiment.steps import kernels as kernel_steps
from lmntk.system.kept import read_record

CELL = "films-k2-seed13-prompt"


def changed(values, **change):
    return values | {"finetuning": values["finetuning"] | change}


def record(values, arm="sgd-fine-tuning", split=CELL):
    return read_record(latest_at(values["out"] / "finetunings" / f"{split}-{arm}.json"))


class Watching(Silent):
    def __init__(self):
        self.begun, self.done, self.total, self.steps, self.found, self.notes = [], [], 0, 0, None, []

    def start(self, splits, finished):
        self.found = splits, finished

    def work(self, description, total):
        self.begun.append(description)
        self.total += total

    def advance(self, amount):
        self.steps += amount

    def finished(self, split, rows):
        self.done.append(split)

    def note(self, line):
        self.notes.append(line)


def no_kernels(monkeypatch):
    monkeypatch.setattr(kernel_steps, "stream_kernels", lambda *a, **k: pytest.fail("computed a kernel"))


def no_training(monkeypatch):
    monkeypatch.setattr(module, "search", lambda *a, **k: pytest.fail("trained something"))


def finetuned_values(model, tmp_path):
    """Return the configuration of a run on films that is fine-tuned with SGD at two rates."""
    how = {"learning_rates": [1e-2, 1e-1], "batch_sizes": [2], "steps": 4, "eval_every": 2}
    return {
        "model": str(model), "own_tasks": [films(tmp_path, 40, 12)], "k": [2], "seeds": [13], "formulas": [], "finetune": ["sgd"],
        "finetuning": how, "out": tmp_path / "out",
    }  # fmt: skip


def table_of(values):
    return list(csv.DictReader((values["out"] / "results.csv").open()))


def without_seconds(found):
    """Return a record without its times, and without its checksum, which is of these too."""
    runs = [{key: value for key, value in one.items() if key != "seconds"} for one in found["runs"]]
    return {key: value for key, value in found.items() if key != "checksum"} | {"runs": runs}
