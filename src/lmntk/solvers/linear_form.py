"""A solution whose decisions are linear in a text's gradient: prediction without a kernel."""

from __future__ import annotations

from dataclasses import dataclass

from lmntk.solvers.inputs import Array


@dataclass(frozen=True, eq=False)
class LinearForm:
    """Coefficients of a decision linear in grad f(x); phi is the identity (sgd) or the sign (asigngd).

        joint:      decision_d(x) = sum_nc coefficients[n, c] <phi(grad f_c(x_n)), grad f_d(x)> + rest
        each class: decision_d(x) = sum_n  coefficients[n, d] <phi(grad f_d(x_n)), grad f_d(x)> + rest

    with rest = intercept + f0_d(x) / s; so one direction, or with ``each_class`` one a class, stands for all
    training texts.

    Attributes:
        coefficients: [N, C].
        each_class: which of the two.
        intercept: a number.
        f0_scale: s; inf leaves the pre-trained logits out.
    """

    coefficients: Array
    each_class: bool = False
    intercept: float = 0.0
    f0_scale: float = float("inf")
