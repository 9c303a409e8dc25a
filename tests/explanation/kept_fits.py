"""Small fits in folders, their numbers, and what training on a part of their texts comes to by plain algebra."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from lmntk.kernels.kernel import Kernel
from lmntk.solvers.inputs import target_matrix

WORDS = {
    "good": ("great", "fun", "happy"),
    "bad": ("dull", "terrible", "sad"),
    "so-so": ("maybe", "not", "no"),
}
NOUNS = ("film", "book", "story")
PROMPT = ("--template", "{a} It was {mask}.", "--label-words", "good=great,bad=terrible", "--mode", "prompt")
# name: texts of a class, classes, options
FITS: dict[str, tuple[int, int, tuple[str, ...]]] = {
    "prompt": (4, 2, PROMPT),
    "head": (6, 2, ()),
    "three": (3, 3, ()),
    "contrasts": (3, 3, ("--classes", "contrasts")),
    "shared": (3, 3, ("--classes", "shared")),
}
NEW = ["a great story", "dull and sad", "it is not a film ?"]


def messages(each: int, classes: int = 2) -> list[tuple[str, str]]:
    """Return as many texts of each class, whose words tell it; to the tiny model no two are the same."""
    labels = list(WORDS)[:classes]
    return [
        (f"a {WORDS[label][n % 3]} {NOUNS[n // 3]}{' .' * (n % 2)}", label)
        for n in range(each)
        for label in labels
    ]


def write_table(path: Path, rows: list[tuple[str, str]]) -> Path:
    """Write labelled texts under ``message`` and ``category``."""
    lines = ["\t".join(row) for row in [("message", "category"), *rows]]
    path.write_text("\n".join(lines) + "\n", encoding="utf8")
    return path


def write_lines(path: Path, texts: list[str]) -> Path:
    """Write texts as JSON lines."""
    path.write_text("".join(json.dumps({"message": text}) + "\n" for text in texts), encoding="utf8")
    return path


class Oracle:
    """Ridge regression on a fit's kernel [N, C, N, C] and a cross kernel, by the normal equations of each class or logit."""

    def __init__(self, folder: Path, cross: np.ndarray | None = None, f0: np.ndarray | None = None) -> None:
        self.record: dict[str, Any] = json.loads((folder / "training.json").read_text())
        self.kernel = Kernel.load(folder / self.record["kernel"]).values
        self.labels, self.logits = np.array(self.record["numbers"]), np.array(self.record["logits"])
        self.cross, self.f0 = (self.kernel, self.logits) if cross is None else (cross, f0)
        n, c = self.kernel.shape[:2]
        flat = self.kernel.reshape(n * c, n * c)
        self.ridge = self.record["regularization"] * np.linalg.norm((flat + flat.T) / 2, 2)
        self.scale = self.record["f0_scale"] or np.inf

    def decisions(self, part: list[int], labels: np.ndarray | None = None) -> np.ndarray:
        """Return decisions [M, C] of training on a part alone."""
        labels = self.labels if labels is None else labels
        c = self.kernel.shape[1]
        targets = (target_matrix(labels, self.logits.shape[1]) - self.logits / self.scale)[part]
        rows = len(part) * c
        matrix = self.kernel[np.ix_(part, range(c), part, range(c))].reshape(rows, rows)
        alpha = np.linalg.solve(
            (matrix + matrix.T) / 2 + self.ridge * np.eye(rows), targets.reshape(rows, -1 if rows else 1)
        )
        moved = self.cross[part].reshape(rows, self.f0.shape[0] * c).T @ alpha
        return moved.reshape(self.f0.shape) + self.f0 / self.scale + np.array(self.record["intercepts"])
