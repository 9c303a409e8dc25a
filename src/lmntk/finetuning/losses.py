"""The losses that training minimises: the mean over a batch of a text's loss, of one logit or many.

| loss | c > 1, y one-hot | c = 1, y in {-1, +1} |
|---|---|---|
| cross-entropy | -log softmax(f)_y | log(1 + exp(-y f)) |
| squared | 1/2 sum_c (f_c - y_c)^2 | 1/2 (f - y)^2 |

For one logit the cross-entropy is that of two logits whose difference is f.
The squared loss is the one whose gradient flow, df/dt = -K (f - y) / n, kernel regression solves.
"""

from __future__ import annotations

from torch import Tensor, nn

from lmntk.errors import UserError

NAMES = ("cross-entropy", "squared")


def targets(labels: Tensor, logits: Tensor) -> Tensor:
    """Return y [n, c] of class numbers [n]: one-hot, or -1 and +1 for one logit; of the logits' kind."""
    if logits.shape[1] == 1:
        return (2 * labels - 1).to(logits)[:, None]
    return nn.functional.one_hot(labels, logits.shape[1]).to(logits)


def mean_loss(name: str, logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean loss of a batch's logits [n, c] and class numbers [n].

    Raises:
        UserError: there is no such loss.
    """
    if name == "squared":
        return 0.5 * (logits - targets(labels, logits)).square().sum(1).mean()
    if name != "cross-entropy":
        raise UserError(f"loss: {name!r} is not one of {', '.join(NAMES)}")
    if logits.shape[1] == 1:
        return nn.functional.softplus(-targets(labels, logits) * logits).mean()
    return nn.functional.cross_entropy(logits, labels)
