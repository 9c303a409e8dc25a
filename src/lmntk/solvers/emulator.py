"""Fine-tuning emulated by its kernel: training of the linearized model, without a model.

Gradient training of f_lin(x) = f0(x) + <g(x), theta - theta_0> never leaves the span of the training
gradients,

    theta_t - theta_0 = - sum_nc A_t[n, c] g_c(x_n),    f_t(x) = f0(x) - sum_nc A_t[n, c] K[n, c, x, d],

so that all there is to know of it are the *coefficients* A_t [n, c]. Every function here returns them, and
``emulated_logits`` makes logits of any texts from them and a kernel [n, c, m, d].

The losses are means over the training set, L = 1/n sum_i l_i:

* ``squared``: l = 1/2 sum_c (f_c - y_c)^2, with targets -1, +1 for one logit and one-hot for several;
* ``cross-entropy``: l = - log softmax(f)_y, and for one logit the logistic loss log(1 + exp(-y f)) with y =
  -1, +1.

With the squared loss A_t has a closed form, from one eigendecomposition of K / n = U diag(lambda) U^T.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from lmntk.errors import UserError
from lmntk.solvers.chi import output_derivative
from lmntk.solvers.inputs import (
    Array,
    Labels,
    as_kernel,
    as_logits,
    as_numbers,
    as_train_kernel,
    encode_labels,
    flatten,
    symmetric_matrix,
    target_matrix,
)
from lmntk.solvers.settings import check_rates, check_setting, check_settings, check_texts

Loss = Literal["squared", "cross-entropy"]
Decay = Literal["constant", "linear"]
CLIP_FLOOR = 1e-6  # torch.nn.utils.clip_grad_norm_ adds it to the norm that it divides by


def learning_rates(rate: float, steps: int, decay: Decay = "constant") -> Array:
    """Return the rate of each step [steps].

    ``linear`` is rate (1 - s / steps), s = 0, 1, ..., transformers' without a warm-up.
    """
    check_settings({"rate": rate, "steps": steps})
    if decay not in ("constant", "linear"):
        raise UserError(f"decay: {decay!r} is not one of constant, linear")
    if decay == "constant":
        return np.full(steps, float(rate))
    return rate * (1.0 - np.arange(steps) / max(steps, 1))


def emulated_logits(coefficients: Array, kernel: Array, f0: Array) -> Array:
    """Return f(x_m) = f0(x_m) - sum_nc A[n, c] K[n, c, m, d], shape [..., m, d].

    Args:
        coefficients: A [..., n, c], with any axes before, such as steps.
        kernel: K [n, c, m, d], of training texts against any others; for sign descent ``asigngd`` with the
            sign on the training side.
        f0: pre-trained logits [m, d] of the others.

    Cost: 2 n c m d operations for each A.
    """
    kernel = as_kernel(kernel, "the kernel")
    n, c, m, d = kernel.shape
    flat = as_numbers(coefficients, "the coefficients")  # those of a descent without bound are not finite
    if flat.shape[-2:] != (n, c):
        raise UserError(f"the coefficients have shape {flat.shape}, and the kernel asks for [..., {n}, {c}]")
    flat = flat.reshape(*flat.shape[:-2], n * c)
    with np.errstate(invalid="ignore", over="ignore"):
        return as_logits(f0, (m, d), "f0") - (flat @ flatten(kernel)).reshape(*flat.shape[:-1], m, d)


class SquaredLossTraining:
    """Training of the linearized model with the squared loss, in closed form.

    Args:
        kernel: the sgd kernel of the training texts [n, c, n, c].
        targets: y [n, c].
        f0: pre-trained logits [n, c].

    Attributes:
        eigenvalues: lambda [n c] of K / n, ascending.
        vectors: U [n c, n c], columns.
        residual: U^T (f0 - y) [n c].

    Cost: one eigendecomposition, about 10 (n c)^3 operations; then (n c)^2 for each time.

    Raises:
        UserError: a kernel that is not symmetric, or shapes that do not fit.
    """

    def __init__(self, kernel: Array, targets: Array, f0: Array) -> None:
        checked = as_train_kernel(kernel)
        self.shape = (checked.shape[0], checked.shape[1])
        off = as_logits(f0, self.shape, "f0") - as_logits(targets, self.shape, "the targets")
        self.eigenvalues, self.vectors = np.linalg.eigh(
            symmetric_matrix(checked, "the emulator") / self.shape[0]
        )
        self.residual = self.vectors.T @ off.ravel()

    @classmethod
    def of_labels(cls, kernel: Array, labels: Sequence[int], f0: Array) -> SquaredLossTraining:
        """Return the training on labels: targets -1, +1 for one logit, one-hot for several."""
        outputs = as_train_kernel(kernel).shape[1]
        return cls(kernel, target_matrix(encode_labels(labels, outputs, what="emulated"), outputs), f0)

    def flow(self, time: float) -> Array:
        """Return the coefficients A [n, c] of gradient flow at a time.

        A = U phi U^T (f0 - y) / n with phi = (1 - exp(-t lambda)) / lambda, and phi = t where lambda is zero.
        On the training texts f_t = y + exp(-t K / n) (f0 - y); t = inf is the interpolation, along
        eigenvectors above the rounding error of the largest.
        """
        if not time >= 0:
            raise UserError(f"time: {time} is before the start; give 0 or more, or inf")
        values = self.eigenvalues
        floor = len(values) * np.finfo(np.float64).eps * float(np.abs(values).max())
        seen = values > floor
        safe = np.where(seen, values, 1.0)
        phi = np.where(seen, -np.expm1(-time * safe) / safe, 0.0 if np.isinf(time) else time)
        return self._coefficients(phi)

    def descent(self, rates: Sequence[float] | Array) -> Array:
        """Return the exact coefficients A [n, c] after full-batch gradient descent, one rate a step.

        A = U phi U^T (f0 - y) / n with phi = sum_s eta_s prod_{r < s} (1 - eta_r lambda), which for one rate
        is (1 - (1 - eta lambda)^s) / lambda. On the training texts the residual shrinks by prod_s (1 - eta_s
        lambda).

        Cost: n c operations a step, and (n c)^2 in the end. A rate that is too large gives what descent
        would: numbers without bound.
        """
        return np.asarray(self.descent_at(rates, [len(rates)])[0])

    def descent_at(self, rates: Sequence[float] | Array, steps: Sequence[int]) -> Array:
        """Return the coefficients A [steps, n, c] after each of the given numbers of steps."""
        check_rates(rates)
        wanted = _checked_steps(steps, len(rates))
        phi, left = np.zeros_like(self.eigenvalues), np.ones_like(self.eigenvalues)
        by_step = {0: phi}
        with np.errstate(over="ignore", invalid="ignore"):
            for step, rate in enumerate(rates, 1):
                phi = phi + rate * left
                left = left * (1.0 - rate * self.eigenvalues)
                if step in wanted:
                    by_step[step] = phi
            return np.stack([self._coefficients(by_step[step]) for step in steps])

    def _coefficients(self, phi: Array) -> Array:
        return np.asarray((self.vectors @ (phi * self.residual)).reshape(self.shape) / self.shape[0])


def descend(
    kernel: Array,
    labels: Sequence[int],
    f0: Array,
    rates: Sequence[float] | Array,
    *,
    loss: Loss = "cross-entropy",
    steps: Sequence[int] | None = None,
    batches: Sequence[Sequence[int]] | None = None,
    clip: float | None = None,
) -> Array:
    """Return the coefficients A [steps, n, c] of gradient descent on the linearized model, for any loss.

        A += eta_s / |B| chi_B,    chi = d loss / d f at f = f0 - K A

    B are all training texts, or the step's minibatch.

    Args:
        kernel: the sgd kernel of the training texts [n, c, n, c].
        labels: class numbers [n].
        f0: pre-trained logits [n, c].
        rates: the learning rate of each step; see ``learning_rates``.
        loss: ``cross-entropy`` or ``squared``.
        steps: after how many steps to look; by default after the last.
        batches: the training texts' numbers that each step sees, in the order of a real training; by default
            all, every step.
        clip: the largest norm of a step's gradient, as ``clip_grad_norm_`` has it; the norm is sqrt(a K a),
            a = chi_B / |B|.

    Cost: 2 (n c)^2 operations a step, with ``clip`` or without (the norm is read off how the logits move); no
    network.
    """
    kernel = as_train_kernel(kernel)
    n, c = kernel.shape[:2]
    matrix, start = flatten(kernel), as_logits(f0, (n, c), "f0")
    indices = _labels(labels, n, c)
    check_rates(rates)
    check_setting("clip", clip)
    if batches is not None and len(batches) < len(rates):
        raise UserError(f"{len(batches)} batches for {len(rates)} steps; give one for each step")
    for seen in batches or ():
        check_texts(seen, n, "batches")
    steps = [len(rates)] if steps is None else steps
    wanted = _checked_steps(steps, len(rates))
    coefficients, logits = np.zeros((n, c)), start.copy()
    by_step = {0: coefficients}
    with np.errstate(over="ignore", invalid="ignore"):
        for step, rate in enumerate(rates, 1):
            batch = np.arange(n) if batches is None else np.asarray(batches[step - 1], dtype=np.int64)
            slope = np.zeros((n, c))
            np.add.at(slope, batch, output_derivative(logits[batch], indices[batch], loss) / len(batch))
            change = slope.ravel() @ matrix  # (n c), how the logits move for a unit rate, downwards
            if clip is not None:
                norm = float(np.sqrt(max(0.0, float(change @ slope.ravel()))))
                shrink = min(1.0, clip / (norm + CLIP_FLOOR))
                slope, change = shrink * slope, shrink * change
            coefficients = coefficients + rate * slope
            logits = logits - rate * change.reshape(n, c)
            if step in wanted:
                by_step[step] = coefficients
    return np.stack([by_step[step] for step in steps])


def sign_descend(
    kernel: Array,
    labels: Sequence[int],
    f0: Array,
    rates: Sequence[float] | Array,
    order: Sequence[int],
    *,
    loss: Loss = "cross-entropy",
    steps: Sequence[int] | None = None,
) -> Array:
    """Return the coefficients A [steps, n, 1] of sign descent on the linearized model of one logit.

        df(x) = - eta sign(chi_i) <sign g(x_i), g(x)>,   so   A[i] += eta sign(chi_i),   one text i a step

    Args:
        kernel: ``asigngd`` of the training texts [n, 1, n, 1], with the sign on the first side, as
            ``Kernel.values`` has it.
        labels: class numbers [n].
        f0: pre-trained logits [n, 1].
        rates: the learning rate of each step.
        order: the training text that each step sees.
        loss: ``cross-entropy`` or ``squared``.
        steps: after how many steps to look; by default after the last.

    Raises:
        UserError: several logits: the sign of a sum of gradients is no sum of signs, so there is no kernel of
            it.
    """
    kernel = as_train_kernel(kernel)
    n, c = kernel.shape[:2]
    if c != 1:
        raise UserError(
            f"sign descent: its kernel describes one logit and one text a step, not {c} logits; "
            "fold two classes into one"
        )
    if len(order) < len(rates):
        raise UserError(f"{len(order)} texts for {len(rates)} steps; give one for each step")
    matrix, logits = flatten(kernel), as_logits(f0, (n, 1), "f0").copy()
    indices = _labels(labels, n, 1)
    check_rates(rates)
    if len(order):
        check_texts(order, n, "order")
    steps = [len(rates)] if steps is None else steps
    wanted = _checked_steps(steps, len(rates))
    coefficients = np.zeros((n, 1))
    by_step = {0: coefficients.copy()}
    for step, rate in enumerate(rates, 1):
        i = order[step - 1]
        move = rate * np.sign(output_derivative(logits[i : i + 1], indices[i : i + 1], loss)[0, 0])
        coefficients[i] += move
        logits = logits - move * matrix[i][:, None]
        if step in wanted:
            by_step[step] = coefficients.copy()
    return np.stack([by_step[step] for step in steps])


def emulation_error(real: Array, emulated: Array) -> float:
    """Return the largest |real - emulated| of all logits [..., m, c], in units of the real logits' range.

    The range is the largest real logit less the smallest. nan where the real logits are all the same; inf
    where the emulated ones are not finite.
    """
    real, emulated = np.asarray(real, dtype=np.float64), np.asarray(emulated, dtype=np.float64)
    spread = float(real.max() - real.min())
    if not np.isfinite(emulated).all():
        return float("inf")
    return float(np.abs(real - emulated).max()) / spread if spread > 0 else float("nan")


def logit_error(before: Array, real: Array, predicted: Array) -> float:
    """Return ||real - predicted||_F / ||real - before||_F over all texts and logits [n, c].

    It is the part of the logits' move that a prediction, such as the linearization's, misses. 0: the
    prediction is exact. 1: it is no better than to say that nothing moved. nan where nothing did.
    """
    moved = float(np.linalg.norm(real - before))
    return float(np.linalg.norm(real - predicted)) / moved if moved > 0 else float("nan")


def _labels(labels: Sequence[int], examples: int, outputs: int) -> Labels:
    indices = encode_labels(labels, outputs, what="emulated")
    if len(indices) != examples:
        raise UserError(f"{len(indices)} labels for a kernel of {examples} texts; give one for each")
    return indices


def _checked_steps(steps: Sequence[int], taken: int) -> set[int]:
    wrong = [step for step in steps if not 0 <= step <= taken or step != int(step)]
    if wrong:
        raise UserError(f"steps: {wrong[0]} is not among 0 to {taken}, the steps that have a learning rate")
    return set(steps)
