"""Parameters that no rule covers: plain autograd, at the one module that uses the parameter, one text at a time.

The module's call is repeated with one text's part of its arguments, the parameter asking for a gradient, and
the gradient that the watched backward pass left at its outputs is sent through it. The rest of the network
runs once, in its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from lmntk.errors import ModelError
from lmntk.tangents.factors import DenseFactors
from lmntk.tangents.watching import Record


class BatchAxisLostError(ModelError):
    """A module ran without the batch axis (a table shared by the batch), so examples cannot be told apart."""


def fallback_gradients(
    record: Record, parameters: Sequence[nn.Parameter], count: int, logits: int
) -> list[DenseFactors]:
    """Return the parameters' gradients (c, n, p) by autograd through one module's call.

    Cost: one forward and c backward passes of the module alone for each of the n examples; n c p numbers a
    parameter.

    Raises:
        BatchAxisLostError: an output without the batch axis, or one that an example alone does not reproduce.
    """
    lengths = {output.shape[0] if output.dim() else 0 for output in record.outputs}
    if any(length == 0 or length % count for length in lengths):
        raise BatchAxisLostError(f"{type(record.module).__name__} gives an output without the batch axis")
    lengths |= {count}  # besides examples, tokens of all examples in one row
    rows: list[list[Tensor]] = [[] for _ in parameters]
    for example in range(count):

        def part(value: Any, example: int = example) -> Any:
            has_batch = isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] in lengths
            return _of(value, example, count) if has_batch else value

        arguments, keywords = tree_map(part, (record.arguments, record.keywords))
        asked = [parameter.requires_grad for parameter in parameters]
        try:
            for parameter in parameters:
                parameter.requires_grad_(True)
            with torch.enable_grad():
                outputs = [
                    each for each in tree_flatten(record.module(*arguments, **keywords))[0] if _is_float(each)
                ]
            _same(record, outputs, example, count)
            for logit in range(logits):
                gradients = [record.gradients[index].get(logit) for index in range(len(outputs))]
                used = [
                    (o, _of(g, example, count))
                    for o, g in zip(outputs, gradients, strict=True)
                    if g is not None and o.requires_grad
                ]
                at_parameters: Sequence[Tensor | None] = [None] * len(parameters)
                if used:
                    at_parameters = torch.autograd.grad(
                        [o for o, _ in used],
                        parameters,
                        [g for _, g in used],
                        retain_graph=True,
                        allow_unused=True,
                    )
                for row, parameter, gradient in zip(rows, parameters, at_parameters, strict=True):
                    row.append(
                        torch.zeros_like(parameter).flatten() if gradient is None else gradient.flatten()
                    )
        finally:
            for parameter, flag in zip(parameters, asked, strict=True):
                parameter.requires_grad_(flag)
    return [
        DenseFactors(torch.stack(row).reshape(count, logits, -1).transpose(0, 1).detach()) for row in rows
    ]


def _of(value: Tensor, example: int, count: int) -> Tensor:
    """Return an example's part of a tensor [n, ...] or [n t, ...]."""
    size = value.shape[0] // count
    return value[example * size : (example + 1) * size]


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _same(record: Record, outputs: Sequence[Tensor], example: int, count: int) -> None:
    """Raise if a module gives an example something else when it is alone.

    Then its arguments were cut wrongly, or it mixes examples. Outputs that the network has changed in place since
    are not what the module gave.
    """
    for whole, alone, version in zip(record.outputs, outputs, record.versions, strict=True):
        if whole._version != version and alone.shape == _of(whole, example, count).shape:
            continue
        expected = _of(whole, example, count)
        tolerance = 1e4 * torch.finfo(whole.dtype).eps
        scale = float(whole.abs().max()) if whole.numel() else 0.0
        if alone.shape != expected.shape or (
            alone.numel() and float((alone.detach() - expected).abs().max()) > tolerance * scale
        ):
            raise BatchAxisLostError(
                f"{type(record.module).__name__} gives a text something else when it is alone"
            )
