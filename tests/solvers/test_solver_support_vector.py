import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import cross_val_score
from sklearn.svm import SVC, SVR
from solver_cases import gram, problem, targets

from lmntk.errors import UserError
from lmntk.solvers import KernelSVC, KernelSVR, SolverInputs, solve_grid


@pytest.mark.parametrize("cost", [0.1, 1.0, 100.0])
def test_svc_is_a_linear_svc_on_the_features(cost):
    train, evaluation, labels, _, _ = problem(n=24)
    scale = np.sqrt(np.mean(np.sum(train**2, axis=(1, 2))))  # mean diagonal 1
    oracle = SVC(kernel="linear", C=cost).fit(train[:, 0] / scale, labels)
    model = KernelSVC(cost=cost).fit(gram(train, train), labels)
    decision = model.decision_function(gram(train, evaluation))
    np.testing.assert_allclose(decision[:, 0], oracle.decision_function(evaluation[:, 0] / scale), atol=2e-3)
    np.testing.assert_array_equal(
        model.predict(gram(train, evaluation)), oracle.predict(evaluation[:, 0] / scale)
    )


@pytest.mark.parametrize("c", [2, 3])
def test_svc_of_several_logits_averages_them(c):
    train, evaluation, labels, _, _ = problem(n=24, c=c)
    flat, flat_eval = (
        train.reshape(24, -1),
        evaluation.reshape(7, -1),
    )  # the average over logits is the Gram of joined features
    scale = np.sqrt(np.mean(np.sum(flat**2, axis=1)))
    oracle = SVC(kernel="linear", C=10.0).fit(flat / scale, labels)
    model = KernelSVC(cost=10.0).fit(gram(train, train), labels)
    np.testing.assert_array_equal(model.predict(gram(train, evaluation)), oracle.predict(flat_eval / scale))
    raw = oracle.decision_function(flat_eval / scale)
    expected = np.stack([-raw / 2, raw / 2], axis=1) if c == 2 else raw
    np.testing.assert_allclose(model.decision_function(gram(train, evaluation)), expected, atol=2e-3)


@pytest.mark.parametrize("c", [1, 3])
@pytest.mark.parametrize("s", [10.0, np.inf])
def test_svr_is_a_linear_svr_on_flattened_features(c, s):
    train, evaluation, labels, f0, f0_eval = problem(c=c)
    scale = np.sqrt(np.mean(np.sum(train**2, axis=2)))
    y = (targets(labels, c) - f0 / s).ravel()
    oracle = SVR(kernel="linear", C=10.0).fit(train.reshape(12 * c, -1) / scale, y)
    expected = oracle.predict(evaluation.reshape(7 * c, -1) / scale).reshape(7, c) + f0_eval / s
    model = KernelSVR(cost=10.0, f0_scale=s).fit(gram(train, train), labels, f0)
    np.testing.assert_allclose(model.decision_function(gram(train, evaluation), f0_eval), expected, atol=5e-3)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 3]), st.sampled_from([0.0, 0.1]), st.floats(1e-6, 1e6))
def test_order_and_unit_do_not_matter(seed, c, ridge, unit):
    train, evaluation, labels, _, _ = problem(c=c, seed=seed)
    kernel, cross = gram(train, train), gram(train, evaluation)
    order = np.random.default_rng(seed).permutation(12)
    for solver in (KernelSVC(ridge), KernelSVR(ridge)):
        base = solver.fit(kernel, labels).decision_function(cross)
        again = solver.fit(unit * kernel[order][:, :, order], labels[order]).decision_function(
            unit * cross[order]
        )
        # libsvm stops at a duality gap of 1e-3; close one-vs-one votes may tip the sum of confidences by as much
        np.testing.assert_allclose(again, base, atol=0.05)


def test_regularization_adds_the_operator_norm():
    train, evaluation, labels, _, _ = problem()
    kernel = gram(train, train)
    added = kernel.copy()
    added[:, 0, :, 0] += 0.1 * np.linalg.norm(kernel[:, 0, :, 0], 2) * np.eye(12)
    scale = np.trace(kernel[:, 0, :, 0]) / 12
    oracle = SVC(kernel="precomputed").fit(added[:, 0, :, 0] / scale, labels)
    decision = KernelSVC(0.1).fit(kernel, labels).decision_function(gram(train, evaluation))[:, 0]
    np.testing.assert_allclose(
        decision, oracle.decision_function(gram(train, evaluation)[:, 0, :, 0].T / scale), atol=1e-3
    )


def test_grid_equals_the_estimator():
    train, evaluation, labels, f0, f0_eval = problem(c=3)
    inputs = SolverInputs(
        gram(train, train), {"dev": gram(train, evaluation)}, labels, f0={"train": f0, "dev": f0_eval}
    )
    for result in solve_grid("svc", inputs):
        model = KernelSVC(**result.setting).fit(inputs.train, labels)
        np.testing.assert_allclose(
            result.dev_decision, model.decision_function(inputs.evals["dev"]), atol=1e-9
        )
    for result in solve_grid("svr", inputs, {"cost": [1.0]}):
        model = KernelSVR(**result.setting).fit(inputs.train, labels, f0)
        np.testing.assert_allclose(
            result.dev_decision, model.decision_function(inputs.evals["dev"], f0_eval), atol=1e-9
        )


def test_absent_class_never_wins_and_cross_validation_runs():
    train, evaluation, _, _, _ = problem(c=3)
    for present in (2, 3):
        labels = np.arange(12) % present
        decision = KernelSVC().fit(gram(train, train), labels).decision_function(gram(train, evaluation))
        assert decision.shape == (7, 3)
        assert set(decision.argmax(axis=1)) <= set(range(present))
    single, _, labels, _, _ = problem(n=24)
    for solver in (KernelSVC(), KernelSVR()):
        assert np.isfinite(cross_val_score(solver, gram(single, single)[:, 0, :, 0], labels, cv=3)).all()


def test_bad_kernels_are_named():
    train, _, labels, _, _ = problem()
    kernel = gram(train, train)
    indefinite = kernel.copy()
    indefinite[:, 0, :, 0] -= 30 * np.eye(12)
    for solver in (KernelSVC, KernelSVR):
        with pytest.raises(UserError, match=r"not symmetric .*'asym'"):
            solver().fit(gram(np.sign(train), train), labels)
        with pytest.raises(UserError, match=r"positive semi-definite .* a regularization above 0\.\d+"):
            solver().fit(indefinite, labels)
        with pytest.raises(UserError, match="trace"):
            solver().fit(-kernel, labels)
        with pytest.raises(UserError, match="cost is 0"):
            solver(cost=0.0).fit(kernel, labels)
        with pytest.raises(UserError, match="regularization is -1"):
            solver(regularization=-1.0).fit(kernel, labels)
        assert solver(regularization=2.0).fit(indefinite, labels).predict(kernel).shape == (12,)
