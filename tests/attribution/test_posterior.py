"""The posterior against dense algebra of the joint Gaussian, in float64, and the batch against naive conditioning."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from lmntk.attribution.changes import TrainedTexts
from lmntk.attribution.posterior import Posterior
from lmntk.attribution.ridge_refits import RidgeRefits
from lmntk.solvers.inputs import target_matrix
from lmntk.solvers.shared import contrasts, in_classes

OUTPUTS = pytest.mark.parametrize("outputs", [1, 3])


def joint(outputs: int, texts: int = 8, others: int = 4) -> tuple[np.ndarray, TrainedTexts, np.ndarray]:
    """Return the joint kernel's matrix, the texts, and the kernel among the others, of which the last two are the same."""
    generator = np.random.default_rng(0)
    features = generator.normal(size=(texts + others, outputs, 40))
    features[-1] = features[-2]
    kernel = np.einsum("ncp,mdp->ncmd", features, features)
    f0 = generator.normal(size=(texts + others, outputs))
    f0[-1] = f0[-2]
    labels = np.arange(texts) % max(2, outputs)
    trained = TrainedTexts.of(
        kernel[:texts, :, :texts], kernel[:texts, :, texts:], labels, f0[:texts], f0[texts:]
    )
    size = (texts + others) * outputs
    return kernel.reshape(size, size), trained, kernel[texts:, :, texts:]


@OUTPUTS
def test_the_posterior_is_the_conditioned_joint_gaussian(outputs: int) -> None:
    matrix, trained, among = joint(outputs)
    refits = RidgeRefits(trained, 0.05, 2.0)
    posterior = Posterior.of(refits, among, 0.25)
    rows = 8 * outputs
    observed = np.s_[:rows]
    ridge = 0.05 * np.linalg.norm(matrix[observed, observed], 2)
    targets = (target_matrix(trained.labels, outputs) - trained.f0 / 2.0).ravel()
    noisy = matrix[observed, observed] + ridge * np.eye(rows)

    def likelihood(amplitude: float) -> float:
        return float(multivariate_normal(np.zeros(rows), amplitude * noisy).logpdf(targets))

    best = posterior.amplitude
    assert likelihood(best) >= max(likelihood(1.001 * best), likelihood(0.999 * best))
    prior = best * matrix
    gain = prior[rows:, observed] @ np.linalg.inv(prior[observed, observed] + best * ridge * np.eye(rows))
    mean = (gain @ targets).reshape(4, outputs) + trained.cross_f0 / 2.0 + 0.25
    covariance = prior[rows:, rows:] - gain @ prior[observed, rows:]
    np.testing.assert_allclose(posterior.mean, mean, atol=1e-8)
    np.testing.assert_allclose(posterior.covariance.reshape(covariance.shape), covariance, atol=1e-8)
    assert posterior.noise == pytest.approx(best * ridge)
    # of each text: the margin is a normal of its own
    for m in range(4):
        block = covariance[m * outputs : (m + 1) * outputs, m * outputs : (m + 1) * outputs]
        order = mean[m].argsort()[::-1]
        direction = np.ones(1) if outputs == 1 else np.eye(outputs)[order[0]] - np.eye(outputs)[order[1]]
        margin = abs(mean[m, 0]) if outputs == 1 else mean[m] @ direction
        expected = norm.cdf(margin / np.sqrt(direction @ block @ direction))
        assert posterior.sureness()[m] == pytest.approx(expected, abs=1e-10)


@OUTPUTS
def test_a_batch_labels_what_is_least_sure_given_the_ones_before(outputs: int) -> None:
    matrix, trained, among = joint(outputs)
    refits = RidgeRefits(trained, 0.05, 2.0)
    posterior = Posterior.of(refits, among)
    chosen = posterior.batch(4)
    assert sorted(chosen) == [0, 1, 2, 3]
    assert posterior.batch(9) == chosen
    rows = 8 * outputs
    prior = posterior.amplitude * matrix
    for size in range(4):
        seen = [*range(rows)] + [rows + n * outputs + c for n in chosen[:size] for c in range(outputs)]
        noisy = prior[np.ix_(seen, seen)] + posterior.noise * np.eye(len(seen))
        cross = prior[rows:, seen]
        remains = prior[rows:, rows:] - cross @ np.linalg.solve(noisy, cross.T)
        sureness = posterior.sureness(remains.reshape(posterior.covariance.shape))
        left = [n for n in range(4) if n not in chosen[:size]]
        assert chosen[size] == min(left, key=lambda n: sureness[n])


def test_the_same_text_is_not_labelled_twice_while_others_are_unsure() -> None:
    _, trained, among = joint(1)
    posterior = Posterior.of(RidgeRefits(trained, 0.01, 2.0), among)
    twins = {2, 3}
    assert len(twins & set(posterior.batch(3))) == 1


def test_classes_that_share_a_kernel_are_those_of_its_product_with_the_identity() -> None:
    _, alone, among = joint(1)
    labels, f0, cross_f0 = np.arange(8) % 3, np.zeros((8, 3)), np.zeros((4, 3))
    shared = TrainedTexts.of(alone.kernel, alone.cross, labels, f0, cross_f0, 3)
    identity = np.eye(3)[None, :, None]
    full = TrainedTexts.of(alone.kernel * identity, alone.cross * identity, labels, f0, cross_f0)
    one = Posterior.of(RidgeRefits(shared, 0.1), among)
    other = Posterior.of(RidgeRefits(full, 0.1), among * identity)
    np.testing.assert_allclose(one.mean, other.mean, atol=1e-10)
    np.testing.assert_allclose(one.sureness(), other.sureness(), atol=1e-10)
    assert one.batch(4) == other.batch(4)


def test_of_contrasts_the_amplitude_is_that_of_their_own_kernel() -> None:
    _, trained, among = joint(3)
    basis = contrasts(3)
    kernel, cross = (
        np.einsum("ck,ncmd,dl->nkml", basis, part, basis) for part in (trained.kernel, trained.cross)
    )
    centred, centred_cross = (f0 @ basis @ basis.T for f0 in (trained.f0, trained.cross_f0))
    texts = TrainedTexts.of(
        in_classes(kernel, basis), in_classes(cross, basis), trained.labels, centred, centred_cross
    )
    posterior = Posterior.of(RidgeRefits(texts, 1e-3, 2.0), among, basis=basis)
    rows = 8 * 2
    noisy = kernel.reshape(rows, rows) + 1e-3 * np.linalg.norm(kernel.reshape(rows, rows), 2) * np.eye(rows)
    targets = ((target_matrix(trained.labels, 3) - centred / 2.0) @ basis).ravel()
    assert posterior.amplitude == pytest.approx(targets @ np.linalg.solve(noisy, targets) / rows)
