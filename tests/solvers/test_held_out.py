"""Held-out decisions and estimates, against refitting in plain loops, and against chance on labels that mean nothing."""

from __future__ import annotations

import numpy as np
import pytest

from lmntk.errors import UserError
from lmntk.solvers import ridge_path
from lmntk.solvers.folds import deal_folds
from lmntk.solvers.held_out import CentredCandidate, Pool, RidgeCandidates, choose, held_out

SIZES = {  # texts of each class
    "two a class": (2, 2),
    "balanced": (5, 5),
    "balanced, three classes": (4, 4, 4),
    "uneven": (3, 7),
    "uneven, three classes": (9, 4, 6),
    "more than the folds": (25, 25),
    "a text too many": (23, 23),
}


def labels_of(sizes: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Return class numbers in random order."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return np.random.default_rng(seed).permutation(labels)


def problem(sizes: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a kernel [N, C, N, C] of random features, labels and pre-trained logits [N, C]."""
    random = np.random.default_rng(seed)
    labels = labels_of(sizes, seed)
    n, c = len(labels), 1 if len(sizes) == 2 else len(sizes)
    features = random.normal(size=(n * c, 3 * n * c))
    return (features @ features.T).reshape(n, c, n, c), labels, random.normal(size=(n, c))


def refitted(
    kernel: np.ndarray, labels: np.ndarray, f0: np.ndarray, setting: dict[str, float], left: np.ndarray
) -> np.ndarray:
    """Return decisions [g, C] on the texts ``left`` by solving the others' system; the ridge is that of the whole kernel."""
    n, c = f0.shape
    targets = np.where(labels == 1, 1.0, -1.0)[:, None] if c == 1 else np.eye(c)[labels]
    if "no_training" in setting:
        return f0[left] - np.delete(f0, left, axis=0).mean(axis=0)
    offset = f0 / setting["f0_scale"]
    others = np.setdiff1d(np.arange(n), left)
    ridge = setting["regularization"] * np.linalg.norm(kernel.reshape(n * c, n * c), 2)
    system = kernel[np.ix_(others, range(c), others, range(c))].reshape(len(others) * c, -1)
    alpha = np.linalg.solve(system + ridge * np.eye(len(system)), (targets - offset)[others].reshape(-1))
    across = kernel[np.ix_(left, range(c), others, range(c))].reshape(len(left) * c, -1)
    return (across @ alpha).reshape(len(left), c) + offset[left]


def classes_of(decisions: np.ndarray) -> np.ndarray:
    """Return the decided classes."""
    return (decisions[:, 0] > 0).astype(int) if decisions.shape[1] == 1 else decisions.argmax(axis=1)


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
class TestFolds:
    def test_every_text_leaves_once_a_round(self, sizes: tuple[int, ...]) -> None:
        for folds in deal_folds(labels_of(sizes), rounds=3):
            assert sorted(np.concatenate(folds)) == list(range(sum(sizes)))

    def test_there_are_as_many_as_the_smallest_class_has_texts(self, sizes: tuple[int, ...]) -> None:
        (folds,) = deal_folds(labels_of(sizes), rounds=1)
        assert len(folds) == min(20, *sizes)

    def test_what_stays_is_balanced_where_the_file_is(self, sizes: tuple[int, ...]) -> None:
        labels = labels_of(sizes)
        (folds,) = deal_folds(labels, rounds=1)
        for fold in folds:
            counts = np.bincount(labels[fold], minlength=len(sizes))
            if len(set(sizes)) == 1:
                assert len(set(counts)) == 1
            for count, size in zip(counts, sizes, strict=True):
                assert abs(count - size / len(folds)) < 1


def test_rounds_differ_and_a_seed_gives_them_again() -> None:
    labels = labels_of((6, 6))
    first, again, other = (deal_folds(labels, rounds=2, seed=seed) for seed in (0, 0, 1))
    listed = [[fold.tolist() for fold in folds] for folds in first]
    assert listed == [[fold.tolist() for fold in folds] for folds in again]
    assert listed[0] != listed[1]
    assert listed != [[fold.tolist() for fold in folds] for folds in other]


def test_duplicates_leave_together() -> None:
    labels = np.asarray([0, 0, 0, 1, 1, 1, 0, 1])
    texts = ["a", "b", "a", "c", "d", "e", "c", "e"]  # "c" stands under both classes
    for folds in deal_folds(labels, texts, rounds=5):
        place = {text: number for number, fold in enumerate(folds) for text in (texts[i] for i in fold)}
        for number, fold in enumerate(folds):
            assert {place[texts[i]] for i in fold} == {number}


@pytest.mark.parametrize("sizes", [(3,), (3, 1)], ids=["one class", "a class of one text"])
def test_too_few_are_an_error(sizes: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="two"):
        deal_folds(labels_of(sizes))


def test_a_class_whose_texts_are_all_the_same_is_an_error() -> None:
    with pytest.raises(UserError, match="two different texts"):
        deal_folds(np.asarray([0, 0, 1, 1]), ["a", "a", "b", "c"])


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_what_is_left_out_is_decided_as_by_refitting(sizes: tuple[int, ...]) -> None:
    kernel, labels, f0 = problem(sizes)
    pool = Pool([CentredCandidate(f0), RidgeCandidates(kernel, labels, f0)])
    (folds,) = deal_folds(labels, rounds=1)
    for fold in folds[:3]:
        values = pool.leave_out(fold[None])[0]
        for number, setting in enumerate(pool.settings):
            expected = refitted(kernel, labels, f0, dict(setting), fold)
            np.testing.assert_allclose(values[:, :, number], expected, atol=1e-8)


@pytest.mark.parametrize("sizes", [(5, 5), (4, 4, 4), (4, 6)], ids=["two", "three", "uneven"])
def test_the_setting_is_chosen_inside_each_fold_as_by_refitting(sizes: tuple[int, ...]) -> None:
    kernel, labels, f0 = problem(sizes, seed=3)
    ridge = RidgeCandidates(kernel, labels, f0, regularizations=(0.01, 1.0), f0_scales=(1.0, np.inf))
    rounds = deal_folds(labels, rounds=2)
    result = held_out(ridge, labels, rounds)
    for number, folds in enumerate(rounds):
        for i, fold in enumerate(folds):
            right = []
            for setting in ridge.settings:
                count = 0
                for j, other in enumerate(folds):
                    if j != i:
                        left = np.concatenate([other, fold])
                        decisions = refitted(kernel, labels, f0, dict(setting), left)[: len(other)]
                        count += int((classes_of(decisions) == labels[other]).sum())
                right.append(count)
            # of equals the larger ridge, then the larger scale
            best = max(
                range(4),
                key=lambda m: (right[m], ridge.settings[m]["regularization"], ridge.settings[m]["f0_scale"]),
            )
            assert result.chosen[number][i] == best
            expected = refitted(kernel, labels, f0, dict(ridge.settings[best]), fold)
            np.testing.assert_allclose(result.decisions[number][fold], expected, atol=1e-8)


def test_the_choice_for_all_texts_is_that_of_their_held_out_decisions() -> None:
    kernel, labels, f0 = problem((6, 6), seed=1)
    pool = Pool([CentredCandidate(f0), RidgeCandidates(kernel, labels, f0)])
    rounds = deal_folds(labels, rounds=3)
    right = [
        sum(
            int((classes_of(refitted(kernel, labels, f0, dict(setting), fold)) == labels[fold]).sum())
            for folds in rounds
            for fold in folds
        )
        for setting in pool.settings
    ]
    assert right[choose(pool, labels, rounds)] == max(right)


def test_of_equals_no_training_comes_first() -> None:
    labels = labels_of((4, 4))
    f0 = np.where(labels == 1, 1.0, -1.0)[:, None]
    features = f0 + 1e-3 * np.random.default_rng(0).normal(size=(8, 20))
    kernel = (features @ features.T)[:, None, :, None]
    pool = Pool([RidgeCandidates(kernel, labels, f0), CentredCandidate(f0)])
    assert pool.settings[choose(pool, labels, deal_folds(labels, rounds=2))] == {"no_training": "centred"}


@pytest.mark.parametrize("sizes", [(6, 6), (4, 4, 4)], ids=["two", "three"])
def test_labels_that_mean_nothing_come_out_at_chance(sizes: tuple[int, ...]) -> None:
    # Held out are as many of each class, and the rest is balanced: a decision knows nothing of the class. 400
    # permutations of 12 texts leave an error of at most 0.8 points.
    kernel, labels, f0 = problem(sizes)
    random = np.random.default_rng(0)
    nested, each = [], []
    for number in range(400):
        permuted = random.permutation(labels)
        pool = Pool([CentredCandidate(f0), RidgeCandidates(kernel, permuted, f0, (0.01, 1.0), (1.0, np.inf))])
        rounds = deal_folds(permuted, rounds=1, seed=number)
        nested.append(held_out(pool, permuted, rounds).accuracy)
        decided = np.zeros(len(pool.settings))
        for fold in rounds[0]:
            values = pool.leave_out(fold[None])[0]
            decided += [
                (classes_of(values[:, :, m]) == permuted[fold]).sum() for m in range(len(pool.settings))
            ]
        each.append(decided / len(labels))
    chance = 1 / len(sizes)
    assert np.mean(nested) == pytest.approx(chance, abs=0.02)
    np.testing.assert_allclose(np.mean(each, axis=0), chance, atol=0.02)


def test_leaving_out_a_single_text_is_not_at_chance() -> None:
    # why texts of all classes leave together
    kernel, labels, _ = problem((6, 6))
    kernel = kernel + kernel.max()  # what all texts share, as gradients do
    random = np.random.default_rng(0)
    right = []
    for _ in range(50):
        permuted = random.permutation(labels)
        candidates = RidgeCandidates(kernel, permuted, None, (1.0,))
        values = candidates.leave_out(np.arange(12)[:, None])[:, :, :, 0]
        right.append((classes_of(values[:, 0]) == permuted).mean())
    assert np.mean(right) < 0.35


@pytest.mark.parametrize("regularization", [0.0, 0.1])
def test_groups_are_decided_alike_however_many_at_once(
    monkeypatch: pytest.MonkeyPatch, regularization: float
) -> None:
    # with a repeated text and no ridge the kernel is deficient: some groups go by refitting, some in closed form
    kernel, _, f0 = problem((4, 4, 4))
    kernel[:, :, 1] = kernel[:, :, 0]
    kernel[1] = kernel[0]
    path = ridge_path.RidgePath(kernel)
    groups = np.asarray([[0, 1], [2, 3], [4, 5], [1, 6], [7, 8]])
    together = path.leave_out(f0, regularization, groups)
    monkeypatch.setattr(ridge_path, "_BLOCK_NUMBERS", 2 * 36)
    np.testing.assert_allclose(path.leave_out(f0, regularization, groups), together, atol=1e-12)
    for group, values in zip(groups, together, strict=True):
        np.testing.assert_allclose(path.leave_out(f0, regularization, group[None])[0], values, atol=1e-12)
