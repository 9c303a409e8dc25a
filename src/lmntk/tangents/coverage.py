"""Before anything long starts, a check: every trainable parameter's gradient is caught, once, and right.

One example's factors are compared with plain autograd, parameter by parameter; then two examples run as a batch, to see whether
the model keeps them apart. What no rule covers falls to plain autograd, at one example a time, and is named.
"""

from __future__ import annotations

from collections.abc import Mapping
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


def autograd_gradients(model: nn.Module, batch: Batch, trainable: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Returns the Jacobian (c, *shape) of one example by plain autograd; zero where the logits do not depend."""
    parameters = list(trainable.values())
    rows: list[list[Tensor]] = []
    with frozen(model, parameters), torch.enable_grad():
        logits = model(batch)
        for logit in range(logits.shape[1]):
            found = torch.autograd.grad(logits[0, logit], parameters, retain_graph=True, allow_unused=True)
            rows.append([torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)])
    return {name: torch.stack([row[index] for row in rows]) for index, name in enumerate(trainable)}


def _relative_error(found: Tensor, expected: Tensor) -> float:
    scale = expected.abs().max()
    return float((found - expected).abs().max() / scale) if scale > 0 else float(found.abs().max())


def _errors(tangents: Tangents, index: int, expected: dict[str, Tensor], floor: float) -> dict[str, float]:
    """Returns each parameter's error; a gradient below ``floor`` everywhere is rounding noise and counts as zero."""
    errors = {}
    for name, reference in expected.items():
        noise = float(reference.abs().max()) <= floor
        if name in tangents.factors:
            found = tangents.factors[name].gradients(reference.shape[1:])[:, index]
            errors[name] = 0.0 if noise and float(found.abs().max()) <= floor else _relative_error(found, reference)
        else:
            errors[name] = 0.0 if noise else float("inf")
    return errors


def _example(batch: Batch, index: int) -> dict[str, Tensor]:
    return {name: tensor[index : index + 1] for name, tensor in batch.items()}


def check_coverage(model: nn.Module, batch: Batch, trainable: Mapping[str, nn.Parameter]) -> Coverage:
    """Returns how to capture this model's gradients, after comparing up to two examples with plain autograd.

    Cost: three forward and 3 c backward passes. Memory: the full gradients of two examples.

    Raises:
        RuntimeError: a rule gives a wrong gradient, or the logits of an example depend on its neighbours.
    """
    first = _example(batch, 0)
    expected = autograd_gradients(model, first, trainable)
    dtype = next(iter(expected.values())).dtype
    tolerance = TOLERANCE.get(dtype, 2e-2)
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    floor = 1e3 * torch.finfo(dtype).eps * largest
    errors = _errors(capture(model, first, trainable), 0, expected, floor)
    fallback = tuple(name for name, error in errors.items() if error == float("inf"))
    wrong = {name: error for name, error in errors.items() if tolerance < error < float("inf")}
    if wrong:
        name = max(wrong, key=lambda key: wrong[key])
        raise RuntimeError(
            f"parameter {name!r}: its rule's gradient differs from autograd's by {wrong[name]:.1e}; register a right rule for its module"
        )
    unused = tuple(name for name, gradient in expected.items() if not gradient.any())
    worst = max((error for error in errors.values() if error < float("inf")), default=0.0)
    if fallback:
        return Coverage(False, fallback, unused, worst, "plain autograd has no batch")
    count = next(iter(batch.values())).shape[0]
    if count == 1:
        return Coverage(True, (), unused, worst)
    try:
        together = capture(model, batch, trainable)
    except (BatchAxisLostError, RuntimeError) as lost:
        return Coverage(False, (), unused, worst, f"the batch axis is lost ({lost})")
    last = autograd_gradients(model, _example(batch, count - 1), trainable)
    errors = {}
    for index, reference in ((0, expected), (count - 1, last)):
        for name, error in _errors(together, index, reference, floor).items():
            errors[name] = max(error, errors.get(name, 0.0))
    apart = [name for name, error in errors.items() if error > tolerance]
    if apart:
        return Coverage(False, (), unused, worst, f"{len(apart)} parameters' gradients lose the batch axis ({apart[0]})")
    return Coverage(True, (), unused, max(worst, max(errors.values())))
