import subprocess
import sys

import numpy as np
import pytest
from sklearn.metrics import f1_score
from solver_cases import gram, problem

from lmntk import solvers
from lmntk.errors import UserError
from lmntk.solvers import (
    SOLVERS,
    GridResult,
    KernelWarning,
    SolverInputs,
    aggregate,
    default_grid,
    predict_labels,
    select_on_dev,
    select_on_leave_one_out,
    solve_grid,
)
from lmntk.solvers.selection import f1


def inputs(c=1, formula="sgd", **more):
    train, evaluation, labels, _, _ = problem(c=c)
    return SolverInputs(gram(train, train), {"dev": gram(train, evaluation)}, labels, formula=formula, **more)


def result(correct, **setting):
    """Dev decisions of which the first `correct` are right for labels 1."""
    decision = np.where(np.arange(10) < correct, 1.0, -1.0)[:, None]
    return GridResult(setting, {"dev": decision, "test": -decision})


def test_predict_labels():
    assert predict_labels([[0.1], [-0.1], [0.0]]).tolist() == [1, 0, 0]
    assert predict_labels([0.1, -2.0]).tolist() == [1, 0]
    assert predict_labels([[1.0, 3.0, 2.0], [5.0, 5.0, 1.0]]).tolist() == [1, 0]
    with pytest.raises(UserError, match="1 decisions are NaN"):
        predict_labels([[np.nan], [1.0]])


def test_best_dev_metric_wins_and_test_follows():
    chosen = select_on_dev([result(5, regularization=1.0), result(8, regularization=0.0)], np.ones(10))
    assert chosen.setting == {"regularization": 0.0}
    assert chosen.metric == 0.8
    assert chosen.tied == 1
    assert chosen.test_predictions.tolist() == [0] * 8 + [1] * 2
    worst = select_on_dev([result(5, regularization=1.0), result(8, regularization=0.0)], np.zeros(10))
    assert worst.setting == {"regularization": 1.0}
    assert select_on_dev([result(5, gamma=1.0)], -np.ones(10)).metric == 0.5  # labels -1 / +1 are read too


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ({"regularization": 0.1, "f0_scale": np.inf}, {"regularization": 1.0, "f0_scale": 10.0}),
        ({"regularization": 0.1, "f0_scale": 10.0}, {"regularization": 0.1, "f0_scale": np.inf}),
        ({"gamma": 1.0, "mixture": 0.5}, {"gamma": 0.1, "mixture": 0.0}),
        ({"gamma": 1.0, "mixture": 1.0}, {"gamma": 1.0, "mixture": 0.5}),
        ({"gamma": 1.0, "mixture": 0.0}, {"gamma": 1.0, "mixture": 1.0}),
        ({"regularization": 0.1, "cost": 10.0}, {"regularization": 0.1, "cost": 1.0}),
    ],
)
def test_ties_go_to_the_more_regularised_in_any_order(less, more):
    pair = [result(7, **less), result(7, **more)]
    for results in (pair, pair[::-1]):
        chosen = select_on_dev(results, np.ones(10))
        assert chosen.setting == more
        assert chosen.tied == 2


def test_scorers():
    labels, predictions = np.random.default_rng(0).integers(0, 2, (2, 50))
    assert f1(labels, predictions) == pytest.approx(f1_score(labels, predictions))
    assert f1(np.zeros(3, int), np.zeros(3, int)) == 0.0
    assert select_on_dev([result(4, regularization=0.0)], np.ones(10), "f1").metric == pytest.approx(
        2 * 4 / (8 + 6)
    )
    assert (
        select_on_dev([result(4, regularization=0.0)], np.ones(10), lambda y, p: -float(np.sum(p))).metric
        == -4
    )
    for scorer, match in [("recall", "unknown metric"), (lambda y, p: np.nan, "metric is NaN")]:
        with pytest.raises(UserError, match=match):
            select_on_dev([result(4, regularization=0.0)], np.ones(10), scorer)


def test_selection_refuses_what_does_not_fit():
    with pytest.raises(UserError, match="no settings"):
        select_on_dev([], np.ones(10))
    with pytest.raises(UserError, match="no eval set 'validation'"):
        select_on_dev([result(4)], np.ones(10), split="validation")
    with pytest.raises(UserError, match="3 labels for 10"):
        select_on_dev([result(4)], np.ones(3))
    with pytest.raises(UserError, match="leave_one_out=True"):
        select_on_leave_one_out([result(4)], np.ones(10))
    with pytest.raises(UserError, match="named 'test'"):
        _ = select_on_dev(solve_grid("ridge", inputs()), np.ones(7)).test_predictions


def test_leave_one_out_selects_without_dev():
    given = inputs(c=3)
    results = solve_grid("ridge", given, leave_one_out=True)
    chosen = select_on_leave_one_out(results, given.labels)
    assert chosen.metric == max(np.mean(predict_labels(r.loo) == given.labels) for r in results)


def test_aggregate_is_population_and_per_cent():
    summary = aggregate([0.8, 0.9, 0.7, 0.85, 0.75])
    assert (summary.mean, summary.median) == (pytest.approx(80.0), pytest.approx(80.0))
    assert summary.std == pytest.approx(np.std([80, 90, 70, 85, 75]))
    assert str(summary) == "80.0 (7.1), median 80.0"
    for bad in ([], [np.nan], [[0.5]]):
        with pytest.raises(UserError, match="cannot aggregate"):
            aggregate(bad)


def test_registry_grids_and_formulas():
    assert list(SOLVERS) == ["ridge", "asym", "logistic", "row-logistic", "svc", "svr"]
    assert default_grid("ridge") == {
        "regularization": (0.0, 0.001, 0.01, 0.1, 1.0),
        "f0_scale": (10, 100, 1000, 10000, np.inf),
    }
    assert default_grid("asym", with_f0=False) == {
        "gamma": (0.01, 0.1, 1, 10, 100, 1000),
        "mixture": (0, 0.5, 1),
        "f0_scale": (np.inf,),
    }
    assert [len(solve_grid("ridge", inputs(formula=f))) for f in ("sgd", "signgd", "asigngd")] == [5, 5, 5]
    for solver, formula in [("asym", "sgd"), ("svc", "asigngd"), ("svr", "asigngd"), ("logistic", "asigngd")]:
        with pytest.raises(UserError, match=f"solver '{solver}' takes .* not {formula}; .* use"):
            solve_grid(solver, inputs(formula=formula))
    for call, match in [
        (lambda: solve_grid("lasso", inputs()), "unknown solver"),
        (lambda: solve_grid("ridge", inputs(), {"gamma": [1.0]}), "no setting 'gamma'"),
        (lambda: solve_grid("ridge", inputs(), {"regularization": []}), "is empty"),
        (lambda: solve_grid("ridge", inputs(), {"f0_scale": [10.0]}), "no pre-trained logits"),
        (lambda: solve_grid("svc", inputs(), leave_one_out=True), "exact leave-one-out"),
    ]:
        with pytest.raises(UserError, match=match):
            call()


def test_inputs_are_checked_once_and_named():
    train, evaluation, labels, f0, f0_eval = problem(c=3)
    kernel, cross = gram(train, train), gram(train, evaluation)
    for change, match in [
        ({"formula": "ntk"}, "unknown kernel formula"),
        ({"labels": labels[:4]}, "4 train labels"),
        ({"labels": labels + 1}, "classes 0..2"),
        ({"labels": np.zeros(12)}, "same class"),
        ({"labels": np.array(["a"] * 12)}, "class numbers"),
        ({"evals": {"dev": cross[:4]}}, "'dev' has 4 train examples"),
        ({"evals": {"dev": cross[:, :2, :, :2]}}, "2 logits"),
        ({"evals_flipped": {"test": cross}}, "no counterpart"),
        ({"f0": {"train": f0}}, "missing for dev"),
        ({"f0": {"train": f0, "dev": f0}}, "f0 of dev"),
        ({"f0": {"train": f0, "dev": f0_eval * np.nan}}, "21 of 21 entries"),
        ({"evals": {"dev": cross[:, :, :0]}}, "is empty"),
    ]:
        with pytest.raises(UserError, match=match):
            SolverInputs(**({"train": kernel, "evals": {"dev": cross}, "labels": labels} | change))


def test_rank_deficiency_is_said_once_for_a_grid():
    train, evaluation, labels, _, _ = problem(p=5)
    given = SolverInputs(gram(train, train), {"dev": gram(train, evaluation)}, labels)
    with pytest.warns(KernelWarning, match="rank 5 of 12") as caught:
        results = solve_grid("ridge", given)
    assert len(caught) == 1
    assert results[0].diagnostics["numerical_rank"] == 5


def test_rank_tolerance_absorbs_the_noise_of_float32_duplicates():
    """Twins with opposite labels and float32 noise between their rows: rank 12 to the eye of float64, and useless predictions."""
    train, evaluation, labels, _, _ = problem(n=11)
    train, labels = np.concatenate([train, train[:1]]), np.append(labels, 1 - labels[0])
    noise = 1e-7 * np.random.default_rng(0).normal(size=(12, 12)) * 40
    kernel = gram(train, train) + ((noise + noise.T) / 2)[:, None, :, None]
    cross = gram(train, evaluation) * (1 + 1e-7 * np.random.default_rng(1).normal(size=(12, 1, 7, 1)))
    given = SolverInputs(kernel, {"dev": cross}, labels)
    grid = {"regularization": [0.0]}
    naive = solve_grid("ridge", given, grid)[0]
    with pytest.warns(KernelWarning, match="rank 11 of 12"):
        robust = solve_grid("ridge", given, grid, rank_tolerance=1e-6)[0]
    weights = np.linalg.pinv(train[:, 0], rcond=1e-8) @ (2.0 * labels - 1)
    np.testing.assert_allclose(robust.dev_decision[:, 0], evaluation[:, 0] @ weights, atol=1e-4)
    assert naive.diagnostics["condition_number"] > 1e6 > robust.diagnostics["condition_number"]


def test_importing_the_package_is_light():
    code = "import sys, lmntk.solvers; print([m for m in ('sklearn', 'scipy', 'torch', 'pandas') if m in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )
    assert sorted(dir(solvers)) == sorted(solvers.__all__)
    assert all(getattr(solvers, name) is not None for name in solvers.__all__)
    with pytest.raises(AttributeError):
        _ = solvers.nothing
