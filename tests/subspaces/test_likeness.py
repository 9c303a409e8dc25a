"""Likeness of kernels, condition numbers, and the bound on the rank."""

from __future__ import annotations

import numpy as np
import pytest

from lmntk.errors import UserError
from lmntk.subspaces.likeness import condition_number, escapes_minima, likeness


def random_kernel(seed: int, n: int = 5, c: int = 2, features: int = 40) -> np.ndarray:
    """Return the Gram matrix of random features [n, c, n, c]."""
    features_of = np.random.default_rng(seed).normal(size=(n * c, features))
    return (features_of @ features_of.T).reshape(n, c, n, c)


@pytest.mark.parametrize("factor", [0.01, 1.0, 37.0])
def test_scale_does_not_count(factor: float) -> None:
    whole = random_kernel(0)
    same = likeness(factor * whole, whole)
    assert same.scale == pytest.approx(1 / factor)
    assert same.distance == pytest.approx(0, abs=1e-7)
    assert same.cka == pytest.approx(1)


def test_best_scale_by_trying() -> None:
    part, whole = random_kernel(1), random_kernel(2)
    found = likeness(part, whole)
    distances = [
        np.linalg.norm(whole - a * part) / np.linalg.norm(whole)
        for a in found.scale * np.linspace(0.5, 1.5, 201)
    ]
    assert found.distance == pytest.approx(min(distances))
    assert np.argmin(distances) == 100


def test_cka_by_centring_features() -> None:
    generator = np.random.default_rng(3)
    features = [generator.normal(size=(6, 2, width)) + 3 for width in (7, 9)]
    kernels = [np.einsum("ncp,mdp->ncmd", each, each) for each in features]
    centred = [each - each.mean(axis=0) for each in features]
    first, second = (np.einsum("ncp,mdp->ncmd", each, each).ravel() for each in centred)
    expected = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
    assert likeness(*kernels).cka == pytest.approx(expected, rel=1e-12)


def test_constant_kernel_has_no_cka() -> None:
    assert likeness(np.ones((3, 1, 3, 1)), random_kernel(0, 3, 1)).cka is None


@pytest.mark.parametrize(
    ("part", "message"),
    [(np.zeros((5, 2, 5, 2)), "zero everywhere"), (np.ones((4, 2, 4, 2)), "not of the same texts")],
)
def test_kernels_that_cannot_be_compared(part: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        likeness(part, random_kernel(0))


def test_condition_number() -> None:
    kernel = np.diag([4.0, 2.0, 0.5]).reshape(3, 1, 3, 1)
    assert condition_number(kernel) == pytest.approx(8)
    assert condition_number(np.ones((3, 1, 3, 1))) == float("inf")


@pytest.mark.parametrize(("rank", "expected"), [(7, False), (8, True)])
def test_bound_of_the_rank(rank: int, expected: bool) -> None:
    assert escapes_minima(rank, 32, 1) is expected
