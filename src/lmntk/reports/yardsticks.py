"""Yardsticks beside a test metric: the number of test texts, the error that so many leave, and chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Yardstick:
    """The test texts of one task in a run.

    Attributes:
        texts: how many there are in a split; of several numbers the least.
        classes: how many; None where the files do not say.
        is_accuracy: of another metric neither chance nor an error is said.
    """

    texts: int
    classes: int | None
    is_accuracy: bool

    def joined(self, other: Yardstick | None) -> Yardstick:
        """Return what holds of the task in another run too."""
        if other is None:
            return self
        classes = self.classes if self.classes == other.classes else None
        return Yardstick(min(self.texts, other.texts), classes, self.is_accuracy and other.is_accuracy)

    @property
    def error(self) -> float | None:
        """The standard error, in points, of an accuracy of 50 % on one split's texts, which no other accuracy exceeds."""
        return 50 / self.texts**0.5 if self.is_accuracy and self.texts else None

    @property
    def chance(self) -> float | None:
        """Chance in per cent: the metric of guessing."""
        return 100 / self.classes if self.is_accuracy and self.classes else None

    @property
    def parts(self) -> list[str]:
        """Chance, and the test texts with their error, in print."""
        texts = f"{self.texts} test texts" + ("" if self.error is None else f", ± {self.error:.1f}")
        return ([] if self.chance is None else [f"chance {self.chance:.1f}"]) + (
            [texts] if self.texts else []
        )

    @property
    def phrase(self) -> str:
        """The same in one line."""
        return " · ".join(self.parts)


def yardsticks(
    rows: Sequence[Mapping[str, Any]], splits: Sequence[Mapping[str, Any]]
) -> dict[tuple[str, str], Yardstick]:
    """Return the yardstick of each run and task.

    Args:
        rows: of results.csv; where several runs are shown together each has its ``run`` as well.
        splits: the records of splits, likewise.
    """
    classes: dict[tuple[str, str], int] = {}
    for split in splits:
        for row in split.get("rows", ())[:1]:
            labels = split.get("train_labels") or ()
            count = len(split.get("labels") or ()) or len(set(labels))
            key = split.get("run", ""), row["task"]
            classes[key] = max(count, classes.get(key, 0))
    found = {}
    for key in dict.fromkeys((row.get("run", ""), row["task"]) for row in rows):
        own = [row for row in rows if (row.get("run", ""), row["task"]) == key]
        texts = min((int(row.get("test_texts") or 0) for row in own), default=0)
        is_accuracy = all(row.get("metric") == "accuracy" for row in own)
        found[key] = Yardstick(texts, classes.get(key) or None, is_accuracy)
    return found
