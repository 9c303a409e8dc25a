"""Decisions by one direction equal decisions by the kernel, wherever a solver says that they are linear."""

from __future__ import annotations

import numpy as np
import pytest
from solver_cases import gram, problem

from lmntk.solvers.grid import SOLVERS, solve_grid
from lmntk.solvers.inputs import SolverInputs

LINEAR = {("ridge", "sgd"), ("ridge", "asigngd"), ("logistic", "sgd"), ("svr", "sgd"), ("asym", "asigngd")}


def by_direction(form, phi, evaluation, f0):
    if form.each_class:
        directions = np.einsum("nc,ncp->cp", form.coefficients, phi)
        slopes = np.einsum("mcp,cp->mc", evaluation, directions)
    else:
        slopes = evaluation @ np.einsum("nc,ncp->p", form.coefficients, phi)
    return slopes + form.intercept + f0 / form.f0_scale


@pytest.mark.parametrize("c", [1, 3])
@pytest.mark.parametrize(("solver", "formula"), [(s, f) for s, one in SOLVERS.items() for f in one.formulas])
def test_decisions_by_direction(solver, formula, c):
    train, evaluation, labels, f0_train, f0_eval = problem(c=c)
    phi = train if formula == "sgd" else np.sign(train)
    seen = evaluation if formula != "signgd" else np.sign(evaluation)
    found = solve_grid(
        solver,
        SolverInputs(
            gram(phi, train if formula != "signgd" else phi),
            {"dev": gram(phi, seen)},
            labels,
            formula,
            {"dev": gram(train, np.sign(evaluation))} if formula == "asigngd" else {},
            {"train": f0_train, "dev": f0_eval},
        ),
    )
    linear = [one for one in found if one.linear is not None]
    expected = (solver, formula) in LINEAR or (solver, formula, c) == ("svc", "sgd", 1)
    assert bool(linear) == expected
    for one in linear:
        decision = by_direction(one.linear, phi, evaluation, f0_eval)
        np.testing.assert_allclose(
            decision, one.dev_decision, rtol=1e-8, atol=1e-8 * np.abs(one.dev_decision).max()
        )
    if solver == "asym":
        assert {one.setting["mixture"] for one in linear} == {1.0}
    else:
        assert len(linear) in (0, len(found))
