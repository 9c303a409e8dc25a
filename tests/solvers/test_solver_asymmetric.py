import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from solver_cases import gram, problem

from lmntk.errors import UserError
from lmntk.solvers import AsymmetricPath, AsymmetricSVM, KernelWarning, SolverInputs, solve_grid

GAMMAS = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)


def dense(h, gamma, b):
    """Solve the block system, by numpy's minimum-norm least squares."""
    n = len(h)
    system = np.block([[np.eye(n) / gamma, h], [h.T, np.eye(n) / gamma]])
    return np.split(np.linalg.lstsq(system, np.concatenate([b, b]), rcond=2 * n * np.finfo(float).eps)[0], 2)


def kernels(c=1, seed=0, p=40):
    train, evaluation, labels, f0, f0_eval = problem(c=c, seed=seed, p=p)
    return (
        gram(np.sign(train), train),
        gram(np.sign(train), evaluation),
        gram(train, np.sign(evaluation)),
        labels,
        f0,
        f0_eval,
    )


@pytest.mark.parametrize("gamma", [*GAMMAS, 0.5, 3.0])
@pytest.mark.parametrize("p", [5, 40])
def test_path_is_the_dense_block_system(gamma, p):
    train, _, _, labels, _, _ = kernels(p=p)
    y = 2.0 * labels - 1
    k0 = train[:, 0, :, 0]
    path = AsymmetricPath(k0, y)
    h = np.outer(y, y) * k0 / np.linalg.norm(k0, 2)
    for b in (np.ones(12), np.arange(12.0)):
        alpha, beta, dropped = path.solve(gamma, b)
        expected = dense(h, gamma, b)
        np.testing.assert_allclose(alpha, expected[0], rtol=1e-7, atol=1e-8)
        np.testing.assert_allclose(beta, expected[1], rtol=1e-7, atol=1e-8)
        assert dropped == (1 if gamma == 1.0 else 0)
    assert path.scale == pytest.approx(np.linalg.norm(k0, 2))


def test_poles_are_reported_and_warned_about():
    train, _, _, labels, _, _ = kernels()
    sigma = np.linalg.svd(train[:, 0, :, 0], compute_uv=False)
    path = AsymmetricPath(train[:, 0, :, 0], 2.0 * labels - 1)
    np.testing.assert_allclose(path.poles, sigma[0] / sigma, rtol=1e-9)
    assert path.poles[0] == pytest.approx(1.0)
    assert path.distance_to_pole(path.poles[3]) < 1e-12
    assert path.solve(float(path.poles[3])).dropped == 1
    with pytest.warns(KernelWarning, match="gamma 1 is a pole"):
        model = AsymmetricSVM(gamma=1.0).fit(train, labels)
    assert model.dropped_ == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = AsymmetricSVM(gamma=0.1).fit(train, labels)
    assert model.distance_to_pole_ == pytest.approx(0.9)
    near = float(path.poles[3]) * (
        1 + 1e-6
    )  # ill-conditioned but not singular: solved, and the distance says so
    assert path.solve(near).dropped == 0
    assert path.distance_to_pole(near) == pytest.approx(1e-6, rel=1e-3)


@pytest.mark.parametrize("c", [1, 2, 3])
@pytest.mark.parametrize("s", [10.0, np.inf])
@pytest.mark.parametrize("f0_fit", ["residual", "labels", "reference"])
@pytest.mark.parametrize("mixture", [0.0, 0.3, 1.0])
def test_decisions_are_the_formula(c, s, f0_fit, mixture):
    train, values, flipped, labels, f0, f0_eval = kernels(c)
    gamma = 0.7
    model = AsymmetricSVM(gamma, mixture, s, f0_fit=f0_fit).fit(train, labels, f0)
    decision = model.decision_function(values, f0_eval, flipped=flipped)
    for c_ in range(c):
        y = np.where(labels == (1 if c == 1 else c_), 1.0, -1.0)
        k0 = train[:, c_, :, c_]
        k0, scale = k0 / np.linalg.norm(k0, 2), np.linalg.norm(k0, 2)
        b = 1 - y * f0[:, c_] / s if f0_fit == "residual" else np.ones(12)
        y = y - f0[:, c_] / s if f0_fit == "reference" else y
        alpha, beta = dense(np.outer(y, y) * k0, gamma, b)
        omega = sum(alpha[i] * y[i] * values[i, c_, :, c_] for i in range(12)) / scale
        nu = sum(beta[i] * y[i] * flipped[i, c_, :, c_] for i in range(12)) / scale
        np.testing.assert_allclose(
            decision[:, c_], mixture * omega + (1 - mixture) * nu + f0_eval[:, c_] / s, rtol=1e-7, atol=1e-8
        )


def test_residual_fits_the_labels_and_the_reference_does_not():
    """With gamma -> inf both halves interpolate; only 'residual' then meets y - f0 / s on train."""
    train, _, _, labels, f0, _ = kernels()
    y = 2.0 * labels - 1
    transposed = train.transpose(2, 3, 0, 1)
    for mixture in (0.0, 1.0):
        exact = AsymmetricSVM(1e9, mixture, 10.0).fit(train, labels, f0)
        np.testing.assert_allclose(exact.decision_function(train, f0, flipped=transposed)[:, 0], y, atol=1e-5)
        reference = AsymmetricSVM(1e9, mixture, 10.0, f0_fit="reference").fit(train, labels, f0)
        inverse = 1 / (y - f0[:, 0] / 10) + f0[:, 0] / 10
        np.testing.assert_allclose(
            reference.decision_function(train, f0, flipped=transposed)[:, 0], inverse, rtol=1e-4
        )


def test_symmetric_kernel_reduces_to_ridge():
    """On a symmetric K0 alpha = beta and the solution is ridge with lambda = 1 / gamma on the scaled kernel."""
    train, evaluation, labels, _, _ = problem()
    kernel, cross = gram(train, train), gram(train, evaluation)
    from lmntk.solvers import KernelRidge

    for gamma in GAMMAS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", KernelWarning)
            model = AsymmetricSVM(gamma, 0.5).fit(kernel, labels)
        ridge = KernelRidge(1 / gamma).fit(kernel, labels)
        np.testing.assert_allclose(
            model.decision_function(cross, flipped=cross), ridge.decision_function(cross), rtol=1e-8
        )


@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 10**6), st.sampled_from([1, 3]), st.sampled_from([0.01, 0.1, 0.9]), st.floats(1e-6, 1e6)
)
def test_order_and_unit_do_not_matter(seed, c, gamma, unit):
    train, values, flipped, labels, f0, f0_eval = kernels(c, seed)
    base = (
        AsymmetricSVM(gamma, 0.3, 100.0)
        .fit(train, labels, f0)
        .decision_function(values, f0_eval, flipped=flipped)
    )
    order = np.random.default_rng(seed).permutation(12)
    model = AsymmetricSVM(gamma, 0.3, 100.0).fit(unit * train[order][:, :, order], labels[order], f0[order])
    again = model.decision_function(unit * values[order], f0_eval, flipped=unit * flipped[order])
    np.testing.assert_allclose(again, base, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("c", [1, 3])
@pytest.mark.parametrize("f0_fit", ["residual", "labels", "reference"])
def test_grid_equals_the_estimator(c, f0_fit):
    train, values, flipped, labels, f0, f0_eval = kernels(c)
    inputs = SolverInputs(
        train,
        {"dev": values},
        labels,
        formula="asigngd",
        evals_flipped={"dev": flipped},
        f0={"train": f0, "dev": f0_eval},
    )
    with warnings.catch_warnings():
        warnings.simplefilter(
            "error"
        )  # gamma = 1 is a pole by construction: the grid reports it as a figure, without a warning
        results = solve_grid("asym", inputs, f0_fit=f0_fit)
    assert len(results) == 6 * 3 * 5
    for result in results:
        k = result.setting
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", KernelWarning)
            model = AsymmetricSVM(k["gamma"], k["mixture"], k["f0_scale"], f0_fit=f0_fit).fit(
                train, labels, f0
            )
        np.testing.assert_allclose(
            result.dev_decision, model.decision_function(values, f0_eval, flipped=flipped), atol=1e-10
        )
        assert result.diagnostics["distance_to_pole"] == pytest.approx(model.distance_to_pole_)
        if f0_fit != "reference":
            assert (result.diagnostics["dropped_directions"] > 0) == (k["gamma"] == 1.0)


def test_bad_input_is_named():
    train, values, flipped, labels, _, _ = kernels()
    with pytest.raises(UserError, match="orientation"):
        AsymmetricSVM().fit(train[:, 0, :, 0], labels)
    with pytest.raises(UserError, match="gamma is 0"):
        AsymmetricSVM(gamma=0.0).fit(train, labels)
    with pytest.raises(UserError, match="f0_fit"):
        AsymmetricSVM(f0_fit="both").fit(train, labels)
    with pytest.raises(UserError, match="zero everywhere"):
        AsymmetricSVM().fit(0 * train, labels)
    model = AsymmetricSVM().fit(train, labels)
    with pytest.raises(UserError, match="needs the flipped kernel"):
        model.predict(values)
    with pytest.raises(UserError, match="same examples"):
        model.predict(values, flipped=flipped[:, :, :3])
    assert AsymmetricSVM(mixture=1.0).fit(train, labels).predict(values).shape == (7,)
    assert not model.__sklearn_tags__().input_tags.pairwise
    assert model.score(train, labels, flipped=train.transpose(2, 3, 0, 1)) > 0.5
    inputs = SolverInputs(train, {"dev": values}, labels, formula="asigngd")
    with pytest.raises(UserError, match=r"needs the flipped kernel .* of dev"):
        solve_grid("asym", inputs)
    assert len(solve_grid("asym", inputs, {"mixture": [1.0]})) == 6
