"""How a module's input and output gradient hold the gradients of its own parameters.

A rule is a function from one ``Use`` to (parameter, factors) pairs. A new kind of module is one new function:

    @register_rule(MyScale)
    def scale(use):
        yield use.module.gain, sum_over_uses(use.output_gradients * use.inputs)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lmntk.tangents.factors import NO_ROW, DenseFactors, Factors, OuterFactors, RowFactors, drop_empty_uses, sum_over_uses


@dataclass(frozen=True)
class Use:
    """One call of a module on a batch: what went in, and the gradient of every logit with respect to what came out."""

    module: Any  # the nn.Module; rules know its attributes
    inputs: Tensor  # (n, t, i), or (n, t) for ids
    output_gradients: Tensor  # (c, n, t, o)
    selected_rows: Tensor | None = None  # the module computed only these output rows


Rule = Callable[[Use], Iterator[tuple[nn.Parameter, Factors]]]
RULES: dict[type[nn.Module], Rule] = {}


def register_rule(*kinds: type[nn.Module]) -> Callable[[Rule], Rule]:
    """Returns a decorator that makes a function the rule of these kinds of module (and of their subclasses)."""

    def register(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(kinds, rule))
        return rule

    return register


def rule_of(module: nn.Module) -> Rule | None:
    """Returns the rule of the module's nearest registered class, or None."""
    return next((RULES[kind] for kind in type(module).__mro__ if kind in RULES), None)


@register_rule(nn.Linear)
def linear(use: Use) -> Iterator[tuple[nn.Parameter, Factors]]:
    """Y = W x + b: gradients sum_t g_t x_t^T and sum_t g_t; of a restricted decoder only the selected rows."""
    if use.selected_rows is None:
        yield from _dense_linear(use, transposed=False)
        return
    rows, gradients = use.selected_rows, use.output_gradients  # (r,), (c, n, t, r)
    count = gradients.shape[1]
    weight_rows = torch.einsum("cntr,nti->cnri", gradients, use.inputs)
    yield use.module.weight, RowFactors(rows.expand(count, -1), weight_rows)
    if use.module.bias is not None:
        full = gradients.new_zeros(*gradients.shape[:3], use.module.bias.shape[0])
        yield use.module.bias, sum_over_uses(full.index_add_(3, rows, gradients))


@register_rule(Conv1D)
def transposed_linear(use: Use) -> Iterator[tuple[nn.Parameter, Factors]]:
    """GPT-2's y = x W + b, the weight stored as [i, o]."""
    yield from _dense_linear(use, transposed=True)


def _dense_linear(use: Use, transposed: bool) -> Iterator[tuple[nn.Parameter, Factors]]:
    inputs, gradients = drop_empty_uses(use.inputs, use.output_gradients)
    yield use.module.weight, OuterFactors(inputs, gradients, transposed)
    if use.module.bias is not None:
        yield use.module.bias, sum_over_uses(gradients)


@register_rule(nn.Embedding)
def embedding(use: Use) -> Iterator[tuple[nn.Parameter, Factors]]:
    """A lookup: the row of a token gets the gradients at its places; the padding row gets none, by torch's definition."""
    ids = use.inputs
    if use.module.padding_idx is not None:
        ids = torch.where(ids == use.module.padding_idx, NO_ROW, ids)
    yield use.module.weight, RowFactors(ids, use.output_gradients)


@register_rule(nn.LayerNorm)
def layer_norm(use: Use) -> Iterator[tuple[nn.Parameter, Factors]]:
    """Y = xhat * scale + shift: gradients sum_t g_t * xhat_t and sum_t g_t."""
    module = use.module
    inputs, gradients = drop_empty_uses(use.inputs, use.output_gradients)
    if module.weight is not None:
        normalized = nn.functional.layer_norm(inputs, module.normalized_shape, eps=module.eps)
        yield module.weight, sum_over_uses(gradients * normalized)
    if module.bias is not None:
        yield module.bias, sum_over_uses(gradients)


__all__ = ["RULES", "DenseFactors", "Rule", "Use", "register_rule", "rule_of"]
