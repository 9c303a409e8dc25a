"""Likeness of a subspace's kernel to the kernel that it stands for, and what the kernel alone says of training in it."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from lmntk.errors import UserError
from lmntk.solvers.inputs import Array, as_train_kernel, symmetric_matrix

# Eigenvalues below this share of the largest are rounding of products in float32.
NOISE = 1e-7


@dataclass(frozen=True)
class Likeness:
    """The likeness of a kernel k to another one K, whatever the scale of either.

    Attributes:
        scale: the number a = <K, k> / <k, k> that brings a k closest to K: a rate of a times the full one makes the same first step.
        distance: ||K - a k||_F / ||K||_F, from 0 (the same up to scale) to 1.
        cka: the cosine of both kernels, centred over the texts of each logit (Kornblith et al. 2019); 1 is the same up to scale. None where
            nothing is left of one of them once it is centred.
    """

    scale: float
    distance: float
    cka: float | None

    def as_dict(self) -> dict[str, float | None]:
        """Return plain data."""
        return asdict(self)


def likeness(part: Array, whole: Array) -> Likeness:
    """Return the likeness of a subspace's kernel [n, c, m, c] to a whole one of the same texts.

    Raises:
        UserError: kernels of different shapes, or one that is zero.

    Example:
        >>> import numpy as np
        >>> whole = np.eye(3).reshape(3, 1, 3, 1)
        >>> likeness(2 * whole, whole)
        Likeness(scale=0.5, distance=0.0, cka=1.0)
    """
    part, whole = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    if part.shape != whole.shape:
        raise UserError(
            f"subspaces: kernels of shapes {list(part.shape)} and {list(whole.shape)} are not of the same texts"
        )
    squared, norm = float((part * part).sum()), float(np.linalg.norm(whole))
    if squared == 0 or norm == 0:
        raise UserError(
            "subspaces: a kernel is zero everywhere: none of its parameters has a gradient; choose others"
        )
    scale = float((part * whole).sum()) / squared
    residue = float(np.linalg.norm(whole - scale * part)) / norm
    return Likeness(scale, residue, _cosine(_centred(part), _centred(whole)))


def condition_number(kernel: Array) -> float:
    """Return the largest eigenvalue of a kernel [n, c, n, c] over the smallest; infinite where the smallest is rounding.

    Gradient descent learns along an eigenvector at the rate of its eigenvalue: the slowest takes this many times as long as the fastest.
    """
    values = np.linalg.eigvalsh(symmetric_matrix(as_train_kernel(kernel), "the condition number"))
    return float(values[-1] / values[0]) if values[0] > NOISE * values[-1] else float("inf")


def escapes_minima(rank: int, texts: int, outputs: int) -> bool:
    """Return whether r (r + 1) / 2 > C N, when the linearized LoRA problem has no spurious minima (Jang et al. 2024)."""
    return rank * (rank + 1) / 2 > texts * outputs


def _centred(kernel: Array) -> Array:
    rows = kernel - kernel.mean(axis=0, keepdims=True)
    return np.asarray(rows - rows.mean(axis=2, keepdims=True))


def _cosine(first: Array, second: Array) -> float | None:
    norms = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float((first * second).sum()) / norms if norms > 0 else None
