"""The output derivative chi = d loss / d f: how far the logits are from the labels, as the loss sees it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import expit, softmax

from lmntk.errors import UserError
from lmntk.solvers.inputs import Array, Labels, encode_labels, target_matrix


def output_derivative(logits: Array, labels: Sequence[int] | Labels, loss: str = "cross-entropy") -> Array:
    """Return chi [n, c] = d loss / d f of each text's own loss.

    * cross-entropy, c > 1: p_c - 1[c = y], with p = softmax(f);
    * cross-entropy, c = 1: p_1 - 1[y = 1], with p_1 = sigmoid(f); of two logits with f = f_1 - f_0 it is
      chi_1 = - chi_0;
    * squared: f - y, with y = -1, +1 for one logit, one-hot for several.
    """
    logits = np.asarray(logits, dtype=np.float64)
    indices = np.asarray(labels, dtype=np.int64)
    outputs = logits.shape[1]
    if loss == "squared":
        return logits - target_matrix(indices, outputs)
    if loss != "cross-entropy":
        raise UserError(f"loss: {loss!r} is not one of cross-entropy, squared")
    if outputs == 1:
        return np.asarray(expit(logits) - (indices == 1)[:, None])
    return np.asarray(softmax(logits, axis=1) - np.eye(outputs)[indices])


def mean_chi(logits: Array, labels: Sequence[int]) -> float:
    """Return the mean over texts and logits of |chi| of the cross-entropy, between 0 and 1.

    One logit of two classes folded gives what the two would: |chi_0| = |chi_1|. A model that says every class
    is as likely as every other has 1/2 for two classes, and 2 (c - 1) / c^2 for c. The theory of kernel
    behaviour asks for a *natural* task, one whose chi goes to 0 with the width, as a prompt's may and a fresh
    head's does not.
    """
    logits = np.asarray(logits, dtype=np.float64)
    indices = encode_labels(labels, logits.shape[1], what="test")
    return float(np.abs(output_derivative(logits, indices)).mean())
