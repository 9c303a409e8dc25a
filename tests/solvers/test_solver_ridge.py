import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from solver_cases import features, gram, problem, targets

from lmntk.errors import UserError
from lmntk.solvers import KernelRidge, KernelWarning, RidgePath, SolverInputs, solve_grid

RIDGES = (0.0, 0.001, 0.01, 0.1, 1.0)


def flat(kernel):
    n, c, m, d = kernel.shape
    return kernel.reshape(n * c, m * d)


def brute_force_loo(kernel, y, ridge, cutoff):
    """Refit without each example; minimum norm by pinv with an absolute cut-off. K^T alpha = y."""
    n, c = y.shape
    matrix = flat(kernel).T
    out = np.empty_like(y)
    for i in range(n):
        rows = np.arange(i * c, (i + 1) * c)
        rest = np.setdiff1d(np.arange(n * c), rows)
        u, s, vh = np.linalg.svd(matrix[np.ix_(rest, rest)] + ridge * np.eye(len(rest)))
        inverse = vh.T @ np.diag([1 / x if x > cutoff else 0.0 for x in s]) @ u.T
        out[i] = matrix[np.ix_(rows, rest)] @ inverse @ y.reshape(-1)[rest]
    return out


@pytest.mark.parametrize("c", [1, 2, 3])
@pytest.mark.parametrize("ridge", RIDGES)
@pytest.mark.parametrize("s", [10.0, np.inf])
def test_ridge_is_a_direct_solve(c, ridge, s):
    train, evaluation, labels, f0, f0_eval = problem(c=c)
    kernel, cross = gram(train, train), gram(train, evaluation)
    model = KernelRidge(ridge, s).fit(kernel, labels, f0)
    matrix = flat(kernel)
    rhs = targets(labels, c) - f0 / s
    alpha = np.linalg.solve(matrix + ridge * np.linalg.norm(matrix, 2) * np.eye(len(matrix)), rhs.ravel())
    expected = (flat(cross).T @ alpha).reshape(-1, c) + f0_eval / s
    np.testing.assert_allclose(model.decision_function(cross, f0_eval), expected, rtol=1e-9, atol=1e-10)
    assert model.numerical_rank_ == len(matrix)
    expected_condition = np.linalg.cond(matrix + ridge * np.linalg.norm(matrix, 2) * np.eye(len(matrix)))
    assert model.condition_number_ == pytest.approx(expected_condition, rel=1e-8)


@pytest.mark.parametrize("c", [1, 2, 3])
@pytest.mark.parametrize("ridge", RIDGES)
@pytest.mark.parametrize("p", [5, 17, 60])  # rank-deficient (5, 17 in part) and full rank
def test_leave_one_out_is_refitting(c, ridge, p):
    train, _, labels, f0, _ = problem(c=c, p=p)
    kernel = gram(train, train)
    path = RidgePath(kernel)
    y = targets(labels, c) - f0 / 10
    n = kernel.shape[0] * c
    expected = brute_force_loo(
        kernel, y, ridge * path.operator_norm, n * np.finfo(float).eps * path.operator_norm
    )
    np.testing.assert_allclose(path.leave_one_out(y, ridge), expected, rtol=1e-6, atol=1e-8)
    stacked = path.leave_one_out(np.stack([y, 2 * y], axis=2), ridge)
    np.testing.assert_allclose(stacked[:, :, 1], 2 * expected, rtol=1e-6, atol=1e-8)


def test_leave_one_out_with_duplicates_and_lone_directions():
    train = features(8, 1, 30)
    train = np.concatenate(
        [train, train[:3]]
    )  # duplicates: deficient; the other five are indispensable directions
    labels = np.array([0, 1, 0, 1, 0, 1, 0, 1, 1, 1, 0])
    kernel, y = gram(train, train), targets(labels, 1)
    path = RidgePath(kernel)
    assert path.numerical_rank == 8
    expected = brute_force_loo(kernel, y, 0.0, 11 * 2.2e-16 * path.operator_norm)
    np.testing.assert_allclose(path.leave_one_out(y, 0.0), expected, rtol=1e-8, atol=1e-9)
    # the twin alone predicts its duplicate's label exactly where both are interpolated
    assert path.leave_one_out(y, 0.0)[8, 0] == pytest.approx(-1.0)


@pytest.mark.parametrize("c", [1, 2])
@pytest.mark.parametrize("ridge", [0.0, 0.01, 1.0])
@pytest.mark.parametrize("p", [4, 50])
def test_asymmetric_kernels_solve_their_transpose(c, ridge, p):
    train, evaluation, labels, _, _ = problem(c=c, p=p)
    kernel, cross = gram(np.sign(train), train), gram(np.sign(train), evaluation)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", KernelWarning)
        model = KernelRidge(ridge, symmetric=False).fit(kernel, labels)
    system = flat(kernel).T + ridge * np.linalg.norm(flat(kernel), 2) * np.eye(12 * c)
    alpha = np.linalg.lstsq(system, targets(labels, c).ravel(), rcond=1e-13)[0]
    np.testing.assert_allclose(
        model.decision_function(cross), (flat(cross).T @ alpha).reshape(-1, c), rtol=1e-7, atol=1e-8
    )
    expected = brute_force_loo(
        kernel, targets(labels, c), ridge * model.operator_norm_, 12 * c * 2.2e-16 * model.operator_norm_
    )
    np.testing.assert_allclose(model.leave_one_out_decision(), expected, rtol=1e-6, atol=1e-7)
    if ridge == 0 and c == 1 and p == 50:  # full rank: the train labels are met
        np.testing.assert_allclose(model.decision_function(kernel), targets(labels, c), atol=1e-9)


def test_minimum_norm_says_the_rank():
    train, evaluation, labels, _, _ = problem(p=6)
    kernel, cross = gram(train, train), gram(train, evaluation)
    with pytest.warns(KernelWarning, match="rank 6 of 12"):
        model = KernelRidge().fit(kernel, labels)
    weights = np.linalg.pinv(train[:, 0]) @ targets(labels, 1)[:, 0]  # the same problem in feature space
    np.testing.assert_allclose(
        model.decision_function(cross)[:, 0], evaluation[:, 0] @ weights, rtol=1e-8, atol=1e-9
    )
    alpha = np.linalg.lstsq(flat(kernel), targets(labels, 1)[:, 0], rcond=1e-12)[0]
    np.testing.assert_allclose(model.dual_coef_[:, 0], alpha, rtol=1e-6, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 3]), st.sampled_from(RIDGES), st.floats(1e-6, 1e6))
def test_order_and_unit_do_not_matter(seed, c, ridge, unit):
    train, evaluation, labels, f0, f0_eval = problem(c=c, seed=seed)
    kernel, cross = gram(train, train), gram(train, evaluation)
    base = KernelRidge(ridge, 100.0).fit(kernel, labels, f0).decision_function(cross, f0_eval)
    order = np.random.default_rng(seed).permutation(len(labels))
    permuted = KernelRidge(ridge, 100.0).fit(unit * kernel[order][:, :, order], labels[order], f0[order])
    np.testing.assert_allclose(
        permuted.decision_function(unit * cross[order], f0_eval), base, rtol=1e-6, atol=1e-7
    )


def test_grid_equals_the_estimator_for_every_setting():
    train, evaluation, labels, f0, f0_eval = problem(c=3)
    inputs = SolverInputs(
        gram(train, train),
        {"dev": gram(train, evaluation), "test": gram(train, train)},
        labels,
        f0={"train": f0, "dev": f0_eval, "test": f0},
    )
    results = solve_grid("ridge", inputs, leave_one_out=True)
    assert len(results) == 25
    for result in results:
        model = KernelRidge(result.setting["regularization"], result.setting["f0_scale"]).fit(
            inputs.train, labels, f0
        )
        np.testing.assert_allclose(
            result.dev_decision, model.decision_function(inputs.evals["dev"], f0_eval), atol=1e-9
        )
        np.testing.assert_allclose(result.test_decision, model.decision_function(inputs.train, f0), atol=1e-9)
        np.testing.assert_allclose(result.loo, model.leave_one_out_decision(), atol=1e-9)
        assert result.diagnostics["condition_number"] == pytest.approx(model.condition_number_)


def test_scikit_learn_can_cross_validate_and_clone():
    train, _, labels, _, _ = problem(n=30)
    matrix = flat(gram(train, train))
    model = KernelRidge(0.01)
    assert clone(model).get_params() == model.get_params()
    assert model.__sklearn_tags__().input_tags.pairwise
    scores = cross_val_score(model, matrix, labels, cv=3)
    assert scores.shape == (3,)
    assert np.isfinite(scores).all()
    search = GridSearchCV(model, {"regularization": [0.01, 1.0]}, cv=3).fit(matrix, labels)
    assert search.best_params_["regularization"] in (0.01, 1.0)
    assert (
        KernelRidge(0.1).fit(matrix, np.where(labels == 1, "yes", "no")).predict(matrix).tolist().count("yes")
        > 0
    )
    minus = KernelRidge(0.1).fit(matrix, 2 * labels - 1)
    np.testing.assert_array_equal(
        minus.predict(matrix) > 0, KernelRidge(0.1).fit(matrix, labels).predict(matrix) == 1
    )
    assert minus.score(matrix, 2 * labels - 1) > 0.8


def test_bad_input_is_named():
    train, evaluation, labels, f0, _ = problem()
    kernel = gram(train, train)
    broken = kernel.copy()
    broken[0, 0, 3, 0] = broken[2, 0, 3, 0] = np.nan
    for bad, y, match in [
        (broken, labels, "2 of 144 entries"),
        (kernel, np.zeros(12, int), "same class"),
        (kernel, labels[:5], "12 train examples"),
        (kernel, labels + 5.5, "Unused"),
        (gram(np.sign(train), train), labels, "not symmetric"),
        (gram(train, evaluation), labels, "train against train"),
        (np.ones((3, 2)), labels, "train against train"),
        (np.ones(3), labels, "is not a kernel"),
        (0 * kernel, labels, "zero everywhere"),
    ]:
        if match == "Unused":  # any two distinct values are two classes for one output
            KernelRidge().fit(bad, y)
            continue
        with pytest.raises(UserError, match=match):
            KernelRidge().fit(bad, y)
    with pytest.raises(UserError, match="regularization is -1"):
        KernelRidge(-1.0).fit(kernel, labels)
    with pytest.raises(UserError, match="no pre-trained logits"):
        KernelRidge(f0_scale=10.0).fit(kernel, labels)
    model = KernelRidge(f0_scale=10.0).fit(kernel, labels, f0)
    with pytest.raises(UserError, match="no pre-trained logits"):
        model.predict(kernel)
    with pytest.raises(UserError, match="fitted on 12"):
        model.predict(kernel[:4], f0)
    with pytest.raises(UserError, match="logits"):
        model.predict(np.ones((12, 2, 3, 2)), f0)


def test_one_logit_a_text_may_be_a_vector():
    train, evaluation, labels, f0, f0_eval = problem()
    models = [KernelRidge(0.1, 10.0).fit(gram(train, train), labels, f) for f in (f0, f0[:, 0])]
    decisions = [model.decision_function(gram(train, evaluation), f0_eval[:, 0]) for model in models]
    np.testing.assert_array_equal(*decisions)
    np.testing.assert_array_equal(decisions[0], models[0].decision_function(gram(train, evaluation), f0_eval))


def test_indefinite_kernels_warn_with_the_number():
    train, _, labels, _, _ = problem()
    kernel = gram(train, train)
    kernel[:, 0, :, 0] -= 100 * np.eye(12)
    with pytest.warns(KernelWarning, match="smallest eigenvalue is -"):
        KernelRidge(2.0).fit(kernel, labels)
