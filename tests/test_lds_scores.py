"""The scores of the attribution benchmarks against plain definitions."""

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
from lds_scores import bm25, by_text, directions, gradient_scores, lds, margins, part_of, predictions, signed

from lmntk.attribution.changes import Changes, TrainedTexts
from lmntk.attribution.descent_refits import DescentRefits
from lmntk.solvers.chi import output_derivative

OUTPUTS = (1, 3)


def toy(c):
    """Return Jacobians [n, c, p] of 6 training and 4 test texts with labels and logits."""
    random = np.random.default_rng(c)
    train, test = random.normal(size=(6, c, 9)), random.normal(size=(4, c, 9))
    classes = max(c, 2)
    labels = {"train": np.arange(6) % classes, "test": np.arange(4) % classes}
    f0 = random.normal(size=(6, c)), random.normal(size=(4, c))
    kernels = {
        "train": np.einsum("ncp,mdp->ncmd", train, train),
        "cross": np.einsum("ncp,mdp->ncmd", train, test),
        "f0": f0[0],
        "cross_f0": f0[1],
    }
    return train, test, labels, kernels


@pytest.mark.parametrize("c", OUTPUTS)
def test_gradient_scores_are_products_of_gradients(c):
    train, test, labels, kernels = toy(c)
    scores = gradient_scores(kernels, labels)
    chi, v = output_derivative(kernels["f0"], labels["train"]), directions(labels["test"], c)
    for i in range(6):
        for j in range(4):
            loss, margin = chi[i] @ train[i], v[j] @ test[j]
            assert scores["gradient dot"][i, j] == pytest.approx(-loss @ margin)
            assert scores["gradient cosine"][i, j] == pytest.approx(-loss @ margin / np.linalg.norm(loss))


def test_a_margin_is_the_own_logit_less_the_mean_of_the_others():
    assert margins(np.array([[1.0, 5.0, 3.0]]), np.array([1])) == pytest.approx([3.0])
    assert margins(np.array([[2.0], [2.0]]), np.array([1, 0])) == pytest.approx([2.0, -2.0])


def test_lds_is_the_mean_of_spearmans_correlations():
    random = np.random.default_rng(0)
    real = random.normal(size=(20, 5))
    predicted = (real + random.normal(size=real.shape)).round(1)  # with ties
    each = [spearmanr(real[:, m], predicted[:, m]).statistic for m in range(5)]
    assert by_text(real, predicted) == pytest.approx(each)
    assert lds(real, predicted)[0] == pytest.approx(np.mean(each))
    assert lds(real, 2 * real)[0] == pytest.approx(1.0)
    assert np.isnan(lds(real, np.ones_like(real))[0])
    predicted[:, 0] = 1.0  # a text of which nothing is said counts 0
    assert lds(real, predicted)[0] == pytest.approx(np.mean([0.0, *each[1:]]))


def test_parts_are_halves_of_all_or_of_each_class():
    labels = np.repeat([0, 1, 2], 16)
    for number in range(3):
        stratified, uniform = (part_of(labels, protocol, number) for protocol in ("stratified", "uniform"))
        assert np.bincount(labels[stratified]).tolist() == [8, 8, 8]
        assert len(set(uniform.tolist())) == 24
        assert part_of(labels, "uniform", number).tolist() == uniform.tolist()
    assert part_of(labels, "uniform", 0).tolist() != part_of(labels, "uniform", 1).tolist()


def test_bm25_counts_rare_shared_words_most():
    scores = bm25(["a rare word", "a word", "a a a"], ["rare a"])
    assert scores[0, 0] > scores[1:, 0].max() > 0
    assert bm25(["x"], ["y"]).tolist() == [[0.0]]


@pytest.mark.parametrize("c", OUTPUTS)
def test_predictions_agree_with_training_on_each_part(c):
    _, _, labels, kernels = toy(c)
    texts = TrainedTexts.of(
        kernels["train"], kernels["cross"], labels["train"], kernels["f0"], kernels["cross_f0"]
    )
    parts, rates = np.array([[1.0] * 6, [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]]), np.full(3, 0.01)
    fixed = {"likeness": signed(np.ones((6, 4)), labels, max(c, 2))}
    both = texts.at_both_ends(2 * kernels["train"], 2 * kernels["cross"])
    made = predictions({"before": texts, "both ends": both}, rates, fixed, parts, labels["test"])
    real = margins(DescentRefits(texts, rates).outcomes(Changes(parts)), labels["test"])
    assert made["emulator, before"][0] == pytest.approx(real)
    faster = DescentRefits(texts, 1.5 * rates).outcomes(Changes(parts))  # a kernel 1.5 times as large
    assert made["emulator, both ends"][0] == pytest.approx(margins(faster, labels["test"]))
    moved = real[0] - margins(kernels["cross_f0"], labels["test"])
    assert made["contributions, before"][0][0] == pytest.approx(moved)  # of all texts they sum to the outcome
    without = np.ones((6, 6)) - np.eye(6)
    left = [DescentRefits(texts, rates).outcomes(Changes(one[None]))[0] for one in without]
    lost = [real[0] - margins(logits, labels["test"]) for logits in left]
    assert made["influence, before"][0][1] == pytest.approx(sum(lost[:3]))
    assert made["likeness"][0][0] == pytest.approx(fixed["likeness"].sum(axis=0))
