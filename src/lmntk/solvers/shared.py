"""The shared kernel of many classes: one N x N matrix for all of them, instead of (N C) x (N C).

    K(x, x') = 1 / (C - 1) sum_c <g~_c(x), g~_c(x')>,   g~_c the gradient of f_c less the mean logit

is what all classes' gradients have in common once the common mode is gone, which a softmax does not see. It is the sum over kernels
of single outputs: over C - 1 orthonormal contrasts exactly, over S random sign combinations without bias.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from lmntk.errors import UserError
from lmntk.solvers.inputs import Array

MOST_FULL = 6  # classes: with more they share a kernel, since a full one costs C^2 products
SIGNS = 2  # combinations of the logits that stand for a shared kernel
# their number and the version of their drawing, in the keys of kept kernels
DRAWN = {"signs": SIGNS, "drawing": 2}
Sharing = Literal["auto", "full", "shared"]


def is_shared(sharing: str, classes: int) -> bool:
    """Return whether so many classes share a kernel; two have a single logit, their difference."""
    return classes > (2 if sharing == "shared" else MOST_FULL if sharing == "auto" else classes)


def is_contrasted(sharing: str, classes: int) -> bool:
    """Return whether the kernel of so many classes is one of contrasts; two classes have a single logit, their difference."""
    return sharing == "contrasts" and classes > 2


def contrasts(classes: int) -> Array:
    """Return C - 1 orthonormal combinations [C, C - 1] of logits, each without the common mode."""
    _check(classes)
    steps = np.tril(np.ones((classes, classes)), -1)[:, : classes - 1]
    steps = np.eye(classes)[:, : classes - 1] * np.arange(classes - 1, 0, -1) - steps
    return np.asarray(steps / np.linalg.norm(steps, axis=0))


def sign_combinations(classes: int, count: int, seed: int = 0) -> Array:
    """Return random combinations [C, S] of centred logits: signs less their mean, over the square root of S.

    The sum over the S kernels of single outputs is on average the sum over the C - 1 contrasts. Signs that are all equal have no centred
    part, and are drawn anew: of a few classes they are not rare, and a kernel of theirs alone is zero. The factor sqrt(1 - 2^(1 - C)) makes
    up for it in the mean.
    """
    _check(classes)
    if count < 1:
        raise UserError(f"shared kernel: {count} sign combinations; take at least one")
    random = np.random.default_rng(seed)
    signs = random.choice([-1.0, 1.0], (classes, count))
    while (equal := np.abs(signs.sum(axis=0)) == classes).any():
        signs[:, equal] = random.choice([-1.0, 1.0], (classes, int(equal.sum())))
    factor = np.sqrt((1 - 2.0 ** (1 - classes)) / count)
    return np.asarray(factor * (signs - signs.mean(axis=0)))


def shared_kernel(full: Array) -> Array:
    """Return the shared kernel [N, M] of a full one [N, C, M, C]."""
    classes = full.shape[1]
    _check(classes)
    within = np.einsum("ncmc->nm", full)
    common = full.mean(axis=(1, 3)) * classes
    return np.asarray((within - common) / (classes - 1))


def single_kernel(combined: Array, classes: int) -> Array:
    """Return the shared kernel [N, 1, M, 1] of one between combinations of C logits, [N, S, M, S]."""
    return np.asarray(np.einsum("nsms->nm", combined)[:, None, :, None] / (classes - 1))


def in_classes(kernel: Array, basis: Array | None) -> Array:
    """Return a kernel of contrasts as one of all logits [N, C, M, C]; another one as it is."""
    if basis is None:
        return kernel
    n, _, m, _ = kernel.shape
    between = np.empty((n, len(basis), m, len(basis)))
    # one text at a time, so that nothing else of this size is held
    for row, of_text in zip(between, kernel, strict=True):
        row[...] = np.einsum("ck,kml,dl->cmd", basis, of_text, basis, optimize=True)
    return between


def _check(classes: int) -> None:
    if classes < 2:
        raise UserError(f"shared kernel: {classes} class has nothing to share; take the full kernel")
