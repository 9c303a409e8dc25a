"""The linear probe: a logistic regression on frozen features, which is also where head mode starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lmntk.errors import UserError
from lmntk.models.logit_model import Features, HeadModel
from lmntk.models.state import Batch, frozen

PENALTY = 1.0  # scikit-learn's C, on features as they are
MOST_ITERATIONS = 10_000


def frozen_features(network: Any, batches: Sequence[Batch], features: Features = "read") -> Tensor:
    """Return the features [n, i] of all batches in turn, in eval mode; see ``HeadModel``."""
    reader = HeadModel(network, nn.Linear(1, 2), features=features)
    with frozen(reader), torch.no_grad():
        return torch.cat([reader.features(batch) for batch in batches])


def linear_probe(features: Tensor, labels: Sequence[int], classes: int) -> nn.Linear:
    """Return the linear layer [c, i] of an L2-regularized logistic regression of labels on features [n, i].

    Two classes get the weights -w/2 and w/2, so that both logits and their difference are the regression's.

    Raises:
        UserError: a class without an example.
    """
    from sklearn.linear_model import LogisticRegression

    missing = sorted(set(range(classes)) - set(labels))
    if missing:
        raise UserError(
            f"linear probe: class {missing[0]} has no training example; give every class at least one"
        )
    fitted = LogisticRegression(C=PENALTY, max_iter=MOST_ITERATIONS).fit(
        features.double().cpu().numpy(), np.asarray(labels)
    )
    weight, bias = fitted.coef_, fitted.intercept_
    if classes == 2:
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    head = nn.Linear(features.shape[1], classes, device=features.device, dtype=features.dtype)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weight))
        head.bias.copy_(torch.from_numpy(bias))
    return head
