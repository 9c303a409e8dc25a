import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from solver_cases import gram, problem

from lmntk.errors import UserError
from lmntk.solvers import KernelLogistic, RowLogistic, SolverInputs, solve_grid


@pytest.mark.parametrize("ridge", [0.0001, 0.01, 1.0])
@pytest.mark.parametrize("p", [4, 40])
def test_difference_output_is_logistic_regression_on_the_features(ridge, p):
    train, evaluation, labels, _, _ = problem(n=20, p=p)
    kernel = gram(train, train)
    penalty = 1 / (ridge * np.linalg.norm(kernel[:, 0, :, 0], 2))
    oracle = LogisticRegression(C=penalty, fit_intercept=False, solver="newton-cholesky", tol=1e-12).fit(
        train[:, 0], labels
    )
    model = KernelLogistic(ridge).fit(kernel, labels)
    expected = oracle.decision_function(evaluation[:, 0])
    np.testing.assert_allclose(
        model.decision_function(gram(train, evaluation))[:, 0], expected, rtol=1e-5, atol=1e-6
    )
    assert model.numerical_rank_ == min(p, 20)
    assert model.n_iter_ < 40


@pytest.mark.parametrize("ridge", [0.001, 0.1])
def test_shared_features_are_multinomial_logistic_regression(ridge):
    train, evaluation, labels, _, _ = problem(n=21, c=1, p=15)
    labels = np.arange(21) % 3
    scalar, cross = gram(train, train)[:, 0, :, 0], gram(train, evaluation)[:, 0, :, 0]
    kernel, cross = np.einsum("nm,cd->ncmd", scalar, np.eye(3)), np.einsum("nm,cd->ncmd", cross, np.eye(3))
    penalty = 1 / (ridge * np.linalg.norm(scalar, 2))
    oracle = LogisticRegression(C=penalty, fit_intercept=False, tol=1e-10, max_iter=10000).fit(
        train[:, 0], labels
    )
    decision = KernelLogistic(ridge).fit(kernel, labels).decision_function(cross)
    np.testing.assert_allclose(decision, oracle.decision_function(evaluation[:, 0]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("c", [1, 2, 3])
def test_f0_and_coupled_logits_minimise_the_stated_objective(c):
    train, evaluation, labels, f0, f0_eval = problem(n=10, c=c, p=12)
    kernel, cross = gram(train, train), gram(train, evaluation)
    lam, s = 0.01, 10.0
    strength = lam * np.linalg.norm(kernel.reshape(10 * c, 10 * c), 2)

    def objective(w):  # in feature space: f = f0 / s + G w
        f = f0 / s + train @ w
        if c == 1:
            loss = np.logaddexp(0, -(2 * labels - 1) * f[:, 0]).sum()
        else:
            loss = (np.logaddexp.reduce(f, axis=1) - f[np.arange(10), labels]).sum()
        return loss + strength / 2 * w @ w

    w = minimize(objective, np.zeros(12), tol=1e-12).x
    model = KernelLogistic(lam, s).fit(kernel, labels, f0)
    np.testing.assert_allclose(
        model.decision_function(cross, f0_eval), evaluation @ w + f0_eval / s, atol=2e-4
    )
    reached = np.einsum("ncp,nc->p", train, model.dual_coef_)
    assert objective(reached) <= objective(w) + 1e-9


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 3]), st.sampled_from([0.0001, 0.1]), st.floats(1e-6, 1e6))
def test_order_and_unit_do_not_matter(seed, c, ridge, unit):
    train, evaluation, labels, f0, f0_eval = problem(c=c, seed=seed)
    kernel, cross = gram(train, train), gram(train, evaluation)
    base = KernelLogistic(ridge, 10.0).fit(kernel, labels, f0).decision_function(cross, f0_eval)
    order = np.random.default_rng(seed).permutation(12)
    model = KernelLogistic(ridge, 10.0).fit(unit * kernel[order][:, :, order], labels[order], f0[order])
    np.testing.assert_allclose(
        model.decision_function(unit * cross[order], f0_eval), base, rtol=1e-6, atol=1e-7
    )


def test_duplicates_and_huge_f0_are_survived():
    train, evaluation, labels, f0, _ = problem(n=12)
    train, labels = np.concatenate([train, train]), np.concatenate([labels, labels])
    f0 = np.concatenate([f0, f0]) * 300
    model = KernelLogistic(0.0001, 1.0).fit(gram(train, train), labels, f0)
    decision = model.decision_function(gram(train, evaluation), np.zeros((7, 1)))
    assert model.numerical_rank_ == 12
    assert np.isfinite(decision).all()
    assert model.n_iter_ < 100


def test_grid_equals_the_estimator():
    train, evaluation, labels, f0, f0_eval = problem(c=3)
    inputs = SolverInputs(
        gram(train, train), {"dev": gram(train, evaluation)}, labels, f0={"train": f0, "dev": f0_eval}
    )
    results = solve_grid("logistic", inputs)
    assert len(results) == 25
    for result in results:
        model = KernelLogistic(**result.setting).fit(inputs.train, labels, f0)
        np.testing.assert_allclose(
            result.dev_decision, model.decision_function(inputs.evals["dev"], f0_eval), atol=1e-9
        )


def test_regularization_zero_is_refused():
    train, _, labels, _, _ = problem()
    with pytest.raises(UserError, match="needs a positive number"):
        KernelLogistic(0.0).fit(gram(train, train), labels)
    with pytest.raises(UserError, match="not symmetric"):
        KernelLogistic().fit(gram(np.sign(train), train), labels)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("c", [1, 3])
def test_row_logistic_is_the_reference(c):
    train, evaluation, labels, _, _ = problem(n=30, c=c)
    kernel, cross = gram(np.sign(train), train) / 40, gram(np.sign(train), evaluation) / 40
    rows = np.array([kernel[:, :, j, :].ravel() for j in range(30)])
    eval_rows = np.array([cross[:, :, j, :].ravel() for j in range(7)])
    oracle = LogisticRegressionCV(max_iter=10000, random_state=0, cv=5, scoring="accuracy").fit(rows, labels)
    model = RowLogistic().fit(kernel, labels)
    log_p = oracle.predict_log_proba(eval_rows)
    expected = log_p[:, 1:] - log_p[:, :1] if c == 1 else log_p
    np.testing.assert_allclose(model.decision_function(cross), expected, atol=1e-8)
    np.testing.assert_array_equal(model.predict(cross), oracle.predict(eval_rows))
    results = solve_grid("row-logistic", SolverInputs(kernel, {"dev": cross}, labels, formula="asigngd"))
    np.testing.assert_allclose(results[0].dev_decision, expected, atol=1e-8)


def test_row_logistic_absent_class_and_too_few():
    train, evaluation, _, _, _ = problem(n=12, c=3)
    labels = np.arange(12) % 2
    kernel = gram(train, train) / 40
    model = RowLogistic(0.01).fit(kernel, labels)
    decision = model.decision_function(gram(train, evaluation) / 40)
    assert np.all(decision[:, 2] < -700)
    assert set(model.predict(gram(train, evaluation) / 40)) <= {0, 1}
    with pytest.raises(UserError, match="single example"):
        RowLogistic().fit(kernel, np.array([2] + [0] * 6 + [1] * 5))
    with pytest.raises(UserError, match="not symmetric"):
        RowLogistic(0.01).fit(gram(np.sign(train), train), labels)
