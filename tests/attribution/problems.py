"""Small random problems whose kernels come of features, so that everything can be done slowly too."""

from __future__ import annotations

import numpy as np

from lmntk.attribution.changes import TrainedTexts


def problem(outputs: int, texts: int = 8, others: int = 5, seed: int = 0) -> TrainedTexts:
    """Return kernels of random features, labels of every class and pre-trained logits."""
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(texts + others, outputs, 60))
    kernel = np.einsum("ncp,mdp->ncmd", features, features)
    labels = np.arange(texts) % max(2, outputs)
    f0 = generator.normal(size=(texts + others, outputs))
    return TrainedTexts.of(
        kernel[:texts, :, :texts], kernel[:texts, :, texts:], labels, f0[:texts], f0[texts:]
    )


def part_of(texts: TrainedTexts, numbers: list[int]) -> TrainedTexts:
    """Return the same with some training texts alone."""
    return TrainedTexts.of(
        texts.kernel[np.ix_(numbers, range(texts.outputs), numbers, range(texts.outputs))],
        texts.cross[numbers],
        texts.labels[numbers],
        texts.f0[numbers],
        texts.cross_f0,
    )
