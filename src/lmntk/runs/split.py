"""A split: one task at one k, seed and mode, and the texts that it chose."""

from __future__ import annotations

from dataclasses import dataclass

SIDES = ("train", "dev", "test")


@dataclass(frozen=True)
class Split:
    """One task at one k, seed and mode, and the row numbers of its texts in the task's files."""

    task: str
    k: int
    seed: int
    mode: str
    train: tuple[int, ...]
    dev: tuple[int, ...]
    test: tuple[int, ...]

    @property
    def name(self) -> str:
        """A readable name, which begins the names of its files."""
        return f"{self.task}-k{self.k}-seed{self.seed}-{self.mode}"
