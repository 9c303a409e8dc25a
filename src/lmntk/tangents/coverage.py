"""Before anything long starts, a check: every trainable parameter's gradient is caught, once, and right.

One example's factors are compared with plain autograd, parameter by parameter; then two examples run as a
batch, to see whether the model keeps them apart. What no rule covers, or a rule gets wrong, falls to plain
autograd for that parameter alone, and is named: at its module alone if that can be cut into examples, else
through the whole network, one text at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lmntk.errors import ModelError
from lmntk.models.state import Batch, frozen
from lmntk.tangents.capture import RuleFailedError, capture, without_rule
from lmntk.tangents.factors import Tangents

# of a parameter's largest gradient entry; float64 models of the Llama kind compute their norms in float32
TOLERANCE = {torch.float64: 1e-5, torch.float32: 2e-3, torch.float16: 0.1, torch.bfloat16: 0.5}
# times the precision, of the network's largest entry: below it a gradient may be rounding noise alone, and is
# not compared. Half precision leaves no room for as wide a margin: bfloat16's is an eighth of the largest
# entry. What is larger agrees with autograd, on the tests' families, to 2 % on a processor that multiplies
# bfloat16 in float32, and to a third on one that multiplies bfloat16 itself.
NOISE = {torch.float64: 1e3, torch.float32: 1e3, torch.float16: 16.0, torch.bfloat16: 16.0}
BLOCK = 2**20  # entries of a difference that are held at once


@dataclass(frozen=True)
class Coverage:
    """The way in which a model's gradients are to be captured.

    ``batched`` is False when examples must go one at a time; ``fallback`` names the parameters whose
    gradients come from plain autograd, ``wrong`` those among them that have a rule, which gets them wrong;
    ``unused`` those that the logits do not depend on; ``faint`` those whose gradients were too small in both
    examples to be told from rounding noise, and so were not compared; ``worst`` is the largest relative error
    against autograd.
    """

    batched: bool
    fallback: tuple[str, ...]
    unused: tuple[str, ...]
    worst: float
    reason: str = ""
    wrong: tuple[str, ...] = ()
    faint: tuple[str, ...] = ()

    def describe(self) -> str:
        """Return one line for the report."""
        line = f"gradients agree with autograd to {self.worst:.1e}"
        if self.unused:
            line += f"; {len(self.unused)} parameters have no influence"
        if self.faint:
            line += f"; {len(self.faint)} parameters' are too near to rounding noise to compare"
        named = [name for name in self.fallback if name not in self.unused]
        if named:
            where = ", at their modules, once more a text" if self.batched else ""
            shown = ", ".join(named[:3]) + (", ..." if len(named) > 3 else "")
            line += f"; {len(named)} by plain autograd{where} ({shown}): register a rule for their modules"
        return line + (
            f"; one text at a time, about three times as long: {self.reason}" if not self.batched else ""
        )


def autograd_gradients(
    model: nn.Module, batch: Batch, trainable: Mapping[str, nn.Parameter]
) -> dict[str, Tensor | None]:
    """Return one example's Jacobian (c, *shape) by plain autograd; None where the logits do not depend."""
    parameters = list(trainable.values())
    with frozen(model, parameters), torch.enable_grad():
        rows = [
            torch.autograd.grad(logit, parameters, retain_graph=True, allow_unused=True)
            for logit in model(batch)[0]
        ]
    gradients: dict[str, Tensor | None] = {}
    for index, (name, parameter) in enumerate(trainable.items()):
        parts = [row[index] for row in rows]
        reached = any(part is not None for part in parts)
        gradients[name] = (
            torch.stack([torch.zeros_like(parameter) if part is None else part for part in parts])
            if reached
            else None
        )
    return gradients


def _largest_entry(values: Tensor) -> float:
    """Return the largest absolute value, without a copy of all of them; NaN if there is one."""
    if not values.numel():
        return 0.0
    smallest, largest = torch.aminmax(values)
    return float(torch.maximum(-smallest, largest))


def _largest_difference(left: Tensor, right: Tensor) -> float:
    """Return the largest absolute difference, NaN if right_part is left.

    It is taken a block at a time: a table's difference would be a third table.
    """
    if not left.numel():
        return 0.0
    # a parameter may have no axes
    left, right = left.reshape(-1, *left.shape[1:]), right.reshape(-1, *right.shape[1:])
    rows = max(1, BLOCK * len(left) // left.numel())
    parts = [
        _largest_entry(left_part - right_part)
        for left_part, right_part in zip(torch.split(left, rows), torch.split(right, rows), strict=True)
    ]
    return math.nan if any(math.isnan(part) for part in parts) else max(parts)


def _visit_gradients(
    model: nn.Module,
    batch: Batch,
    trainable: Mapping[str, nn.Parameter],
    visit: Callable[[int, str, Tensor], None],
) -> None:
    """Call ``visit(logit, name, gradient)`` for each gradient of one example that plain autograd finds.

    None is kept: the gradients of a whole network are as large as its weights, once a logit. The user's own
    hooks do not run.
    """
    names: dict[nn.Parameter, list[str]] = {}  # one may have several
    for name, parameter in trainable.items():
        names.setdefault(parameter, []).append(name)
    gradients = {parameter: parameter.grad for parameter in names}
    # emptied and filled again, not replaced: torch goes on calling those of a table that is taken away
    tables = [(table, dict(table)) for parameter in names if (table := parameter._post_accumulate_grad_hooks)]
    handles = []
    try:
        with frozen(model, list(names)), torch.enable_grad():
            logits = model(batch)[0]
            at = 0

            def hook(parameter: nn.Parameter) -> None:
                gradient, parameter.grad = parameter.grad, None
                assert gradient is not None
                with torch.no_grad():
                    for name in names[parameter]:
                        visit(at, name, gradient)

            for table, _ in tables:
                table.clear()
            for parameter in names:
                parameter.grad = None
                register: Any = parameter.register_post_accumulate_grad_hook
                handles.append(register(hook))
            for at, logit in enumerate(logits):  # the hook reads it
                logit.backward(retain_graph=at + 1 < len(logits), inputs=list(names))
    finally:
        for handle in handles:
            handle.remove()
        for table, hooks in tables:
            table.update(hooks)
        for parameter, gradient in gradients.items():
            parameter.grad = gradient


@dataclass
class _Largest:
    """The largest entries of one parameter's gradients in one example: by autograd, captured, difference."""

    reference: float = 0.0
    captured: float = 0.0
    difference: float = 0.0

    def is_noise(self, floor: float) -> bool:
        """Return whether the gradient, by autograd and as captured, may be rounding noise alone."""
        return self.reference <= floor and self.captured <= floor

    def add(self, reference: Tensor, captured: Tensor | None) -> None:
        """Take in one logit's gradient; one that was not caught is infinitely far off, even where it is 0."""
        self.reference = _worse(self.reference, _largest_entry(reference))
        self.captured = _worse(self.captured, math.inf if captured is None else _largest_entry(captured))
        self.difference = _worse(
            self.difference, math.inf if captured is None else _largest_difference(captured, reference)
        )


def _compare(
    model: nn.Module, example: Batch, tangents: Tangents, index: int, trainable: Mapping[str, nn.Parameter]
) -> dict[str, _Largest]:
    """Return, by parameter that its logits depend on, how one example's factors compare with autograd."""
    largest: dict[str, _Largest] = {}

    reached: set[tuple[str, int]] = set()

    def captured(logit: int, name: str) -> Tensor | None:
        factors = tangents.factors.get(name)
        return (
            None
            if factors is None
            else factors.of_example(index).of_logit(logit).gradients(trainable[name].shape)[0, 0]
        )

    def visit(logit: int, name: str, reference: Tensor) -> None:
        reached.add((name, logit))
        largest.setdefault(name, _Largest()).add(reference, captured(logit, name))

    _visit_gradients(model, example, trainable, visit)
    # a logit that does not depend on a parameter of another's has no gradient, and should have none captured
    for name in largest:
        for logit in range(tangents.logits.shape[1]):
            if (name, logit) not in reached:
                largest[name].add(torch.zeros_like(trainable[name]), captured(logit, name))
    infinite = [name for name in trainable if name in largest and not math.isfinite(largest[name].reference)]
    if infinite:
        raise ModelError(
            f"the gradients are not finite, in {infinite[0]}: try another dtype or attention implementation"
        )
    return largest


def _errors(largest: Mapping[str, _Largest], names: Iterable[str], floor: float) -> dict[str, float]:
    """Return entries parameter's error; a gradient below rounding noise everywhere counts as zero.

    What takes part in the logits and is not caught has an infinite error, even where its gradient happens to
    vanish.
    """
    errors = {}
    for name in names:
        entries = largest.get(name, _Largest())  # a module that was never called has no factors
        difference = 0.0 if entries.is_noise(floor) else entries.difference
        errors[name] = difference / entries.reference if entries.reference > 0 else difference
    return errors


def _example(batch: Batch, index: int) -> dict[str, Tensor]:
    return {name: tensor[index : index + 1] for name, tensor in batch.items()}


def check_coverage(model: nn.Module, batch: Batch, trainable: Mapping[str, nn.Parameter]) -> Coverage:
    """Return how to capture this model's gradients, after comparing up to two examples with plain autograd.

    Cost: three forward and 3 c backward passes where all is well, else up to nine. Memory: two examples'
    factors, and of one parameter at a time the gradient of one logit, by autograd and from the factors.
    """
    count = next(iter(batch.values())).shape[0]
    dtype = next(iter(trainable.values())).dtype
    if dtype not in TOLERANCE:
        raise ModelError(
            f"weights of type {dtype}: gradients are computed in float64, float32, bfloat16 and float16; "
            "convert the model"
        )
    tolerance, noise_level = TOLERANCE[dtype], NOISE[dtype] * torch.finfo(dtype).eps
    chosen = sorted({0, count - 1})  # two, for one example may hide what another shows
    used: set[str] = set()
    compared: set[str] = set()

    def errors_of(tangents: Tangents, position: int, index: int) -> dict[str, float]:
        largest = _compare(model, _example(batch, index), tangents, position, trainable)
        floor = noise_level * max((entries.reference for entries in largest.values()), default=0.0)
        used.update(name for name, entries in largest.items() if entries.reference > 0)
        compared.update(name for name, entries in largest.items() if not entries.is_noise(floor))
        return _errors(largest, trainable, floor)

    def together(fallback: tuple[str, ...]) -> tuple[dict[str, float], str]:
        """Return the errors of the batch's examples, or none and why there are none."""
        try:
            tangents = capture(model, batch, trainable, fallback)
        except RuntimeError as lost:
            return {}, " ".join(str(lost).split())[:200] or type(lost).__name__
        return _largest(errors_of(tangents, index, index) for index in chosen), ""

    def singly(fallback: tuple[str, ...]) -> dict[str, float]:
        """Return the errors of the examples, each in a batch of its own."""
        return _largest(
            errors_of(capture(model, _example(batch, index), trainable, fallback), 0, index)
            for index in chosen
        )

    def outcome(
        batched: bool, fallback: tuple[str, ...], reason: str = "", wrong: tuple[str, ...] = ()
    ) -> Coverage:
        unused = tuple(name for name in trainable if name not in used)
        faint = tuple(name for name in trainable if name in used - compared)
        return Coverage(batched, fallback, unused, max(errors.values()), reason, wrong, faint)

    def is_right(errors: Mapping[str, float]) -> bool:
        return bool(errors) and all(error <= tolerance for error in errors.values())

    uncovered = without_rule(model, trainable)  # a text that is not looked at may use what these two do not
    errors, lost = together(uncovered)
    if is_right(errors):
        return outcome(True, uncovered)
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
    fallback = tuple(
        name for name in trainable if errors[name] == float("inf") or name in {*wrong, *failed, *uncovered}
    )
    wrong = tuple(name for name in fallback if name in wrong or name in failed)
    if set(fallback) == set(uncovered):
        reason = (
            f"the batch axis is lost ({lost})"
            if lost
            else f"{len(apart)} parameters' gradients lose the batch axis ({apart[0]})"
        )
        return outcome(False, fallback, reason)
    errors, lost = together(fallback)
    if is_right(errors):
        return outcome(True, fallback, wrong=wrong)
    errors = singly(fallback)
    if not is_right(errors):
        name = max(errors, key=lambda key: errors[key])
        raise ModelError(
            f"parameter {name!r}: its captured gradient differs from autograd's by {errors[name]:.1e}; "
            "register a right rule for its module"
        )
    return outcome(False, fallback, lost or "plain autograd has no batch here", wrong)


def _largest(several: Iterable[dict[str, float]]) -> dict[str, float]:
    """Return each parameter's largest error; NaN counts as larger than anything."""
    largest: dict[str, float] = {}
    for errors in several:
        for name, error in errors.items():
            largest[name] = _worse(largest.get(name, 0.0), error)
    return largest


def _worse(left: float, right: float) -> float:
    """Return the larger; NaN counts as larger than anything."""
    return left if right <= left or math.isnan(left) else right
