"""Before anything long starts, a check: every trainable parameter's gradient is caught, once, and right.

One example's factors are compared with plain autograd, parameter by parameter; then two examples run as a batch, to see whether
the model keeps them apart. What no rule covers, or a rule gets wrong, falls to plain autograd for that parameter alone, and
is named: at its module alone if that can be cut into examples, else through the whole network, one text at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lmntk.errors import ModelError
from lmntk.models.state import Batch, frozen
from lmntk.tangents.capture import RuleFailedError, capture, without_rule
from lmntk.tangents.factors import Tangents

# of a parameter's largest gradient entry; float64 models of the Llama kind compute their norms in float32
TOLERANCE = {torch.float64: 1e-5, torch.float32: 2e-3}


@dataclass(frozen=True)
class Coverage:
    """How a model's gradients are to be captured.

    ``batched`` is False when examples must go one at a time; ``fallback`` names the parameters whose gradients come from plain
    autograd, ``wrong`` those among them that have a rule, which gets them wrong; ``unused`` those that the logits do not depend on;
    ``worst`` is the largest relative error against autograd.
    """

    batched: bool
    fallback: tuple[str, ...]
    unused: tuple[str, ...]
    worst: float
    reason: str = ""
    wrong: tuple[str, ...] = ()

    def describe(self) -> str:
        """Returns one line for the report."""
        line = f"gradients agree with autograd to {self.worst:.1e}"
        if self.unused:
            line += f"; {len(self.unused)} parameters have no influence"
        named = [name for name in self.fallback if name not in self.unused]
        if named:
            where = ", at their modules, once more a text" if self.batched else ""
            shown = ", ".join(named[:3]) + (", ..." if len(named) > 3 else "")
            line += f"; {len(named)} by plain autograd{where} ({shown}): register a rule for their modules"
        return line + (f"; one text at a time, about three times as long: {self.reason}" if not self.batched else "")


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


def _largest_entry(values: Tensor) -> float:
    """Returns the largest absolute value, without a copy of all of them; NaN if there is one."""
    if not values.numel():
        return 0.0
    smallest, largest = torch.aminmax(values)
    return float(torch.maximum(-smallest, largest))


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
            found = tangents.factors[name].of_example(index).gradients(reference.shape[1:])[:, 0]
            scale = _largest_entry(reference)
            noise = scale <= floor and _largest_entry(found) <= floor
            difference = 0.0 if noise else _largest_entry(found - reference)
            errors[name] = difference / scale if scale > 0 else difference
    return errors


def _example(batch: Batch, index: int) -> dict[str, Tensor]:
    return {name: tensor[index : index + 1] for name, tensor in batch.items()}


def check_coverage(model: nn.Module, batch: Batch, trainable: Mapping[str, nn.Parameter]) -> Coverage:
    """Returns how to capture this model's gradients, after comparing up to two examples with plain autograd.

    Cost: three forward and 3 c backward passes where all is well, else up to nine. Memory: the full gradients of two examples.
    """
    count = next(iter(batch.values())).shape[0]
    dtype = next(iter(trainable.values())).dtype
    tolerance = TOLERANCE.get(dtype, 2e-2)
    expected: dict[int, dict[str, Tensor | None]] = {}  # two, for one example may hide what another shows
    floors: dict[int, float] = {}
    for index in sorted({0, count - 1}):
        expected[index] = autograd_gradients(model, _example(batch, index), trainable)
        entries = {name: _largest_entry(gradient) for name, gradient in expected[index].items() if gradient is not None}
        infinite = [name for name, entry in entries.items() if not math.isfinite(entry)]
        if infinite:
            raise ModelError(f"the gradients are not finite, in {infinite[0]}: try another dtype or attention implementation")
        largest = max(entries.values(), default=0.0)
        floors[index] = 1e3 * torch.finfo(dtype).eps * largest
    unused = tuple(name for name in trainable if not any((g := each[name]) is not None and g.any() for each in expected.values()))

    def together(fallback: tuple[str, ...]) -> tuple[dict[str, float], str]:
        """Returns the errors of the batch's examples, or none and why there are none."""
        try:
            tangents = capture(model, batch, trainable, fallback)
        except RuntimeError as lost:
            return {}, " ".join(str(lost).split())[:200] or type(lost).__name__
        return _largest(_errors(tangents, index, reference, floors[index]) for index, reference in expected.items()), ""

    def singly(fallback: tuple[str, ...]) -> dict[str, float]:
        """Returns the errors of the examples, each in a batch of its own."""
        singles = ((capture(model, _example(batch, index), trainable, fallback), index) for index in expected)
        return _largest(_errors(tangents, 0, expected[index], floors[index]) for tangents, index in singles)

    def is_right(errors: Mapping[str, float]) -> bool:
        return bool(errors) and all(error <= tolerance for error in errors.values())

    uncovered = without_rule(model, trainable)  # a text that is not looked at may use what these two do not
    errors, lost = together(uncovered)
    if is_right(errors):
        return Coverage(True, uncovered, unused, max(errors.values()))
    # something is wrong: with the rules, or with the batch?
    apart = [name for name, error in errors.items() if not error <= tolerance]
    failed: tuple[str, ...] = ()
    while True:
        try:
            errors = singly((*uncovered, *failed))
            break
        except RuleFailedError as error:
            failed = (*failed, *error.names)
    wrong = tuple(name for name, error in errors.items() if not error <= tolerance and error != float("inf"))
    fallback = tuple(name for name in trainable if errors[name] == float("inf") or name in {*wrong, *failed, *uncovered})
    wrong = tuple(name for name in fallback if name in wrong or name in failed)
    if set(fallback) == set(uncovered):
        reason = f"the batch axis is lost ({lost})" if lost else f"{len(apart)} parameters' gradients lose the batch axis ({apart[0]})"
        return Coverage(False, fallback, unused, max(errors.values()), reason)
    errors, lost = together(fallback)
    if is_right(errors):
        return Coverage(True, fallback, unused, max(errors.values()), wrong=wrong)
    errors = singly(fallback)
    if not is_right(errors):
        name = max(errors, key=lambda key: errors[key])
        raise ModelError(
            f"parameter {name!r}: its captured gradient differs from autograd's by {errors[name]:.1e}; register a right rule for its module"
        )
    return Coverage(False, fallback, unused, max(errors.values()), lost or "plain autograd has no batch here", wrong)


def _largest(several: Iterable[dict[str, float]]) -> dict[str, float]:
    """Returns each parameter's largest error; NaN counts as larger than anything."""
    largest: dict[str, float] = {}
    for errors in several:
        for name, error in errors.items():
            before = largest.get(name, 0.0)
            largest[name] = before if error <= before or math.isnan(before) else error
    return largest
