"""Before anything long starts, a check: every trainable parameter's gradient is caught, once, and right.

One example's factors are compared with plain autograd, parameter by parameter; then two examples run as a batch, to see whether
the model keeps them apart. What no rule covers falls to plain autograd, at one example a time, and is named.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lmntk.models.state import Batch, frozen
from lmntk.tangents.capture import BatchAxisLostError, capture
from lmntk.tangents.factors import Tangents

TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-3}  # of a parameter's largest gradient entry


@dataclass(frozen=True)
class Coverage:
    """How a model's gradients are to be captured.

    ``batched`` is False when examples must go one at a time; ``fallback`` names the parameters that no rule covers;
    ``unused`` those that the logits do not depend on; ``worst`` is the largest relative error against autograd.
    """

    batched: bool
    fallback: tuple[str, ...]
    unused: tuple[str, ...]
    worst: float
    reason: str = ""

    def describe(self) -> str:
        """Returns one line for the report."""
        line = f"gradients agree with autograd to {self.worst:.1e}"
        if self.unused:
            line += f"; {len(self.unused)} parameters have no influence"
        if self.fallback:
            line += f"; {len(self.fallback)} by plain autograd ({', '.join(self.fallback[:3])}{', ...' if len(self.fallback) > 3 else ''})"
        return line + (f"; one text at a time: {self.reason}" if not self.batched else "")


def autograd_gradients(model: nn.Module, batch: Batch, trainable: Mapping[str, nn.Parameter]) -> dict[str, Tensor | None]:
    """Returns the Jacobian (c, *shape) of one example by plain autograd; None for parameters that take no part in its logits."""
    parameters = list(trainable.values())
    with frozen(model, parameters), torch.enable_grad():
        rows = [torch.autograd.grad(logit, parameters, retain_graph=True, allow_unused=True) for logit in model(batch)[0]]
    found: dict[str, Tensor | None] = {}
    for index, (name, parameter) in enumerate(trainable.items()):
        parts = [row[index] for row in rows]
        reached = any(part is not None for part in parts)
        found[name] = torch.stack([torch.zeros_like(parameter) if part is None else part for part in parts]) if reached else None
    return found


def _relative_error(found: Tensor, expected: Tensor) -> float:
    scale = expected.abs().max()
    return float((found - expected).abs().max() / scale) if scale > 0 else float(found.abs().max())


def _errors(tangents: Tangents, index: int, expected: Mapping[str, Tensor | None], floor: float) -> dict[str, float]:
    """Returns each parameter's error; a gradient below ``floor`` everywhere is rounding noise and counts as zero.

    What takes part in the logits and is not caught has an infinite error, even where its gradient happens to vanish.
    """
    errors = {}
    for name, reference in expected.items():
        if reference is None:  # a module that was never called has no factors
            errors[name] = 0.0
        elif name not in tangents.factors:
            errors[name] = float("inf")
        else:
            found = tangents.factors[name].gradients(reference.shape[1:])[:, index]
            noise = max(float(reference.abs().max()), float(found.abs().max())) <= floor
            errors[name] = 0.0 if noise else _relative_error(found, reference)
    return errors


def _example(batch: Batch, index: int) -> dict[str, Tensor]:
    return {name: tensor[index : index + 1] for name, tensor in batch.items()}


def check_coverage(model: nn.Module, batch: Batch, trainable: Mapping[str, nn.Parameter]) -> Coverage:
    """Returns how to capture this model's gradients, after comparing up to two examples with plain autograd.

    Cost: three forward and 3 c backward passes where all is well, else five. Memory: the full gradients of two examples.

    Raises:
        RuntimeError: a rule gives a wrong gradient.
    """
    count = next(iter(batch.values())).shape[0]
    dtype = next(iter(trainable.values())).dtype
    tolerance = TOLERANCE.get(dtype, 2e-2)
    expected: dict[int, dict[str, Tensor | None]] = {}  # two, for one example may hide what another shows
    floors: dict[int, float] = {}
    for index in sorted({0, count - 1}):
        expected[index] = autograd_gradients(model, _example(batch, index), trainable)
        gradients = [gradient for gradient in expected[index].values() if gradient is not None]
        largest = max((float(gradient.abs().max()) for gradient in gradients), default=0.0)
        floors[index] = 1e3 * torch.finfo(dtype).eps * largest
    unused = tuple(name for name in trainable if not any((g := each[name]) is not None and g.any() for each in expected.values()))

    together, lost = _captured_together(model, batch, trainable)
    if together is not None:
        errors = _largest(_errors(together, index, reference, floors[index]) for index, reference in expected.items())
        if all(error <= tolerance for error in errors.values()):
            return Coverage(True, (), unused, max(errors.values()))
    # something is wrong: with the rules, or with the batch?
    apart = [name for name, error in errors.items() if not error <= tolerance] if together is not None else []
    singles = ((capture(model, _example(batch, index), trainable), index) for index in expected)
    errors = _largest(_errors(tangents, 0, expected[index], floors[index]) for tangents, index in singles)
    fallback = tuple(name for name, error in errors.items() if error == float("inf"))
    wrong = {name: error for name, error in errors.items() if not error <= tolerance and error != float("inf")}
    if wrong:
        name = max(wrong, key=lambda key: wrong[key])
        raise RuntimeError(
            f"parameter {name!r}: its rule's gradient differs from autograd's by {wrong[name]:.1e}; register a right rule for its module"
        )
    worst = max((error for error in errors.values() if error < float("inf")), default=0.0)
    if fallback:
        return Coverage(False, fallback, unused, worst, "plain autograd has no batch")
    if lost:
        return Coverage(False, (), unused, worst, f"the batch axis is lost ({lost})")
    return Coverage(False, (), unused, worst, f"{len(apart)} parameters' gradients lose the batch axis ({apart[0]})")


def _captured_together(model: nn.Module, batch: Batch, trainable: Mapping[str, nn.Parameter]) -> tuple[Tangents | None, str]:
    """Returns the tangents of the whole batch, or None and why there are none."""
    try:
        return capture(model, batch, trainable), ""
    except (BatchAxisLostError, RuntimeError) as lost:
        return None, str(lost)


def _largest(several: Iterable[dict[str, float]]) -> dict[str, float]:
    """Returns each parameter's largest error; NaN counts as larger than anything."""
    largest: dict[str, float] = {}
    for errors in several:
        for name, error in errors.items():
            before = largest.get(name, 0.0)
            largest[name] = before if error <= before or math.isnan(before) else error
    return largest
