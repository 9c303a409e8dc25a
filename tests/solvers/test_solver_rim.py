"""What solvers, rates and the emulator are given from Python is checked where it comes in: one line, no number."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from lmntk.errors import UserError
from lmntk.solvers import solve_grid
from lmntk.solvers.asymmetric import AsymmetricSVM
from lmntk.solvers.emulator import (
    SquaredLossTraining,
    descend,
    emulated_logits,
    learning_rates,
    sign_descend,
)
from lmntk.solvers.inputs import SolverInputs
from lmntk.solvers.logistic import KernelLogistic, LogisticPath
from lmntk.solvers.ridge import KernelRidge
from lmntk.solvers.row_logistic import RowLogistic
from lmntk.solvers.support_vector import KernelSVC, KernelSVR

G = np.random.default_rng(0).normal(size=(6, 9))
K = (G @ G.T)[:, None, :, None]
Y, F0 = [0, 1, 0, 1, 0, 1], np.zeros((6, 1))
NAN, INF = float("nan"), float("inf")


def inputs(kernel=K, labels=Y, formula="sgd"):
    return SolverInputs(
        kernel, {"dev": kernel}, labels, formula, {"dev": kernel} if formula == "asigngd" else {}
    )


WRONG = {
    "a complex kernel": lambda: KernelRidge().fit(K + 1j, Y),
    "complex logits": lambda: KernelRidge(0.1, 1.0).fit(K, Y, F0 + 1j),
    "a kernel of text": lambda: inputs(K.astype(str)),
    "a ragged kernel": lambda: KernelRidge().fit([[1.0, 2.0], [3.0]], [0, 1]),
    "a kernel with a gradient": lambda: inputs(torch.tensor(K, requires_grad=True)),
    "a sparse kernel": lambda: inputs(torch.eye(4).to_sparse()),
    "a kernel of objects": lambda: inputs(K.astype(object)),
    "labels that are infinite": lambda: inputs(labels=[0, INF, 0, 1, 0, 1]),
    "complex labels": lambda: inputs(labels=[0, 1j, 0, 1, 0, 1]),
    "ridge of NaN": lambda: KernelRidge(NAN).fit(K, Y),
    "a negative ridge": lambda: KernelRidge(-1.0).fit(K, Y),
    "a negative rank tolerance": lambda: KernelRidge(rank_tolerance=-1.0).fit(K, Y),
    "f0_scale of NaN": lambda: KernelLogistic(0.1, NAN).fit(K, Y),
    "logistic without a ridge": lambda: KernelLogistic(0.0).fit(K, Y),
    "a cost of 0": lambda: KernelSVC(cost=0.0).fit(K, Y),
    "an infinite cost": lambda: KernelSVR(cost=INF).fit(K, Y),
    "a negative epsilon": lambda: KernelSVR(epsilon=-0.1).fit(K, Y),
    "no iteration": lambda: RowLogistic(max_iter=0).fit(K, Y),
    "mixture 7": lambda: AsymmetricSVM(mixture=7).fit(K, Y),
    "a mixture that is a word": lambda: AsymmetricSVM(mixture="half").fit(K, Y),
    "a negative gamma": lambda: AsymmetricSVM(gamma=-1.0).fit(K, Y),
    "a grid with mixture 7": lambda: solve_grid("asym", inputs(formula="asigngd"), {"mixture": [0.5, 7]}),
    "a grid with a word": lambda: solve_grid("ridge", inputs(), {"regularization": ["much"]}),
    "a grid of NaN": lambda: solve_grid("ridge", inputs(), {"regularization": [NAN]}),
    "a grid's tolerance of NaN": lambda: solve_grid("ridge", inputs(), rank_tolerance=NAN),
    "a rate of NaN": lambda: learning_rates(NAN, 3),
    "an infinite rate": lambda: learning_rates(INF, 3),
    "half a step": lambda: learning_rates(0.1, 2.5),
    "fewer steps than none": lambda: learning_rates(0.1, -1),
    "an unknown schedule": lambda: learning_rates(0.1, 3, "cosine"),
    "a negative batch": lambda: descend(K, Y, F0, [0.1], batches=[[-1]]),
    "an empty batch": lambda: descend(K, Y, F0, [0.1], batches=[[]]),
    "a batch beyond the texts": lambda: descend(K, Y, F0, [0.1], batches=[[6]]),
    "a batch of fractions": lambda: descend(K, Y, F0, [0.1], batches=[[0.5]]),
    "clip NaN": lambda: descend(K, Y, F0, [0.1], clip=NAN),
    "clip 0": lambda: descend(K, Y, F0, [0.1], clip=0.0),
    "rates of NaN": lambda: descend(K, Y, F0, [0.1, NAN]),
    "too few labels": lambda: descend(K, Y[:4], F0, [0.1]),
    "an unknown loss": lambda: descend(K, Y, F0, [0.1], loss="hinge"),
    "a fraction of a step to look at": lambda: descend(K, Y, F0, [0.1, 0.1], steps=[0.5]),
    "a negative text": lambda: sign_descend(K, Y, F0, [0.1], [-1]),
    "a text beyond": lambda: sign_descend(K, Y, F0, [0.1], [6]),
    "rates of a closed form of NaN": lambda: SquaredLossTraining.of_labels(K, Y, F0).descent([NAN]),
    "a time of NaN": lambda: SquaredLossTraining.of_labels(K, Y, F0).flow(NAN),
    "coefficients of another kernel": lambda: emulated_logits(np.zeros((2, 5, 1)), K, F0),
    "logits of other texts": lambda: emulated_logits(np.zeros((6, 1)), K, F0[:4]),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_it_is_one_line(case):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserError) as caught:
            WRONG[case]()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("power", [-900, -300, 0, 300, 900])
def test_logistic_is_the_same_of_a_kernel_times_a_number(power):
    """2^900 squared is beyond every number: it is scaled by the operator norm before anything else."""
    scaled = K * 2.0**power
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected, found = LogisticPath(K), KernelLogistic(0.01).fit(scaled, Y)
    assert found.numerical_rank_ == expected.numerical_rank
    decisions = KernelLogistic(0.01).fit(K, Y).decision_function(K)
    np.testing.assert_allclose(found.decision_function(scaled), decisions, rtol=1e-12)
