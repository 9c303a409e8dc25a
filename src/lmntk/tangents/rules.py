"""Rules: a module's input and output gradient hold the gradients of its own parameters.

A rule is a function from one ``Use`` to (parameter, factors) pairs. A new kind of module is one new function:

    @register_rule(MyScale)
    def scale(use):
        yield use.module.gain, sum_over_uses(use.output_gradients * use.inputs)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from transformers.pytorch_utils import Conv1D

from lmntk.tangents.experts import is_router, is_stacked, router, stacked_experts
from lmntk.tangents.factors import DenseFactors, OuterFactors, RowFactors, sum_over_uses
from lmntk.tangents.form import Factors
from lmntk.tangents.padding import drop_empty_uses
from lmntk.tangents.terms import NO_ROW
from lmntk.tangents.use import Use

Rule = Callable[[Use], Iterator[tuple[nn.Parameter, Factors]]]
RULES: dict[type[nn.Module], Rule] = {}
# by the ending of a class's path: every family has its own class for the same few layers
RULES_BY_NAME: dict[str, Rule] = {}
CONDITIONS: dict[Rule, Callable[[Any], bool]] = {}  # what a module must be besides, for a rule by name


def register_rule(*kinds: type[nn.Module]) -> Callable[[Rule], Rule]:
    """Return a decorator that makes a function the rule of these kinds of module and their subclasses."""

    def register(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(kinds, rule))
        return rule

    return register


def rule_of(module: nn.Module) -> Rule | None:
    """Return the rule of a module's class: its own, one by its name's ending, its base class's, or None."""
    kind = type(module)
    if kind in RULES:
        return RULES[kind]
    name = f"{kind.__module__}.{kind.__qualname__}"
    endings = (rule for ending, rule in RULES_BY_NAME.items() if name.endswith(ending))
    named = (rule for rule in endings if rule not in CONDITIONS or CONDITIONS[rule](module))
    return next(named, next((RULES[base] for base in kind.__mro__ if base in RULES), None))


@register_rule(nn.Linear)
def linear(use: Use) -> Iterator[tuple[nn.Parameter, Factors]]:
    """Yield sum_t g_t x_t^T and sum_t g_t of y = W x + b; of a restricted decoder only the selected rows."""
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
    """Yield the gradients of GPT-2's y = x W + b, the weight stored as [i, o]."""
    yield from _dense_linear(use, transposed=True)


def _dense_linear(use: Use, transposed: bool) -> Iterator[tuple[nn.Parameter, Factors]]:
    sizes = (use.inputs.shape[-1], use.output_gradients.shape[-1])
    if tuple(use.module.weight.shape) != (sizes if transposed else sizes[::-1]):
        raise ValueError("a subclass that multiplies something else than its weight with its input")
    inputs, gradients = drop_empty_uses(use.inputs, use.output_gradients)
    yield use.module.weight, OuterFactors(inputs, gradients, transposed)
    if use.module.bias is not None:
        yield use.module.bias, sum_over_uses(gradients)


@register_rule(nn.Embedding)
def embedding(use: Use) -> Iterator[tuple[nn.Parameter, Factors]]:
    """Yield a lookup's: a token's row gets the gradients at its places, the padding row none, as in torch.

    Subclasses that move ids or scale what they find (OPT's and BART's positions, Gemma's words) are seen
    through by looking up a table that holds its rows' numbers, and ones.
    """
    module, values = use.module, use.output_gradients
    if type(module).forward is nn.Embedding.forward:
        ids = use.inputs
    else:
        numbers = torch.arange(module.num_embeddings, dtype=module.weight.dtype, device=module.weight.device)
        probe = torch.stack([numbers, torch.ones_like(numbers)], 1)
        looked_up = functional_call(module, {"weight": probe}, use.arguments, use.keywords)
        count, scale = values.shape[1], looked_up[..., 1]
        ids = (
            torch.where(scale == 0, 0.0, looked_up[..., 0] / scale)
            .round()
            .long()
            .reshape(looked_up.shape[0], -1)
            .expand(count, -1)
        )
        values = values * scale.reshape(looked_up.shape[0], -1).expand(count, -1)[:, :, None]
    if module.padding_idx is not None:
        ids = torch.where(ids == module.padding_idx, NO_ROW, ids)
    yield module.weight, RowFactors(ids, values)


def relative_positions(use: Use) -> Iterator[tuple[nn.Parameter, Factors]]:
    """Yield T5's: a bucket's row gets the bias gradients [c, n, heads, t, s] of the places that share it."""
    weight = use.module.weight
    buckets = use.inputs.flatten()  # (t s,)
    terms = use.output_gradients.flatten(3).movedim(2, 3)  # (c, n, t s, heads)
    empty = terms.new_zeros(*terms.shape[:2], *weight.shape)
    values = empty.index_add(2, buckets, terms).flatten(2)
    size = empty.index_add(2, buckets, terms.abs()).flatten(2)
    ratio = torch.where(size > 0, values.abs() / size, 0.0)
    yield weight, DenseFactors(values, ratio.amax((0, 1)))


@register_rule(nn.LayerNorm)
def layer_norm(use: Use) -> Iterator[tuple[nn.Parameter, Factors]]:
    """Yield the gradients sum_t g_t * xhat_t and sum_t g_t of y = xhat * scale + shift."""
    module = use.module
    inputs, gradients = drop_empty_uses(use.inputs, use.output_gradients)
    if module.weight is not None:
        normalized = nn.functional.layer_norm(inputs, module.normalized_shape, eps=module.eps)
        yield module.weight, sum_over_uses(gradients * normalized)
    if module.bias is not None:
        yield module.bias, sum_over_uses(gradients)


def scale(use: Use) -> Iterator[tuple[nn.Parameter, Factors]]:
    """Yield sum_t g_t * b_t of any module whose output is affine in its weight's entries: y = a + weight * b.

    b is what the module gives for ones less what it gives for zeros: so nobody needs to know whether it
    scales by w (Llama) or 1 + w (Gemma), what it normalises by, or that DoRA's magnitude scales a whole
    layer. Two calls of the module. A ``bias`` beside it is added to the output. The weight's axes are the
    output's last ones.
    """
    module, weight, gradients = use.module, use.module.weight, use.output_gradients
    c, n = gradients.shape[:2]
    values = (torch.ones_like(weight), torch.zeros_like(weight))
    ones, zeros = (
        functional_call(module, {"weight": value}, use.arguments, use.keywords) for value in values
    )
    gradients = gradients.reshape(c, n, -1, weight.numel())
    yield weight, sum_over_uses(gradients * (ones - zeros).reshape(gradients.shape[1:]))
    if getattr(module, "bias", None) is not None:
        yield module.bias, sum_over_uses(gradients)


def scaled_adapter(use: Use) -> Iterator[tuple[nn.Parameter, Factors]]:
    """Yield the gradients of IA3 at a linear layer: W (x * l) + b if feed-forward, else l * (W x + b).

    Gradients sum_t x_t * W^T g_t, and sum_t g_t * (W x_t + b). One more call of the layer, or of its
    transpose.
    """
    module = use.module
    vectors = [module.ia3_l[name] for name in module.active_adapters if name in module.ia3_l]
    if module.is_feedforward:
        _, transpose = torch.func.vjp(module.base_layer, use.inputs)
        terms = use.inputs * torch.stack([transpose(gradient)[0] for gradient in use.output_gradients])
    else:
        terms = use.output_gradients * module.base_layer(use.inputs)
    for vector in vectors:
        others = [other.flatten() for other in vectors if other is not vector]
        yield vector, sum_over_uses(terms * torch.stack(others).prod(0) if others else terms)


RULES_BY_NAME.update(
    {
        "RMSNorm": scale,
        "LayerNorm": scale,
        "DoraLinearLayer": scale,
        "peft.tuners.ia3.layer.Linear": scaled_adapter,
    }
)
RULES_BY_NAME.update({"Experts": stacked_experts, "Router": router})
CONDITIONS.update({stacked_experts: is_stacked, router: is_router})
