"""Small runs on films, and what they compute."""

from __future__ import annotations

from tiny import films

from lmntk.experiment.run import Silent


class Counting(Silent):
    """Counts what is computed and solved."""

    def __init__(self):
        self.streams, self.splits, self.found, self.amount, self.total = [], [], None, 0.0, 0.0

    def start(self, splits, finished):
        self.found = (splits, finished)

    def work(self, description, total):
        self.streams.append(description)
        self.total += total

    def advance(self, amount):
        self.amount += amount

    def finished(self, split, rows):
        self.splits.append(split)


def film_values(model, tmp_path):
    """Return the configuration of a run on films with two k, two seeds and both modes."""
    return {
        "model": str(model),
        "own_tasks": [films(tmp_path, 40, 20)],
        "k": [2, 4],
        "seeds": [13, 21],
        "modes": ["prompt", "head"],
        "out": tmp_path / "out",
    }
