"""The shared kernel of many classes, as the sum over single outputs that it is made of."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from lmntk import Example, PromptEncoder, compute_kernels, load_pretrained
from lmntk.engine.kernel_work import KernelWork
from lmntk.engine.stream import stream_kernels
from lmntk.errors import UserError
from lmntk.models.build import logit_model
from lmntk.models.filters import ParameterFilter
from lmntk.models.logit_model import combined
from lmntk.prompts.assembly import Limits
from lmntk.solvers.folds import deal_folds
from lmntk.solvers.held_out import RidgeCandidates
from lmntk.solvers.shared import contrasts, shared_kernel, sign_combinations


def gradients(classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return gradients [N, C, P] of 5 texts, and their full kernel."""
    g = np.random.default_rng(classes).normal(size=(5, classes, 40)) + 2.0
    return g, np.einsum("ncp,mdp->ncmd", g, g)


@pytest.mark.parametrize("classes", [2, 3, 7, 20])
def test_contrasts_are_orthonormal_and_without_the_common_mode(classes: int) -> None:
    weights = contrasts(classes)
    np.testing.assert_allclose(weights.T @ weights, np.eye(classes - 1), atol=1e-12)
    np.testing.assert_allclose(weights.sum(axis=0), 0, atol=1e-12)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_it_is_the_mean_over_centred_classes(classes: int) -> None:
    g, full = gradients(classes)
    centred = g - g.mean(axis=1, keepdims=True)
    expected = sum(centred[:, c] @ centred[:, c].T for c in range(classes)) / (classes - 1)
    np.testing.assert_allclose(shared_kernel(full), expected)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_it_is_the_sum_over_contrasts(classes: int) -> None:
    g, full = gradients(classes)
    single = np.einsum("ncp,ck->knp", g, contrasts(classes))
    np.testing.assert_allclose(shared_kernel(full), sum(each @ each.T for each in single) / (classes - 1))


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_signs_are_on_average_as_good_as_contrasts(classes: int) -> None:
    # every sign vector there is, once: no draw, and no tolerance but rounding
    g, full = gradients(classes)
    total = np.zeros((5, 5))
    for signs in product([-1.0, 1.0], repeat=classes):
        single = np.einsum("ncp,c->np", g, np.asarray(signs) - np.mean(signs))
        total += single @ single.T / 2**classes
    np.testing.assert_allclose(total / (classes - 1), shared_kernel(full))


@pytest.mark.parametrize("scale", [1.0, np.inf], ids=["with f0", "without"])
@pytest.mark.parametrize("classes", [3, 4, 6])
def test_ridge_on_contrasts_is_ridge_on_centred_logits(classes: int, scale: float) -> None:
    # the twin: all C centred logits, their kernel singular, targets and pre-trained logits without the common mode
    n, random = 4 * classes, np.random.default_rng(classes)
    g, f0 = random.normal(size=(n, classes, 300)) + 2.0, random.normal(size=(n, classes)) + 5.0
    labels = np.arange(n) % classes
    centred = g - g.mean(axis=1, keepdims=True)
    kernel, offset = np.einsum("ncp,mdp->ncmd", centred, centred), (f0 - f0.mean(1, keepdims=True)) / scale
    targets = np.eye(classes)[labels] - 1 / classes - offset
    ridge = 0.1 * np.linalg.norm(kernel.reshape(n * classes, -1), 2)

    basis = contrasts(classes)
    of_contrasts = np.einsum("ncp,ck->nkp", g, basis)
    candidates = RidgeCandidates(
        np.einsum("nkp,mjp->nkmj", of_contrasts, of_contrasts), labels, f0, (0.1,), (scale,), basis=basis
    )
    (fold, *_), *_ = deal_folds(labels, rounds=1)
    others = np.setdiff1d(np.arange(n), fold)
    for train, of in ((others, candidates.leave_out(fold[None])[0, :, :, 0]), (np.arange(n), None)):
        matrix = kernel[np.ix_(train, range(classes), train, range(classes))].reshape(
            len(train) * classes, -1
        )
        alpha = np.linalg.solve(matrix + ridge * np.eye(len(matrix)), targets[train].reshape(-1))
        if of is not None:
            across = kernel[np.ix_(fold, range(classes), train, range(classes))].reshape(
                len(fold) * classes, -1
            )
            np.testing.assert_allclose(of, (across @ alpha).reshape(-1, classes) + offset[fold], atol=1e-8)
        else:
            solution = candidates.solution(candidates.settings[0])
            np.testing.assert_allclose(solution @ basis.T, alpha.reshape(n, classes), atol=1e-8)


def test_drawn_signs_are_of_their_kind() -> None:
    drawn = sign_combinations(6, 8, seed=1)
    assert drawn.shape == (6, 8)
    np.testing.assert_allclose(drawn.sum(axis=0), 0, atol=1e-12)
    spread = drawn.max(axis=0) - drawn.min(axis=0)
    np.testing.assert_allclose(spread, 2 * np.sqrt((1 - 2.0**-5) / 8))
    np.testing.assert_array_equal(drawn, sign_combinations(6, 8, seed=1))
    many = sign_combinations(6, 4000, seed=2)
    np.testing.assert_allclose(many @ many.T, np.eye(6) - 1 / 6, atol=0.08)


@pytest.mark.parametrize("classes", [2, 3, 4, 7])
def test_signs_that_are_all_equal_are_drawn_anew(classes: int) -> None:
    drawn = [sign_combinations(classes, 2, seed) for seed in range(3000)]
    assert min(np.abs(each).max(axis=0).min() for each in drawn) > 0.1  # no kernel is zero
    mean = np.mean([each @ each.T for each in drawn], axis=0)
    np.testing.assert_allclose(mean, np.eye(classes) - 1 / classes, atol=0.04)


@pytest.mark.parametrize(("classes", "count"), [(1, 2), (3, 0)])
def test_nothing_to_combine_is_an_error(classes: int, count: int) -> None:
    with pytest.raises(UserError, match="shared kernel"):
        sign_combinations(classes, count)


def test_a_models_combinations_make_it(tmp_path: Path) -> None:
    pretrained = load_pretrained(str(tiny.write_model(tmp_path)), "float64")
    encoder = PromptEncoder(
        pretrained.tokenizer, "{a} it was {mask}.", ["great", "terrible", "bad"], Limits(64)
    )
    examples = [Example(text) for text in ("a film", "a dull book", "the story was good")]
    full = compute_kernels(pretrained, encoder, examples, examples, ["sgd"]).kernels["sgd"].values
    model = logit_model(pretrained, encoder, False)
    texts = {"train": [encoder.encode(example) for example in examples]}
    total = np.zeros((3, 3))
    for weights in contrasts(3).T:
        single = combined(model, torch.from_numpy(weights)[:, None])
        assert single.outputs == 1
        work = KernelWork(
            single, texts, [("train", "train")], ["sgd"], ParameterFilter().select(single), pretrained.pad_id
        )
        total += stream_kernels(work).kernels["train", "train"]["sgd"]["all"].numpy()[:, 0, :, 0]
    np.testing.assert_allclose(total / 2, shared_kernel(full), rtol=1e-9)
    assert model.outputs == 3
    assert model.combination is None
