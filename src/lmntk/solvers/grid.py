"""All settings of a solver in one go: one decomposition, then a list of results to choose from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from lmntk.errors import UserError
from lmntk.kernels.formulas import FORMULAS
from lmntk.solvers.inputs import Array, SolverInputs, flatten, offset
from lmntk.solvers.linear_form import LinearForm
from lmntk.solvers.result import GridResult
from lmntk.solvers.settings import check_setting

if TYPE_CHECKING:
    from lmntk.solvers.asymmetric import F0Fit
    from lmntk.solvers.logistic import LogisticSolution

Grid = Mapping[str, Sequence[float]]

SOLVER_VERSION = 1  # counts up when a solver gives other numbers, so that old results are not reused

REGULARIZATIONS = (0.0, 0.001, 0.01, 0.1, 1.0)
F0_SCALES = (10.0, 100.0, 1000.0, 10000.0, float("inf"))
# the last two are ours: K is scaled to norm 1, the reference's is not
GAMMAS = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
MIXTURES = (0.0, 0.5, 1.0)
COSTS = (1.0, 10.0, 100.0)  # not the reference's, which leaves 1; costs act on a kernel of mean diagonal 1


@dataclass(frozen=True)
class Options:
    """The options that all settings of a grid share; see `solve_grid`."""

    leave_one_out: bool = False
    f0_fit: F0Fit = "residual"
    rank_tolerance: float | None = None


@dataclass(frozen=True)
class Solver:
    """A name, the formulas it takes, its grid, and the function that solves a whole grid."""

    name: str
    summary: str
    formulas: tuple[str, ...]
    grid: Mapping[str, tuple[float, ...]]
    run: Callable[[SolverInputs, Grid, Options], list[GridResult]]


def default_grid(solver: str, *, with_f0: bool = True) -> dict[str, tuple[float, ...]]:
    """Return the default settings of a solver.

    Without pre-trained logits only f0_scale = inf is left.
    """
    grid = dict(_solver(solver).grid)
    if "f0_scale" in grid and not with_f0:
        grid["f0_scale"] = (float("inf"),)
    return grid


def solve_grid(
    solver: str,
    inputs: SolverInputs,
    grid: Grid | None = None,
    *,
    leave_one_out: bool = False,
    f0_fit: F0Fit = "residual",
    rank_tolerance: float | None = None,
) -> list[GridResult]:
    """Solve every combination of the grid's values; one result each, in the order of the product.

    `grid` replaces the default values for the names it has. `leave_one_out` (ridge only) adds exact
    leave-one-out decisions; `rank_tolerance` (ridge; see RidgePath) says which eigenvalues count as zero;
    `f0_fit` (asym; see AsymmetricSVM) how f0 enters. Cost: ridge and logistic one eigendecomposition of [N C,
    N C], asym one SVD of [N, N] a class, svc and svr one SVM a setting.

    Raises:
        UserError: unknown solver, a formula that the solver does not take, unknown or empty grid entries, or
            bad input.

    Example:
        results = solve_grid("ridge", inputs)
        choice = select_on_dev(results, dev_labels)
    """
    chosen = _solver(solver)
    if inputs.formula not in chosen.formulas:
        other = [name for name, each in SOLVERS.items() if inputs.formula in each.formulas]
        raise UserError(
            f"solver {solver!r} takes {' or '.join(chosen.formulas)} kernels, not {inputs.formula}; "
            f"for {inputs.formula} use {', '.join(other)}"
        )
    if inputs.classes is not None and solver != "ridge":
        raise UserError(
            f"solver {solver!r} takes no kernel that classes share; use ridge, or the full kernel"
        )
    values = default_grid(solver, with_f0=bool(inputs.f0))
    for name, choices in (grid or {}).items():
        if name not in values:
            raise UserError(
                f"solver {solver!r} has no setting {name!r}; it has {', '.join(values) or 'none'}"
            )
        if len(choices) == 0:
            raise UserError(f"the grid for {name!r} is empty; give at least one value")
        for choice in choices:
            check_setting(name, choice)
        values[name] = tuple(float(choice) for choice in choices)
    check_setting("rank_tolerance", rank_tolerance)
    if leave_one_out and solver != "ridge":
        raise UserError(
            f"exact leave-one-out exists for ridge, not for {solver!r}; choose the setting on a dev set"
        )
    return chosen.run(inputs, values, Options(leave_one_out, f0_fit, rank_tolerance))


def _solver(name: str) -> Solver:
    if name not in SOLVERS:
        raise UserError(f"unknown solver {name!r}; choose one of {', '.join(SOLVERS)}")
    return SOLVERS[name]


def _settings(grid: Grid) -> Iterator[dict[str, float]]:
    for values in product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def _offsets(inputs: SolverInputs, scale: float) -> dict[str, Array]:
    """f0 / s for train and every eval set, each [M, C]."""
    c = inputs.outputs
    sizes = {"train": len(inputs.labels)} | {name: kernel.shape[2] for name, kernel in inputs.evals.items()}
    return {
        name: offset(inputs.f0.get(name), scale, (size, c), f"f0 of {name}") for name, size in sizes.items()
    }


def _joint(inputs: SolverInputs, coefficients: Array, scale: float) -> LinearForm | None:
    """Return the linear form of coefficients [N, C]; None for signgd.

    That formula takes the sign of the text's own gradient too. Nor is there one for a kernel that classes share.
    """
    return (
        None
        if inputs.formula == "signgd" or inputs.classes is not None
        else LinearForm(coefficients, f0_scale=scale)
    )


def _predict(
    inputs: SolverInputs, coefficients: list[Array], offsets: list[dict[str, Array]]
) -> list[dict[str, Array]]:
    """K^T alpha + f0 / s for all settings by one matrix product an eval set; coefficients are [N, C] each.

    Of a kernel that classes share each class is a column.
    """
    n, d = inputs.train.shape[:2]
    stacked = np.concatenate(
        [each.reshape(n * d, -1) for each in coefficients], axis=1
    )  # (n d, settings columns)
    decisions: list[dict[str, Array]] = [{} for _ in coefficients]
    for name, kernel in inputs.evals.items():
        m = kernel.shape[2]
        products = (flatten(kernel).T @ stacked).reshape(m, d, len(coefficients), -1)
        for k, each in enumerate(decisions):
            each[name] = products[:, :, k].reshape(m, -1) + offsets[k][name]
    return decisions


def _run_ridge(inputs: SolverInputs, grid: Grid, options: Options) -> list[GridResult]:
    from lmntk.solvers.ridge_path import RidgePath, warn_if_deficient

    path = RidgePath(
        inputs.train, symmetric=inputs.formula != "asigngd", rank_tolerance=options.rank_tolerance
    )
    if 0.0 in grid["regularization"]:
        warn_if_deficient(path, path.outputs - 1 if inputs.centred else None)
    scales = {s: _offsets(inputs, s) for s in grid["f0_scale"]}
    targets = np.stack([inputs.targets - scales[s]["train"] for s in scales], axis=2)  # (n, c, s)
    solved: dict[tuple[float, float], tuple[Array, Array | None, dict[str, float]]] = {}
    for ridge in dict.fromkeys(grid["regularization"]):
        alpha = path.solve(targets, ridge)
        held_out = path.leave_one_out(targets, ridge) if options.leave_one_out else None
        figures = {
            "numerical_rank": float(path.numerical_rank),
            "condition_number": path.condition_number(ridge),
        }
        for k, s in enumerate(scales):
            loo = None if held_out is None else held_out[:, :, k] + scales[s]["train"]
            solved[ridge, s] = alpha[:, :, k], loo, figures
    settings = list(_settings(grid))
    keys = [(setting["regularization"], setting["f0_scale"]) for setting in settings]
    decisions = _predict(inputs, [solved[key][0] for key in keys], [scales[s] for _, s in keys])
    forms = [_joint(inputs, solved[key][0], key[1]) for key in keys]
    return [
        GridResult(a, b, *solved[key][1:], form)
        for a, b, key, form in zip(settings, decisions, keys, forms, strict=True)
    ]


def _run_logistic(inputs: SolverInputs, grid: Grid, options: Options) -> list[GridResult]:
    from lmntk.solvers.logistic import LogisticPath

    path = LogisticPath(inputs.train)
    settings = list(_settings(grid))
    scales = {s: _offsets(inputs, s) for s in grid["f0_scale"]}
    solutions: dict[tuple[float, float], LogisticSolution] = {}
    start = None
    # Neighbours in this order differ least, so each is a good start for the next.
    for ridge, s in product(sorted(set(grid["regularization"]), reverse=True), sorted(scales, reverse=True)):
        solutions[ridge, s] = path.solve(inputs.labels, scales[s]["train"], ridge, start)
        start = solutions[ridge, s].start
    solved = [solutions[setting["regularization"], setting["f0_scale"]] for setting in settings]
    decisions = _predict(
        inputs, [each.alpha for each in solved], [scales[setting["f0_scale"]] for setting in settings]
    )
    rank = float(path.numerical_rank)
    results = []
    for setting, decision, each in zip(settings, decisions, solved, strict=True):
        figures = {"numerical_rank": rank, "newton_steps": float(each.steps)}
        results.append(
            GridResult(setting, decision, None, figures, _joint(inputs, each.alpha, setting["f0_scale"]))
        )
    return results


def _run_asymmetric(inputs: SolverInputs, grid: Grid, options: Options) -> list[GridResult]:
    from lmntk.solvers.asymmetric import AsymmetricSystems, slice_products

    missing = [name for name in inputs.evals if name not in inputs.evals_flipped]
    if missing and any(mixture != 1 for mixture in grid["mixture"]):
        raise UserError(
            f"solver 'asym' needs the flipped kernel <g(x_i), sign g(x)> of {', '.join(missing)}; "
            "pass it in evals_flipped, or set the grid of 'mixture' to 1"
        )
    systems = AsymmetricSystems(inputs.train, inputs.labels, options.f0_fit)
    parts: dict[
        tuple[float, float],
        tuple[dict[str, tuple[Array, Array]], dict[str, Array], dict[str, float], LinearForm],
    ] = {}
    for s, gamma in product(grid["f0_scale"], grid["gamma"]):
        offsets = _offsets(inputs, s)
        solved = systems.coefficients(gamma, offsets["train"])
        views = {}
        for name, kernel in inputs.evals.items():
            flipped = inputs.evals_flipped.get(name)
            omega = slice_products(kernel, solved.values)
            views[name] = omega, omega if flipped is None else slice_products(flipped, solved.flipped)
        figures = {"distance_to_pole": solved.distance_to_pole, "dropped_directions": float(solved.dropped)}
        parts[gamma, s] = views, offsets, figures, LinearForm(solved.values, each_class=True, f0_scale=s)
    results = []
    for setting in _settings(grid):
        views, offsets, figures, form = parts[setting["gamma"], setting["f0_scale"]]
        m = setting["mixture"]  # only omega, of mixture 1, is linear in grad f(x)
        decisions = {k: m * o + (1 - m) * v + offsets[k] for k, (o, v) in views.items()}
        results.append(GridResult(setting, decisions, None, figures, form if m == 1 else None))
    return results


def _run_row_logistic(inputs: SolverInputs, grid: Grid, options: Options) -> list[GridResult]:
    from lmntk.solvers.row_logistic import RowLogistic

    results = []
    for setting in _settings(grid):
        model = RowLogistic(setting["regularization"]).fit(inputs.train, inputs.labels)
        results.append(
            GridResult(
                setting, {name: model.decision_function(kernel) for name, kernel in inputs.evals.items()}
            )
        )
    return results


def _run_svc(inputs: SolverInputs, grid: Grid, options: Options) -> list[GridResult]:
    from lmntk.solvers.support_vector import SupportVectorProblem, decide_classes, fit_classes

    problem = SupportVectorProblem(inputs.train, "svc")
    rows = {name: problem.rows(kernel) for name, kernel in inputs.evals.items()}
    c = inputs.train.shape[1]
    results = []
    for setting in _settings(grid):
        model = fit_classes(problem.regularized(setting["regularization"]), inputs.labels, setting["cost"])
        figures = {"support_vectors": float(len(model.support_))}
        form = None
        if c == 1 and inputs.formula != "signgd":
            coefficients = np.zeros((len(problem), 1))
            coefficients[model.support_, 0] = model.dual_coef_[0] / problem.scale
            form = LinearForm(coefficients, False, float(model.intercept_[0]))
        results.append(
            GridResult(
                setting,
                {name: decide_classes(model, row, c) for name, row in rows.items()},
                None,
                figures,
                form,
            )
        )
    return results


def _run_svr(inputs: SolverInputs, grid: Grid, options: Options) -> list[GridResult]:
    from lmntk.solvers.support_vector import SupportVectorProblem, fit_targets

    problem = SupportVectorProblem(inputs.train, "svr")
    rows = {name: problem.rows(kernel) for name, kernel in inputs.evals.items()}
    c = inputs.train.shape[1]
    results = []
    for setting in _settings(grid):
        offsets = _offsets(inputs, setting["f0_scale"])
        model = fit_targets(
            problem.regularized(setting["regularization"]),
            inputs.targets - offsets["train"],
            setting["cost"],
            0.1,
        )
        decisions = {
            name: np.asarray(model.predict(row)).reshape(-1, c) + offsets[name] for name, row in rows.items()
        }
        form = None
        if inputs.formula != "signgd":
            coefficients = np.zeros(len(problem))
            coefficients[model.support_] = model.dual_coef_[0] / problem.scale
            form = LinearForm(
                coefficients.reshape(-1, c), False, float(model.intercept_[0]), setting["f0_scale"]
            )
        results.append(
            GridResult(setting, decisions, None, {"support_vectors": float(len(model.support_))}, form)
        )
    return results


_SYMMETRIC = ("sgd", "signgd")
_RIDGES_AND_SCALES = {"regularization": REGULARIZATIONS, "f0_scale": F0_SCALES}

SOLVERS: dict[str, Solver] = {
    solver.name: solver
    for solver in (
        Solver("ridge", "kernel ridge regression (least squares)", FORMULAS, _RIDGES_AND_SCALES, _run_ridge),
        Solver(
            "asym",
            "least-squares support vectors for asymmetric kernels",
            ("asigngd",),
            {"gamma": GAMMAS, "mixture": MIXTURES, "f0_scale": F0_SCALES},
            _run_asymmetric,
        ),
        Solver(
            "logistic",
            "kernel logistic regression",
            _SYMMETRIC,
            {"regularization": (0.0001, *REGULARIZATIONS[1:]), "f0_scale": F0_SCALES},
            _run_logistic,
        ),
        Solver(
            "row-logistic",
            "logistic regression on kernel rows, as the reference",
            FORMULAS,
            {"regularization": (0.0,)},
            _run_row_logistic,
        ),
        Solver(
            "svc",
            "support vector classification",
            _SYMMETRIC,
            {"regularization": REGULARIZATIONS, "cost": COSTS},
            _run_svc,
        ),
        Solver(
            "svr", "support vector regression", _SYMMETRIC, {**_RIDGES_AND_SCALES, "cost": COSTS}, _run_svr
        ),
    )
}
