"""The inputs of solvers, and the checks that turn bad input into one clear sentence."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from lmntk.errors import UserError
from lmntk.kernels.formulas import FORMULAS
from lmntk.solvers.settings import check_setting

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

# Kernels from float32 gradients are good to 3e-7; K and its transpose may differ by the rounding of two
# summation orders.
SYMMETRY_TOLERANCE = 1e-5
# An eigenvalue below -1e-6 trace(K) cannot be the rounding of a PSD kernel made from float32 gradients.
NEGATIVE_TOLERANCE = 1e-6


class KernelWarning(UserWarning):
    """A property of the kernel that the reader must know of: not PSD, rank-deficient, at a pole."""


def warn(message: str) -> None:
    """Emit a KernelWarning that points at the caller's caller."""
    warnings.warn(message, KernelWarning, stacklevel=3)


def as_array(values: Any, name: str) -> npt.NDArray[Any]:
    """Return values as an array of whatever type.

    Raises:
        UserError: no array: lists of unequal lengths, a tensor with a gradient or on a GPU.
    """
    try:
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{name}: not an array of numbers ({' '.join(str(error).split())[:120]})") from error


def as_numbers(values: Any, name: str) -> Array:
    """Return real numbers as float64.

    Raises:
        UserError: no array, or one of anything but real numbers: complex, text, objects, sparse.
    """
    found = as_array(values, name)
    if found.dtype.kind not in "iufb":
        raise UserError(f"{name}: type {found.dtype} does not hold real numbers; pass a float64 array")
    return np.asarray(found, dtype=np.float64)


def check_finite(values: Array, name: str) -> None:
    """Raise UserError that counts the NaN and infinite entries, if there are any."""
    bad = int(values.size - np.count_nonzero(np.isfinite(values)))
    if bad:
        raise UserError(
            f"{name} has {bad} of {values.size} entries that are not finite (NaN or inf); "
            "recompute it in float32 or float64, or leave out the examples whose rows are not finite"
        )


def as_kernel(values: Any, name: str, outputs: int | None = None) -> Array:
    """Return the kernel as a finite float64 array [N, C, M, C].

    A 4-D array is in lmntk's layout already. A 2-D array is in scikit-learn's layout for a precomputed
    kernel, [M, N] (rows: the examples to predict, columns: train), C = 1, and is turned round.

    Raises:
        UserError: other shapes, unequal numbers of logits, or entries that are not finite.
    """
    kernel = as_numbers(values, name)
    if kernel.ndim == 2:
        kernel = np.ascontiguousarray(kernel.T)[:, None, :, None]  # (n, 1, m, 1)
    if kernel.ndim != 4 or kernel.shape[1] != kernel.shape[3]:
        raise UserError(
            f"{name} has shape {np.shape(values)}, which is not a kernel; "
            "pass [N, C, M, C] (train, logit, eval, logit), or [M, N] for one output a text"
        )
    if outputs is not None and kernel.shape[1] != outputs:
        raise UserError(
            f"{name} has {kernel.shape[1]} logits but the train kernel has {outputs}; "
            "compute both with the same prompt"
        )
    if kernel.size == 0:
        raise UserError(f"{name} is empty, shape {kernel.shape}; pass at least one example on both sides")
    check_finite(kernel, name)
    return kernel


def as_train_kernel(values: Any, name: str = "the train kernel") -> Array:
    """`as_kernel` for train against train: [N, C, N, C]."""
    kernel = as_kernel(values, name)
    if kernel.shape[0] != kernel.shape[2]:
        raise UserError(
            f"{name} has {kernel.shape[0]} x {kernel.shape[2]} examples; "
            "it must be train against train, so square"
        )
    return kernel


def flatten(kernel: Array) -> Array:
    """[N, C, M, C] as the matrix [N C, M C]; a view where the memory allows."""
    n, c, m, d = kernel.shape
    return kernel.reshape(n * c, m * d)


def symmetric_matrix(kernel: Array, solver: str) -> Array:
    """Return the flattened train kernel made exactly symmetric: (K + K^T) / 2, [N C, N C].

    Raises:
        UserError: if |K - K^T| exceeds 1e-5 of the largest entry, as for `asigngd`.
    """
    matrix = flatten(kernel)
    largest = float(np.abs(matrix).max())
    skew = float(np.abs(matrix - matrix.T).max())
    if skew > SYMMETRY_TOLERANCE * largest:
        raise UserError(
            f"the train kernel is not symmetric (largest |K - K^T| is {skew / largest:.1e} of the largest "
            f"entry), which {solver} needs; for an asigngd kernel use solver 'asym', otherwise use the sgd "
            "or signgd formula"
        )
    return (matrix + matrix.T) / 2


def check_positive(eigenvalues: Array) -> None:
    """Warn if the smallest eigenvalue is too negative to be rounding (below -1e-6 trace)."""
    lowest, trace = float(eigenvalues.min()), float(eigenvalues.sum())
    if lowest < -NEGATIVE_TOLERANCE * abs(trace):
        warn(
            f"the kernel should be positive semi-definite but its smallest eigenvalue is {lowest:.3g} (trace "
            f"{trace:.3g}); check that train and eval sides hold the same examples in the same order and "
            "that gradients are float32 or better"
        )


def encode_labels(labels: Any, outputs: int, *, what: str = "train") -> Labels:
    """Class indices [N]: 0..C-1, or for C = 1 0 and 1 (where -1, +1 are read as 0, 1).

    Raises:
        UserError: labels that are not whole numbers or lie outside the classes, or, for `what` = "train", a
            single class.
    """
    given = as_array(labels, f"{what} labels")
    classes = max(outputs, 2)
    is_whole = given.dtype.kind in "iufb" and bool(np.all(np.isfinite(given) & (given == np.floor(given))))
    if given.ndim != 1 or not is_whole:
        raise UserError(
            f"{what} labels must be a list of class numbers 0..{classes - 1}; "
            "map label names to numbers first"
        )
    indices = given.astype(np.int64)
    if outputs == 1 and np.any(indices == -1):
        indices = np.where(indices == -1, 0, np.where(indices == 0, -1, indices))
    if indices.size and (indices.min() < 0 or indices.max() >= classes):
        raise UserError(
            f"{what} labels range from {given.min()} to {given.max()} but the kernel has outputs for classes "
            f"0..{classes - 1}; check the label words or the difference output"
        )
    if what == "train" and len(np.unique(indices)) < 2:
        raise UserError(
            f"all {len(indices)} train labels are the same class; "
            "a solver needs examples of at least two classes"
        )
    return indices


def target_matrix(indices: Labels, outputs: int) -> Array:
    """Regression targets [N, C]: -1 / +1 for C = 1, one-hot otherwise."""
    if outputs == 1:
        return np.where(indices == 1, 1.0, -1.0)[:, None]
    return np.eye(outputs, dtype=np.float64)[indices]


def as_logits(f0: Any, shape: tuple[int, int], name: str) -> Array:
    """Pre-trained logits as a finite float64 [M, C] ([M] is read as [M, 1])."""
    logits = as_numbers(f0, name)
    if logits.ndim == 1 and shape[1] == 1:
        logits = logits[:, None]
    if logits.shape != shape:
        raise UserError(f"{name} has shape {logits.shape} but the kernel asks for {shape} (examples, logits)")
    check_finite(logits, name)
    return logits


def offset(f0: Any, scale: float, shape: tuple[int, int], name: str = "f0") -> Array:
    """f0 / s, [M, C]; zeros for s = inf.

    Raises:
        UserError: s not positive, or s finite without f0.
    """
    check_setting("f0_scale", scale)
    if np.isinf(scale):
        return np.zeros(shape)
    if f0 is None:
        raise UserError(
            f"f0_scale is {scale:g} but no pre-trained logits {name} were given; "
            "pass them, or use f0_scale=inf"
        )
    return as_logits(f0, shape, name) / scale


@dataclass(frozen=True, eq=False)
class SolverInputs:
    """All that a solver needs for one split: kernels, labels and pre-trained logits.

    Shapes: train [N, C, N, C]; evals[name] and evals_flipped[name] [N, C, M, C]; labels [N] (class numbers);
    f0["train"] [N, C] and f0[name] [M, C]. For asigngd `train` and `evals` have the sign on the train side
    and `evals_flipped` on the eval side; the flipped train kernel is the transpose and is not asked for.
    Arrays are converted and checked once, here. Of a kernel that C classes share, ``classes`` is C: train is [N, 1, N, 1] and evals
    are [N, 1, M, 1]; f0 and decisions are of all classes. ``centred`` says that the kernel is one of logits less their mean, whose rank
    is N (C - 1) at most.
    """

    train: Array
    evals: Mapping[str, Array]
    labels: Labels
    formula: str = "sgd"
    evals_flipped: Mapping[str, Array] = field(default_factory=dict)
    f0: Mapping[str, Array] = field(default_factory=dict)
    classes: int | None = None
    centred: bool = False

    def __post_init__(self) -> None:
        if self.formula not in FORMULAS:
            raise UserError(f"unknown kernel formula {self.formula!r}; choose one of {', '.join(FORMULAS)}")
        train = as_train_kernel(self.train)
        n, c = len(train), self.classes or train.shape[1]
        labels = encode_labels(self.labels, c)
        if len(labels) != n:
            raise UserError(
                f"{len(labels)} train labels for a kernel of {n} train examples; pass one label an example"
            )
        evals = {name: self._eval_kernel(value, name, train) for name, value in self.evals.items()}
        flipped = {
            name: self._eval_kernel(value, f"{name} (flipped)", train)
            for name, value in self.evals_flipped.items()
        }
        for name, value in flipped.items():
            if name not in evals or value.shape != evals[name].shape:
                raise UserError(
                    f"the flipped kernel {name!r} has no counterpart of its shape in evals; "
                    "pass both orientations"
                )
        sizes = {"train": n} | {name: value.shape[2] for name, value in evals.items()}
        logits = {
            name: as_logits(self.f0[name], (size, c), f"f0 of {name}")
            for name, size in sizes.items()
            if name in self.f0
        }
        if logits and len(logits) < len(sizes):
            missing = ", ".join(sorted(set(sizes) - set(logits)))
            raise UserError(
                f"pre-trained logits f0 are missing for {missing}; "
                "pass them for train and every eval set, or for none"
            )
        checked = {"train": train, "labels": labels, "evals": evals, "evals_flipped": flipped, "f0": logits}
        for attribute, converted in checked.items():
            object.__setattr__(self, attribute, converted)

    @staticmethod
    def _eval_kernel(value: Any, name: str, train: Array) -> Array:
        kernel = as_kernel(value, f"the kernel {name!r}", train.shape[1])
        if kernel.shape[0] != train.shape[0]:
            raise UserError(
                f"the kernel {name!r} has {kernel.shape[0]} train examples but the train kernel has "
                f"{train.shape[0]}"
            )
        return kernel

    @property
    def targets(self) -> Array:
        """Regression targets [N, C]."""
        return target_matrix(self.labels, self.outputs)

    @property
    def outputs(self) -> int:
        """The number of decisions on a text: of a kernel that classes share one a class, else one a logit."""
        return self.classes or self.train.shape[1]
