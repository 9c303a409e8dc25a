"""Random kernels made from explicit features, so that every truth can be computed without the kernel."""

from __future__ import annotations

import numpy as np


def features(n, c, p, seed=0, shift=0.0):
    """Per-example, per-logit 'gradients' [n, c, p]."""
    return np.random.default_rng(seed).normal(size=(n, c, p)) + shift


def gram(left, right):
    return np.einsum("ncp,mdp->ncmd", left, right)


def problem(n=12, m=7, c=1, p=40, seed=0):
    """(train features, eval features, labels with every class present, f0 train, f0 eval)."""
    rng = np.random.default_rng(seed + 1000)
    classes = max(c, 2)
    labels = rng.permutation(np.arange(n) % classes)
    train, evaluation = features(n, c, p, seed), features(m, c, p, seed + 1)
    means = rng.normal(size=(classes, 1, p)) * 0.5
    train = train + means[labels]
    return train, evaluation, labels, rng.normal(size=(n, c)) * 3, rng.normal(size=(m, c)) * 3


def targets(labels, c):
    return (2.0 * labels - 1)[:, None] if c == 1 else np.eye(c)[labels]
