"""The scores of ``lds.py``, which says what they are, and LDS itself: all of kept arrays, without a model."""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from scipy.stats import rankdata

from lmntk.attribution.changes import Changes, TrainedTexts
from lmntk.attribution.descent_refits import DescentRefits
from lmntk.attribution.ridge_refits import RidgeRefits
from lmntk.solvers.chi import output_derivative
from lmntk.solvers.folds import deal_folds
from lmntk.solvers.held_out import RidgeCandidates, choose

Array = np.ndarray
PROTOCOLS = ("stratified", "uniform")
SEED, RESAMPLES = 20, 1000
SATURATION, SHORTNESS = 1.5, 0.75  # BM25's k1 and b, as most have them


def part_of(labels: Array, protocol: str, number: int) -> Array:
    """Return the numbers of a half of the texts, ascending: of all, or of each class."""
    random = np.random.default_rng([SEED, PROTOCOLS.index(protocol), number])
    if protocol == "uniform":
        return np.sort(random.permutation(len(labels))[: len(labels) // 2])
    halves = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        halves.append(random.permutation(members)[: len(members) // 2])
    return np.sort(np.concatenate(halves))


def directions(labels: Array, outputs: int) -> Array:
    """Return v [M, C], margin = <v, f>: the logit of the true class less the mean of the others; of one logit its sign."""
    if outputs == 1:
        return np.where(labels == 1, 1.0, -1.0)[:, None]
    own = np.eye(outputs)[labels]
    return own - (1 - own) / (outputs - 1)


def margins(logits: Array, labels: Array) -> Array:
    """Return the margins [..., M] of logits [..., M, C]."""
    return np.asarray((logits * directions(labels, logits.shape[-1])).sum(axis=-1))


def by_text(real: Array, predicted: Array) -> Array:
    """Return Spearman's correlation over subsets of each test text [M], of [S, M] each; nan where one side is all equal."""
    first, second = (rankdata(values.round(12), axis=0) for values in (real, predicted))
    first, second = first - first.mean(axis=0), second - second.mean(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(
            (first * second).sum(axis=0) / np.sqrt((first**2).sum(axis=0) * (second**2).sum(axis=0))
        )


def lds(real: Array, predicted: Array) -> tuple[float, float]:
    """Return the mean correlation over test texts, and its error by resampling the texts.

    A text of which a score says the same of all parts counts 0; nan where that is so of every text.
    """
    each = by_text(real, predicted)
    if np.isnan(each).all():
        return math.nan, math.nan
    each = np.nan_to_num(each)
    drawn = np.random.default_rng(SEED).integers(len(each), size=(RESAMPLES, len(each)))
    return float(each.mean()), float(each[drawn].mean(axis=1).std())


def gradient_scores(kernels: dict[str, Array], labels: dict[str, Array]) -> dict[str, Array]:
    """Return <grad of the margin, -grad of the training text's loss> [N, M], and the same over the latter's length.

    The test text's own length is the same for all subsets and changes no rank.
    """
    chi = output_derivative(kernels["f0"], labels["train"])
    v = directions(labels["test"], chi.shape[1])
    dot = -np.einsum("nc,ncmd,md->nm", chi, kernels["cross"], v, optimize=True)
    n = np.arange(len(chi))
    lengths = np.sqrt(np.einsum("nc,ncd,nd->n", chi, kernels["train"][n, :, n], chi))
    return {"gradient dot": dot, "gradient cosine": dot / lengths[:, None]}


def signed(likeness: Array, labels: dict[str, Array], classes: int) -> Array:
    """Return a likeness [N, M] with +1 for a text of the test text's class, else -1 over the number of others."""
    same = labels["train"][:, None] == labels["test"][None]
    return np.where(same, likeness, -likeness / (classes - 1))


def cosine(first: Array, second: Array) -> Array:
    """Return the cosines [n, m] of rows."""
    first, second = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (first, second))
    return np.asarray(first @ second.T)


def bm25(documents: Sequence[str], queries: Sequence[str]) -> Array:
    """Return Okapi BM25 of each document for each query [n, m]."""
    words = [Counter(re.findall(r"\w+", text.lower())) for text in documents]
    lengths = np.array([sum(each.values()) for each in words])
    held = Counter(word for each in words for word in each)
    scores = np.zeros((len(documents), len(queries)))
    for m, query in enumerate(queries):
        for word in set(re.findall(r"\w+", query.lower())) & held.keys():
            rarity = math.log(1 + (len(documents) - held[word] + 0.5) / (held[word] + 0.5))
            counts = np.array([each[word] for each in words])
            saturated = counts + SATURATION * (1 - SHORTNESS + SHORTNESS * lengths / lengths.mean())
            scores[:, m] += rarity * counts * (SATURATION + 1) / saturated
    return scores


def label_count(labels: dict[str, Array]) -> Array:
    """Return 1 where a training text is of the test text's class [N, M]."""
    return np.asarray(labels["train"][:, None] == labels["test"][None], dtype=float)


def ridge_of(texts: TrainedTexts) -> RidgeRefits:
    """Return ridge regression with the setting that holds out best on all training texts, as ``fit`` chooses it."""
    candidates = RidgeCandidates(texts.kernel, texts.labels, texts.f0)
    setting = candidates.settings[choose(candidates, texts.labels, deal_folds(texts.labels, rounds=5))]
    return RidgeRefits(texts, setting["regularization"], setting["f0_scale"])


def influences(refits: DescentRefits | RidgeRefits, test_labels: Array) -> Array:
    """Return the margin of training on all, less that without the training text [N, M]: exact, as ``explain`` says it."""
    texts = refits.texts.texts
    changes = Changes(np.concatenate([np.ones((1, texts)), 1 - np.eye(texts)]))
    reached = margins(refits.outcomes(changes), test_labels)
    return np.asarray(reached[:1] - reached[1:])


def predictions(
    kernels: dict[str, TrainedTexts],
    rates: Array,
    fixed: dict[str, Array],
    parts: Array,
    test_labels: Array,
) -> dict[str, tuple[Array, float]]:
    """Return each score's prediction of the margins [S, M] of training on each part, and its seconds, by the score's name.

    Args:
        kernels: the texts with the kernel ``before`` training, and where it is known with that at ``both ends``.
        rates: of each step.
        fixed: additive scores [N, M] that are kept.
        parts: weights [S, N] of 0 and 1.
        test_labels: of the test texts.
    """
    changes = Changes(parts)

    def additive(scores: Array) -> Array:
        return np.asarray(parts @ scores)

    @cache  # the setting is chosen once, in the seconds of the first that asks
    def ridge() -> RidgeRefits:
        return ridge_of(kernels["before"])

    ways: dict[str, Callable[[], Any]] = {
        "ridge refit": lambda: margins(ridge().outcomes(changes), test_labels),
        "influence, ridge": lambda: additive(influences(ridge(), test_labels)),
        "contributions, ridge": lambda: additive(margins(ridge().contributions(), test_labels)),
    }
    for where, texts in kernels.items():
        descent = DescentRefits(texts, rates)
        ways |= {
            f"emulator, {where}": lambda of=descent: margins(of.outcomes(changes), test_labels),
            f"influence, {where}": lambda of=descent: additive(influences(of, test_labels)),
            f"contributions, {where}": lambda of=descent: additive(margins(of.contributions(), test_labels)),
        }
    ways |= {name: (lambda scores=scores: additive(scores)) for name, scores in fixed.items()}
    made = {}
    for name, way in ways.items():
        began = time.perf_counter()
        made[name] = way(), time.perf_counter() - began
    return made
