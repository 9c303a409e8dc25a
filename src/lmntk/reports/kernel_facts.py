"""The facts that a kept kernel shows without any training: its matrix, its spectrum beside the labels, and each layer's share of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lmntk.diagnosis.spectrum import group_shares, spectrum
from lmntk.kernels.kernel import Kernel

MOST = 64  # texts in a picture of a kernel
MOST_VALUES = 2048  # eigenvalues in a picture: seconds of one core


def class_summed(values: np.ndarray) -> np.ndarray:
    """Return sum_c K[n, c, m, c] [n, m]: the kernel of the logits' gradients stacked, from values [n, c, m, c]."""
    summed: np.ndarray = np.einsum("ncmc->nm", np.asarray(values, dtype=np.float64))
    return summed


def kernel_picture(matrix: np.ndarray, labels: Sequence[int]) -> dict[str, Any]:
    """Return what a picture shows of a kernel [n, n]: texts sorted by label, and of many some ``MOST``."""
    classes = np.asarray(labels)
    order = np.argsort(classes, kind="stable")
    if len(order) > MOST:  # evenly over the sorted texts, so that every class keeps its part
        order = order[np.linspace(0, len(order) - 1, MOST).round().astype(int)]
    return {"before": matrix[np.ix_(order, order)].tolist(), "labels": classes[order].tolist()}


def facts_of_kernel(kernel: Kernel, labels: Sequence[int] | None) -> dict[str, Any]:
    """Return what a diagnosis would hold of a training kernel: ``kernels`` (before alone), ``spectrum`` and, of kept groups, ``groups``.

    The spectrum is ``analysis.spectrum``'s, as a diagnosis has it; there is none without labels of two classes, nor
    above ``MOST_VALUES`` eigenvalues. Cost (n c)^3.

    Args:
        kernel: ``sgd``, among training texts.
        labels: of its n texts.
    """
    if kernel.values.shape[0] != kernel.values.shape[2] or not np.isfinite(kernel.values).all():
        return {}
    matrix = class_summed(kernel.values)
    n = len(matrix)
    known = labels is not None and len(labels) == n
    classes = np.asarray(labels if known else [0] * n)
    found: dict[str, Any] = {"kernels": kernel_picture(matrix, classes.tolist())}
    if not known:
        found["kernels"]["labels"] = []
    if known and len(set(classes.tolist())) > 1 and n * kernel.values.shape[1] <= MOST_VALUES:
        spread = spectrum(kernel.values, classes.tolist())
        found["spectrum"] = {
            "eigenvalues": spread.eigenvalues.tolist(),
            "alignment": spread.alignment.tolist(),
        }
    if kernel.groups and matrix.trace() > 0:
        found["groups"] = group_shares(kernel.groups)
    return found
