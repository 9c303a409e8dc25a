"""Mixtures of experts: many small layers in one module, and the router that chooses few for a token.

transformers keeps a layer's experts in one module, their weights stacked along a first axis, and calls it
with the tokens of all examples in one row. Axes here: n examples, t tokens, k choices of a token, e experts,
s the (token, choice) pairs that chose one expert, h hidden, i inner; u is i, or 2 i where a gate stands
beside what it gates.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lmntk.tangents.factors import DenseFactors, OuterFactors, StackedFactors, sum_over_uses
from lmntk.tangents.form import Factors
from lmntk.tangents.padding import alive_uses, drop_empty_uses
from lmntk.tangents.use import Use

NOBODY = -1  # the expert of a token that no logit depends on


def is_stacked(module: Any) -> bool:
    """Return whether a module holds experts of the common form, called with (x, choices, weights).

    That is two stacked linear maps with an activation between them.

    Not so DBRX's, Switch's, Llama 4's and LongCat's, nor experts with a norm of their own (Muse Spark).
    """
    first, second = getattr(module, _first_name(module), None), getattr(module, "down_proj", None)
    if not (isinstance(first, Tensor) and isinstance(second, Tensor) and first.dim() == second.dim() == 3):
        return False
    if not callable(getattr(module, "_apply_gate", None)) or getattr(module, "has_post_expert_norm", False):
        return False
    width = first.shape[2 if _is_transposed(module) else 1] // (2 if _has_gate(module) else 1)
    fits = first.shape[0] == second.shape[0] and second.shape[1 if _is_transposed(module) else 2] == width
    return fits and len(inspect.signature(module.forward).parameters) == 3


def stacked_experts(use: Use) -> Iterator[tuple[nn.Parameter, Factors]]:
    """Yield the factors of y_t = sum_e w_te (V_e a_te + c_e), a_te = gate(U_e x_t + b_e).

    The sum is over the experts e that token t chose.

    Gradients of V_e: sum_t (w_te g_t) a_te^T; of U_e: sum_t r_te x_t^T with r_te = gate'(z_te)^T V_e^T w_te
    g_t; of biases the same without the inputs. Parameters are stacked: U [e, u, h] and V [e, h, i], or each
    the other way round.

    Cost: s h (2 u + 2 c i) operations an expert, s being its tokens that some logit depends on. Memory: s (h
    + i + c u + c h) numbers, and what fills examples up to the same number of an expert's tokens.
    """
    module = use.module
    count, tokens = use.inputs.shape[:2]
    _, choices, weights = (*use.arguments, *use.keywords.values())
    choices, weights = choices.reshape(count, tokens, -1), weights.reshape(count, tokens, -1)
    choices = torch.where(alive_uses(use.output_gradients)[:, :, None], choices, NOBODY)
    transposed = _is_transposed(module)
    first, second = getattr(module, _first_name(module)), module.down_proj
    first_bias, second_bias = (
        getattr(module, f"{_first_name(module)}_bias", None),
        getattr(module, "down_proj_bias", None),
    )
    gate: Callable[[Tensor], Tensor] = module._apply_gate if _has_gate(module) else module.act_fn

    before: list[OuterFactors | None] = []
    after: list[OuterFactors | None] = []
    for expert in range(first.shape[0]):
        example, token, choice = (choices == expert).nonzero(as_tuple=True)
        if not len(example):
            before.append(None)
            after.append(None)
            continue
        weights_of = (first[expert], second[expert])
        up, down = weights_of if transposed else (each.T for each in weights_of)  # (h, u), (i, h)
        inputs = use.inputs[example, token]  # (s, h)
        shares = weights[example, token, choice, None].to(inputs.dtype)  # (s, 1)
        gradients = use.output_gradients[:, example, token] * shares  # (c, s, h)
        middle = inputs @ up if first_bias is None else torch.addmm(first_bias[expert], inputs, up)  # (s, u)
        activated, middle_gradients = _through(gate, middle, gradients @ down.T)
        layout = _Layout.of(example, count)
        before.append(OuterFactors(layout.pad(inputs), layout.pad(middle_gradients), transposed))
        after.append(OuterFactors(layout.pad(activated), layout.pad(gradients), transposed))
    for weight, bias, parts in ((first, first_bias, before), (second, second_bias, after)):
        yield weight, _stack(parts, use.output_gradients, weight.shape[1:], transposed)
        if bias is not None:
            yield bias, _stack_biases(parts, use.output_gradients, bias.shape[1])


def _has_gate(module: Any) -> bool:
    return bool(getattr(module, "has_gate", True))


def _is_transposed(module: Any) -> bool:
    return bool(getattr(module, "is_transposed", False))


def _first_name(module: Any) -> str:
    return "gate_up_proj" if _has_gate(module) else "up_proj"


def _through(
    function: Callable[[Tensor], Tensor], inputs: Tensor, gradients: Tensor
) -> tuple[Tensor, Tensor]:
    """Return function(inputs) [s, i], and the gradients [c, s, u] at its inputs that its outputs' come to."""
    with torch.enable_grad():
        inputs = inputs.detach().requires_grad_()
        outputs = function(inputs)
    at_inputs = [
        torch.autograd.grad(outputs, inputs, gradient, retain_graph=True)[0] for gradient in gradients
    ]
    return outputs.detach(), torch.stack(at_inputs)


@dataclass(frozen=True)
class _Layout:
    """Where the tokens of an expert go, so that every example has the same number of positions for them."""

    example: Tensor  # (s,), ascending
    position: Tensor  # (s,), of an example's own tokens
    count: int
    most: int

    @classmethod
    def of(cls, example: Tensor, count: int) -> _Layout:
        sizes = torch.bincount(example, minlength=count)
        starts = sizes.cumsum(0) - sizes
        position = torch.arange(len(example), device=example.device) - starts[example]
        return cls(example, position, count, int(sizes.max()))

    def pad(self, values: Tensor) -> Tensor:
        """Return values [..., s, x] as [..., n, most, x], zeros where an example has fewer."""
        padded = values.new_zeros(*values.shape[:-2], self.count, self.most, values.shape[-1])
        padded[..., self.example, self.position, :] = values
        return padded


def _stack(
    parts: list[OuterFactors | None], like: Tensor, shape: torch.Size, transposed: bool
) -> StackedFactors:
    """Return the factors of a stacked weight; if no expert is used, the first has one use, which is zero."""
    if all(part is None for part in parts):
        i, o = shape if transposed else reversed(shape)
        c, n = like.shape[:2]
        parts = [OuterFactors(like.new_zeros(n, 1, i), like.new_zeros(c, n, 1, o), transposed), *parts[1:]]
    return StackedFactors(tuple(parts))


def _stack_biases(parts: list[OuterFactors | None], like: Tensor, width: int) -> DenseFactors:
    """Return the gradients of stacked biases [e, o]: each expert's output gradients, summed over tokens."""
    nothing = like.new_zeros(*like.shape[:2], 1, width)
    sums = [sum_over_uses(nothing if part is None else part.output_gradients) for part in parts]
    known = [each.cancellation for each in sums if each.cancellation is not None]
    return DenseFactors(torch.cat([each.values for each in sums], 2), torch.cat(known))


def is_router(module: Any) -> bool:
    """Return whether a router's weights are those of one linear map of its own.

    What comes after it may add a bias to the scores.
    """
    matrices = [name for name, parameter in module.named_parameters(recurse=False) if parameter.dim() == 2]
    return matrices == ["weight"] and not any(
        name.endswith(".weight") for name, _ in module.named_parameters()
    )


def router(use: Use) -> Iterator[tuple[nn.Parameter, Factors]]:
    """Yield the gradients sum_t d_t x_t^T and sum_t d_t of l = W x_t + b, of which several outputs are made.

    d_t [e], the gradient at l, is what the gradients of all outputs become on their way back to l. The
    module's call is repeated, with autograd starting at l. Cost: two forward, and c backward passes of what
    comes after the linear map.

    Weights that are made to sum to one over the chosen experts (Mixtral) do not depend on the others' scores.
    Autograd returns rounding error there, and its sign would be noise in every row of W whose expert an
    example never chooses: it is set to zero.
    """
    module, count = use.module, use.inputs.shape[0]
    with _AtLinear() as at, torch.enable_grad():
        outputs = _outputs(module(*use.arguments, **use.keywords))
    if len(at.calls) != 1:
        raise ValueError(f"{type(module).__name__} has {len(at.calls)} linear maps, not one")
    inputs, scores = at.calls[0]
    floating = [each for each in outputs if each.is_floating_point()]
    asked = [
        (output, gradients)
        for output, gradients in zip(floating, use.every_gradient, strict=True)
        if output.requires_grad
    ]
    at_scores = torch.stack(
        [
            torch.autograd.grad(
                [each for each, _ in asked],
                scores,
                [gradients[logit] for _, gradients in asked],
                retain_graph=True,
            )[0]
            for logit in range(use.output_gradients.shape[0])
        ]
    )  # (c, *shape)
    chosen = _chosen(outputs, scores)
    if chosen is not None and _only_chosen_count(use, floating, scores.detach(), chosen):
        at_scores = torch.where(chosen, at_scores, 0.0)
    dtype = module.weight.dtype
    kept = drop_empty_uses(
        inputs.reshape(count, -1, inputs.shape[-1]).to(dtype),
        at_scores.reshape(len(at_scores), count, -1, at_scores.shape[-1]).to(dtype),
    )
    yield module.weight, OuterFactors(*kept)
    if getattr(module, "bias", None) is not None:
        yield module.bias, sum_over_uses(kept[1])


def _outputs(output: Any) -> tuple[Tensor, ...]:
    return tuple(output) if isinstance(output, (tuple, list)) else (output,)


def _chosen(outputs: tuple[Tensor, ...], scores: Tensor) -> Tensor | None:
    """Return the mask [*shape, e] of the chosen experts, from the one output of whole numbers, if any."""
    choices = [each for each in outputs if not each.is_floating_point()]
    if len(choices) != 1 or choices[0].shape[:-1] != scores.shape[:-1] or choices[0].dtype != torch.int64:
        return None
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, choices[0], True)


def _only_chosen_count(use: Use, outputs: list[Tensor], scores: Tensor, chosen: Tensor) -> bool:
    """Return whether the outputs that matter ignore the scores of experts that were not chosen.

    Those scores are raised to the lowest chosen one, or nearly.
    """
    lowest = torch.where(chosen, scores, torch.inf).amin(-1, keepdim=True)
    raised = torch.where(chosen, scores, lowest - 1e-2)
    with _AtLinear(raised):
        moved = [
            each for each in _outputs(use.module(*use.arguments, **use.keywords)) if each.is_floating_point()
        ]
    for before, after, gradients in zip(outputs, moved, use.every_gradient, strict=True):
        # most routers compute in float32
        rounding = 32 * max(torch.finfo(before.dtype).eps, torch.finfo(torch.float32).eps)
        if bool(gradients.any()) and not torch.allclose(after, before, rtol=rounding, atol=rounding):
            return False
    return True


class _AtLinear(TorchFunctionMode):
    """A mode in which autograd starts at the output of a linear map, or at what is put in its place.

    ``calls`` keeps each (input, output).
    """

    def __init__(self, instead: Tensor | None = None) -> None:
        super().__init__()
        self.instead = instead
        self.calls: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function; hand a linear map's output on as a copy, which may be changed in place."""
        result = func(*args, **(kwargs or {}))
        if func is not nn.functional.linear:
            return result
        result = (result if self.instead is None else self.instead).detach().requires_grad_()
        self.calls.append((args[0], result))
        return result.clone()
