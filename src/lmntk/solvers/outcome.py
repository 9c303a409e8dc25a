"""One split, solved: from its kernels and pre-trained logits to a row of results for each method."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from lmntk.errors import UserError
from lmntk.kernels.kernel import Kernel
from lmntk.solvers.grid import SOLVERS, solve_grid
from lmntk.solvers.inputs import Array, KernelWarning, SolverInputs
from lmntk.solvers.linear_form import LinearForm
from lmntk.solvers.selection import predict_labels, select_on_dev
from lmntk.tasks.metrics import score


@dataclass(frozen=True)
class Outcome:
    """One method's result in one split: metrics in [0, 1], the chosen setting, the predicted test classes."""

    method: str
    formula: str
    solver: str
    metric: str
    dev: float
    test: float
    setting: dict[str, float | str]
    notes: tuple[str, ...]
    predictions: tuple[int, ...]
    linear: LinearForm | None = None
    dev_decisions: Array | None = None

    def with_test(self, decisions: Array, labels: Sequence[int]) -> Outcome:
        """Return the outcome with the test texts' decisions [m, c] seen and scored."""
        predicted = predict_labels(decisions).tolist()
        return replace(self, test=score(self.metric, labels, predicted), predictions=tuple(predicted))

    def as_row(self) -> dict[str, Any]:
        """Return what stands in the table of results, as plain data."""
        left_out = ("predictions", "linear", "dev_decisions")
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name not in left_out}


def methods_of(formulas: Sequence[str], solvers: Sequence[str] | None) -> list[tuple[str, str]]:
    """Return the (formula, solver) pairs that exist, in the order given.

    Without solvers it is each formula's usual one.

    Raises:
        UserError: a formula that no solver takes, or a solver that takes no formula.

    Ridge takes ``asigngd`` too (least squares with a matrix that is not symmetric), but its solver is
    ``asym``; only where that is not among the solvers does ridge stand in.
    """
    pairs: list[tuple[str, str]] = []
    if solvers is None:
        return [(formula, usual_solver(formula)) for formula in formulas]
    for formula in formulas:
        fitting = [solver for solver in solvers if formula in SOLVERS[solver].formulas]
        if formula == "asigngd" and "asym" in fitting:
            fitting = [solver for solver in fitting if solver != "ridge"]
        if not fitting:
            raise UserError(
                f"solvers: none of {', '.join(solvers)} takes {formula}; "
                f"add {usual_solver(formula)}, or leave the formula out"
            )
        pairs += [(formula, solver) for solver in fitting]
    idle = [solver for solver in solvers if solver not in {solver for _, solver in pairs}]
    if idle:
        raise UserError(
            f"solvers: {idle[0]} takes {' or '.join(SOLVERS[idle[0]].formulas)}, which are not among the "
            "formulas; leave it out"
        )
    return pairs


def usual_solver(formula: str) -> str:
    """Return the solver of a formula where none is named: ``asym`` of asigngd, else ``ridge``."""
    return "asym" if formula == "asigngd" else "ridge"


def solve_split(
    kernels: Mapping[tuple[str, str], Kernel],
    logits: Mapping[str, np.ndarray],
    labels: Mapping[str, Sequence[int]],
    metric: str,
    formula: str,
    solver: str,
) -> Outcome:
    """Return the outcome of one solver on one formula's kernels, its setting chosen on dev.

    Args:
        kernels: by (side, formula), the train texts' kernel against train, dev and test. Without test's the
            outcome has no predictions yet; see ``Outcome.with_test``.
        logits: pre-trained logits [n, c] of the same sides; empty where they are not known, and then no
            setting uses them.
        labels: class numbers of train, dev and test.
        metric: ``accuracy`` or ``f1``.
        formula: which kernels.
        solver: which solver.
    """
    evals = {side: kernels[side, formula] for side in ("dev", "test") if (side, formula) in kernels}
    provenance = kernels["train", formula].provenance
    shared = provenance.get("shared")
    kind = "" if shared is None else " shared"
    if provenance.get("contrasts"):
        kind = " contrasts"
    inputs = SolverInputs(
        train=kernels["train", formula].values,
        evals={side: kernel.values for side, kernel in evals.items()},
        labels=np.asarray(labels["train"]),
        formula=formula,
        evals_flipped={side: kernel.flipped for side, kernel in evals.items() if kernel.flipped is not None},
        f0={side: logits[side] for side in ("train", *evals)} if logits else {},
        classes=None if shared is None else shared["classes"],
        centred=bool(provenance.get("contrasts")),
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", KernelWarning)
        selection = select_on_dev(
            solve_grid(solver, inputs),
            np.asarray(labels["dev"]),
            lambda truth, predicted: score(metric, list(truth), list(predicted)),
        )
    outcome = Outcome(
        method=f"{formula}{kind} {solver}",
        formula=formula,
        solver=solver,
        metric=metric,
        dev=float(selection.metric),
        test=math.nan,
        setting={
            name: "inf" if math.isinf(value) else value for name, value in selection.result.setting.items()
        },
        notes=tuple(
            dict.fromkeys(
                str(warning.message) for warning in caught if issubclass(warning.category, KernelWarning)
            )
        ),
        predictions=(),
        linear=selection.result.linear,
        dev_decisions=selection.result.dev_decision,
    )
    return outcome.with_test(selection.result.test_decision, labels["test"]) if "test" in evals else outcome
