"""Captured gradients beside plain autograd's, of one example and one parameter at a time, and a kernel entry of both."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lmntk.errors import ModelError
from lmntk.models.invariants import ENTRY
from lmntk.models.state import Batch, frozen
from lmntk.tangents.factors import Tangents

BLOCK = 2**20  # entries of a difference that are held at once


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
    """Return the largest absolute difference, NaN if there is one.

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


def visit_gradients(
    model: nn.Module,
    batch: Batch,
    trainable: Mapping[str, nn.Parameter],
    visit: Callable[[int, str, Tensor], None],
) -> Tensor:
    """Call ``visit(logit, name, gradient)`` for each gradient of one example that plain autograd finds; return the logits [c].

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
            logits: Tensor = model(batch)[0]
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
            return logits.detach()
    finally:
        for handle in handles:
            handle.remove()
        for table, hooks in tables:
            table.update(hooks)
        for parameter, gradient in gradients.items():
            parameter.grad = gradient


@dataclass
class Largest:
    """The largest entries of one parameter's gradients in one example: by autograd, captured, difference."""

    reference: float = 0.0
    captured: float = 0.0
    difference: float = 0.0
    is_reached: bool = False

    def is_noise(self, floor: float) -> bool:
        """Return whether the gradient, by autograd and as captured, may be rounding noise alone."""
        return self.reference <= floor and self.captured <= floor

    def add(self, reference: Tensor, captured: Tensor | None) -> None:
        """Take in one logit's gradient; one that was not caught is infinitely far off, even where it is 0."""
        self.reference = worse(self.reference, _largest_entry(reference))
        self.captured = worse(self.captured, math.inf if captured is None else _largest_entry(captured))
        self.difference = worse(
            self.difference, math.inf if captured is None else _largest_difference(captured, reference)
        )


@dataclass(frozen=True)
class Captured:
    """One of the examples that are compared: by itself, and its place among the factors that were captured."""

    alone: Batch
    tangents: Tangents
    index: int

    def gradient(self, logit: int, name: str, shape: torch.Size) -> Tensor | None:
        """Return the captured gradient of one logit with respect to a parameter; None where none was caught."""
        factors = self.tangents.factors.get(name)
        return (
            None if factors is None else factors.of_example(self.index).of_logit(logit).gradients(shape)[0, 0]
        )


# from captured factors to the kernel of their examples, by parameter: {name: [n, c, n, c]}
Entries = Callable[[Sequence[Tangents]], Mapping[str, Tensor]]


@dataclass
class Attempt:
    """The comparison of two examples with plain autograd, captured in one way.

    Attributes:
        errors: by parameter, the largest relative error; empty where the capture failed.
        lost: why it failed.
        apart: the largest difference of a captured logit from that of the example alone, of the largest logit.
        examples: as they were captured.
        products: by parameter, autograd's inner products [n, c, n] of the examples' gradients, logit by logit.
        reached: the parameters that autograd reaches in one of the examples.
    """

    errors: dict[str, float]
    lost: str = ""
    apart: float = 0.0
    examples: Sequence[Captured] = ()
    products: dict[str, Tensor] = field(default_factory=dict)
    reached: frozenset[str] = frozenset()


def compare_example(
    model: nn.Module,
    examples: Sequence[Captured],
    at: int,
    trainable: Mapping[str, nn.Parameter],
    products: dict[str, Tensor] | None,
) -> tuple[dict[str, Largest], Tensor]:
    """Return, by parameter that its logits depend on, how one example's factors compare with autograd, and its logits.

    Inner products with the examples' gradients, the other's as captured, are added to ``products``.
    """
    largest: dict[str, Largest] = {}
    reached: set[tuple[str, int]] = set()
    outputs = examples[at].tangents.logits.shape[1]

    def visit(logit: int, name: str, reference: Tensor) -> None:
        reached.add((name, logit))
        largest.setdefault(name, Largest(is_reached=True))
        shape = trainable[name].shape
        largest[name].add(reference, examples[at].gradient(logit, name, shape))
        if products is None:
            return
        for other, example in enumerate(examples):
            gradient = reference if other == at else example.gradient(logit, name, shape)
            if gradient is not None:
                kept = products.setdefault(
                    name, torch.zeros(len(examples), outputs, len(examples), dtype=torch.float64)
                )
                kept[at, logit, other] += float(torch.dot(reference.reshape(-1), gradient.reshape(-1)))

    logits = visit_gradients(model, examples[at].alone, trainable, visit)
    # a logit that does not depend on a parameter has no gradient, and should have none captured
    for name in trainable:
        for logit in range(outputs):
            if (name, logit) not in reached:
                captured = examples[at].gradient(logit, name, trainable[name].shape)
                if name in largest or captured is not None:
                    zeros = torch.zeros_like(trainable[name])
                    largest.setdefault(name, Largest()).add(zeros, captured)
    infinite = [name for name in trainable if name in largest and not math.isfinite(largest[name].reference)]
    if infinite:
        raise ModelError(
            f"the gradients are not finite, in {infinite[0]}: try another dtype or attention implementation"
        )
    return largest, logits


def errors_of(largest: Mapping[str, Largest], names: Iterable[str], floor: float) -> dict[str, float]:
    """Return each parameter's error; a gradient below rounding noise everywhere counts as zero.

    What takes part in the logits and is not caught has an infinite error, even where its gradient happens to
    vanish.
    """
    errors = {}
    for name in names:
        entries = largest.get(name, Largest())  # a module that was never called has no factors
        difference = 0.0 if entries.is_noise(floor) else entries.difference
        scale = entries.reference or entries.captured or 1.0
        errors[name] = math.inf if difference == math.inf else difference / scale
    return errors


def entry_error(result: Attempt, entries: Entries, tolerance: float, noise_level: float) -> float:
    """Return the largest error of a kernel entry of the compared examples, of the root of their own entries' product.

    A gradient that is smaller than the largest by ``noise_level`` counts as large as that: it may be rounding noise.

    Raises:
        ModelError: it is too large; names the parameter whose part is most wrong.
    """
    parts: list[Tangents] = []
    rows: list[int] = []
    for example in result.examples:
        if not any(example.tangents is part for part in parts):
            parts.append(example.tangents)
        before = next(index for index, part in enumerate(parts) if part is example.tangents)
        rows.append(sum(map(len, parts[:before])) + example.index)
    if not any(part.factors for part in parts):
        return 0.0
    computed = {
        name: values[rows][:, :, rows].diagonal(dim1=1, dim2=3).permute(0, 2, 1).cpu()
        for name, values in entries(parts).items()
    }  # (n, c, n)
    nothing = torch.zeros_like(next(iter(computed.values())))
    apart = {
        name: computed.get(name, nothing) - result.products.get(name, nothing)
        for name in {**computed, **result.products}
    }
    expected = torch.stack(list(result.products.values())).sum(0)
    sizes = expected.diagonal(dim1=0, dim2=2).clamp(min=0).sqrt()  # (c, n)
    sizes = sizes.clamp(min=noise_level * float(sizes.max()))
    scale = (sizes.T[:, :, None] * sizes[None]).clamp(min=torch.finfo(torch.float64).tiny)  # (n, c, n)
    error = float((torch.stack(list(apart.values())).sum(0).abs() / scale).max())
    if not error <= tolerance:
        name = max(apart, key=lambda each: float(apart[each].abs().max()))
        raise ENTRY.broken(
            f"a kernel entry differs from autograd's by {error:.1e}, most in {name!r}: report this model"
        )
    return error


def largest_of(several: Iterable[dict[str, float]]) -> dict[str, float]:
    """Return each parameter's largest error; NaN counts as larger than anything."""
    largest: dict[str, float] = {}
    for errors in several:
        for name, error in errors.items():
            largest[name] = worse(largest.get(name, 0.0), error)
    return largest


def worse(left: float, right: float) -> float:
    """Return the larger; NaN counts as larger than anything."""
    return left if right <= left or math.isnan(left) else right
