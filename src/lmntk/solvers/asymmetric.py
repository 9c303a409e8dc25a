"""Least-squares support vectors for asymmetric kernels (A-SignGD): every gamma from one decomposition."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np

from lmntk.errors import UserError
from lmntk.solvers.base import KernelClassifier
from lmntk.solvers.inputs import Array, Labels, warn

F0Fit = Literal["residual", "labels", "reference"]


class AsymmetricSolution(NamedTuple):
    """alpha, beta [N], and how many directions a pole made singular and least squares left out."""

    alpha: Array
    beta: Array
    dropped: int


class AsymmetricPath:
    """The system [[I/gamma, H], [H^T, I/gamma]] [alpha; beta] = [b; b], solved for every gamma.

    H is y_i K0[i, j] y_j / ||K0||_op.

    K0 [N, N] is <sign g(x_i), g(x_j)>; y [N] are labels -1 / +1. **K0 is first divided by its operator norm**
    (`scale`), so gamma has no unit and multiplying the kernel changes no prediction; gamma here is gamma /
    scale on the raw kernel. For a symmetric K0 alpha = beta and this is ridge with lambda = 1 / gamma.

    With H = U diag(sigma) V^T, a = U^T alpha, e = V^T beta, p = U^T b, q = V^T b every direction is a 2 x 2
    system: a + e = (p + q) / (1/gamma + sigma), a - e = (p - q) / (1/gamma - sigma). One SVD, O(N^3); then
    O(N^2) a setting.

    The matrix has the eigenvalues 1/gamma +- sigma_i, so gamma = 1 / sigma_i is a **pole** (`poles`):
    singular there, and as ill-conditioned as you like nearby. As ||H||_op = 1, no gamma below 1 has a pole
    and **gamma = 1 always sits on the first one**. At a pole (1/gamma - sigma at most 2 N eps (1/gamma + 1))
    the answer is the minimum-norm least-squares one, a = e there.

    Source: He et al. 2022, learning with asymmetric kernels (AsK-LS), without bias.
    """

    def __init__(self, train: Array, labels: Array) -> None:
        weighted = labels[:, None] * train * labels
        left, singular, right = np.linalg.svd(weighted)
        # For labels -1 / +1 the singular values of H are those of K0.
        self.scale = float(singular[0]) if np.all(np.abs(labels) == 1) else float(np.linalg.norm(train, 2))
        if self.scale == 0.0:
            raise UserError(
                "the train kernel is zero everywhere; check that any trainable parameter is left in the "
                "kernel"
            )
        self.labels = labels
        self.singular_values = singular / self.scale
        self._left, self._right = left, right.T

    @property
    def poles(self) -> Array:
        """The gammas 1 / sigma_i at which the system is singular, ascending; inf for a zero sigma."""
        with np.errstate(divide="ignore"):
            return np.asarray(1.0 / self.singular_values)

    def distance_to_pole(self, gamma: float) -> float:
        """Return min_i |gamma sigma_i - 1|: 0 at a pole.

        It is about the inverse of the factor by which a pole magnifies asymmetry and rounding.
        """
        return float(np.abs(gamma * self.singular_values - 1.0).min())

    def solve(self, gamma: float, right_hand_side: Array | None = None) -> AsymmetricSolution:
        """Return the coefficients for the right-hand side b [N] (by default ones) in both halves."""
        if not (np.isfinite(gamma) and gamma > 0):
            raise UserError(f"gamma is {gamma}; it must be a positive finite number")
        b = np.ones(len(self.labels)) if right_hand_side is None else right_hand_side
        p, q = self._left.T @ b, self._right.T @ b
        gap = 1.0 / gamma - self.singular_values
        cutoff = 2 * len(b) * np.finfo(np.float64).eps * (1.0 / gamma + self.singular_values[0])
        kept = np.abs(gap) > cutoff
        total = (p + q) / (1.0 / gamma + self.singular_values)
        difference = np.divide(p - q, gap, out=np.zeros_like(gap), where=kept)
        return AsymmetricSolution(
            self._left @ (total + difference) / 2,
            self._right @ (total - difference) / 2,
            int(np.count_nonzero(~kept)),
        )


class AsymmetricCoefficients(NamedTuple):
    """The coefficients of `values` and `values_flipped`, [N, C] each, and the distance to a pole.

    The distance is the smallest over all classes.
    """

    values: Array
    flipped: Array
    dropped: int
    distance_to_pole: float


class AsymmetricSystems:
    """The C one-vs-rest systems of a train kernel [N, C, N, C].

    Class c uses the slice K[:, c, :, c] and labels +1 for c, -1 for the rest.

    C = 1 is one system with labels -1 / +1. Cost: C singular value decompositions of N x N.
    """

    def __init__(self, kernel: Array, indices: Labels, f0_fit: F0Fit = "residual") -> None:
        if f0_fit not in ("residual", "labels", "reference"):
            raise UserError(f"unknown f0_fit {f0_fit!r}; choose residual, labels or reference")
        self.f0_fit = f0_fit
        outputs = kernel.shape[1]
        self._slices = [np.ascontiguousarray(kernel[:, c, :, c]) for c in range(outputs)]
        positive = [1] if outputs == 1 else range(outputs)
        self.signs = np.stack([np.where(indices == c, 1.0, -1.0) for c in positive], axis=1)  # (n, c)
        self.paths = [AsymmetricPath(values, self.signs[:, c]) for c, values in enumerate(self._slices)]
        # the one in `paths`; only "reference" ever changes it
        self._offset: Array = np.zeros(self.signs.shape)

    def coefficients(self, gamma: float, offset: Array) -> AsymmetricCoefficients:
        """Solve all classes for one gamma, given f0 / s = `offset` [N, C]."""
        if self.f0_fit == "reference" and not np.array_equal(offset, self._offset):
            replaced = self.signs - offset  # (n, c)
            self.paths = [AsymmetricPath(values, replaced[:, c]) for c, values in enumerate(self._slices)]
            self._offset = offset
        b = 1.0 - self.signs * offset if self.f0_fit == "residual" else np.ones(offset.shape)  # (n, c)
        solutions = [path.solve(gamma, b[:, c]) for c, path in enumerate(self.paths)]
        weights = np.stack([path.labels / path.scale for path in self.paths], axis=1)  # (n, c)
        return AsymmetricCoefficients(
            weights * np.stack([solution.alpha for solution in solutions], axis=1),
            weights * np.stack([solution.beta for solution in solutions], axis=1),
            sum(solution.dropped for solution in solutions),
            min(path.distance_to_pole(gamma) for path in self.paths),
        )


def slice_products(kernel: Array, coefficients: Array) -> Array:
    """Return sum_n coefficients[n, c] K[n, c, m, c], [M, C]."""
    return np.asarray(np.einsum("ncmc,nc->mc", kernel, coefficients))


class AsymmetricSVM(KernelClassifier):
    """The solver `asym` for A-SignGD kernels: m omega + (1 - m) nu + f0 / s.

    omega(x) = sum_i alpha_i y_i <sign g(x_i), g(x)> (from `values`), nu(x) = sum_i beta_i y_i <g(x_i), sign
    g(x)> (from `values_flipped`), alpha and beta from AsymmetricPath, to which see for gamma, the scaling by
    ||K||_op and the poles. C >= 2 (two unfolded outputs too): one-vs-rest, each class with its own slice K[:,
    c, :, c]; the argmax wins.

    How f0 enters (`f0_fit`; all agree for f0_scale = inf):
    * "residual" (default) [derived]: the offset is part of the decision in He et al.'s constraints, y_i (w .
      phi(x_i) + f0_i / s) = 1 - e_i, whose dual has the right-hand side 1 - y_i f0_i / s: the squared fit to
      y - f0 / s that every other solver here does.
    * "labels": fitted as if there were no f0 (right-hand side 1); f0 / s is added when predicting only.
    * "reference": as LM-Kernel-FT: y - f0 / s takes the place of y in H and in omega and nu. As gamma grows
      it fits 1 / (y - f0 / s), not y - f0 / s; offered to reproduce, one SVD for every s.

    Shapes: fit(values [N, C, N, C], labels [N], f0 [N, C]); predict(values, f0 [M, C],
    flipped=values_flipped), both [N, C, M, C]; 4-D, because a 2-D layout would leave the orientation open.

    Attributes: dual_coef_, dual_coef_flipped_ [N, C], poles_ (list, one array a system), distance_to_pole_,
    dropped_, classes_.

    Raises:
        UserError: as for the other solvers, or a missing flipped kernel.
    """

    def __init__(
        self,
        gamma: float = 0.1,
        mixture: float = 0.5,
        f0_scale: float = np.inf,
        *,
        f0_fit: F0Fit = "residual",
    ) -> None:
        self.gamma = gamma
        self.mixture = mixture
        self.f0_scale = f0_scale
        self.f0_fit = f0_fit

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.pairwise = False  # predict needs two kernels, which no cross-validator can slice
        return tags

    def fit(self, kernel: Any, labels: Any, f0: Any = None) -> AsymmetricSVM:
        """Solve the C systems; warns if gamma lies on a pole."""
        if np.ndim(kernel) != 4:
            raise UserError(
                f"asym needs kernels [N, C, M, C], not shape {np.shape(kernel)}: their orientation matters"
            )
        data = self._read_train(kernel, labels, f0)
        systems = AsymmetricSystems(data.kernel, data.indices, self.f0_fit)
        self.dual_coef_, self.dual_coef_flipped_, self.dropped_, self.distance_to_pole_ = (
            systems.coefficients(self.gamma, data.offset)
        )
        self.poles_ = [path.poles for path in systems.paths]
        if self.dropped_:
            warn(
                f"gamma {self.gamma:g} is a pole of the asymmetric system (1/gamma equals a singular value "
                f"of the scaled kernel); {self.dropped_} direction(s) solved by minimum-norm least squares; "
                "choose another gamma to avoid it"
            )
        return self

    def decision_function(self, kernel: Any, f0: Any = None, *, flipped: Any = None) -> Array:
        """Return decisions [M, C] from both orientations of the eval kernel.

        `flipped` may be left out when mixture = 1.
        """
        values = self._read_eval(kernel)
        omega = slice_products(values, self.dual_coef_)
        decision = self.mixture * omega
        if self.mixture != 1:
            if flipped is None:
                raise UserError(
                    "asym with mixture below 1 needs the flipped kernel <g(x_i), sign g(x)>; "
                    "pass flipped=values_flipped, or use mixture=1"
                )
            other = self._read_eval(flipped, "the flipped kernel")
            if other.shape != values.shape:
                raise UserError(
                    f"the flipped kernel has shape {other.shape} but the kernel {values.shape}; "
                    "pass the same examples"
                )
            decision = decision + (1 - self.mixture) * slice_products(other, self.dual_coef_flipped_)
        return decision + self._offset(f0, decision.shape)

    def predict(self, kernel: Any, f0: Any = None, *, flipped: Any = None) -> Any:
        """Predicted labels [M], out of `classes_`."""
        return self._to_labels(self.decision_function(kernel, f0, flipped=flipped))

    def score(self, kernel: Any, labels: Any, f0: Any = None, *, flipped: Any = None) -> float:
        """Accuracy."""
        return float(np.mean(self.predict(kernel, f0, flipped=flipped) == np.asarray(labels)))
