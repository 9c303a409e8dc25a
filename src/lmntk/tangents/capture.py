"""One forward and C backward passes of a batch, with every parameter's gradient caught at its use.

A forward hook keeps a module's input, a hook on its output tensor keeps the gradient of each logit with respect to
it, and the module's rule (``rules.py``) makes factors of the two. No parameter asks for a gradient: the outputs of
the embeddings do, so autograd runs the input half of the backward pass alone and builds no weight gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lmntk.models.state import Batch, frozen
from lmntk.tangents.factors import DenseFactors, Factors, Tangents, merge
from lmntk.tangents.rules import Use, rule_of


class BatchAxisLostError(RuntimeError):
    """A module ran without the batch axis (a table shared by the batch), so examples cannot be told apart."""


@dataclass
class _Record:
    """One call of a module while it is being watched."""

    module: nn.Module
    inputs: Tensor
    output_shape: torch.Size
    gradients: dict[int, Tensor] = field(default_factory=dict)  # by logit; a missing one is zero
    leaf: Tensor | None = None  # the output, when it is where gradients start to be asked for


@contextmanager
def _watched(model: nn.Module, owners: set[nn.Module], count: int, records: list[_Record], current: list[int]) -> Iterator[None]:
    """Keeps a record of every call of the owners while the body runs; ``current[0]`` is the logit in backward."""

    def keep(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], output: Tensor) -> Tensor | None:
        inputs = (arguments[0] if arguments else next(iter(named.values()))).detach()
        replaced = output
        if isinstance(module, nn.Embedding) and inputs.shape[0] == 1 < count:  # one lookup broadcast over the batch
            inputs, replaced = inputs.expand(count, -1), output.expand(count, *output.shape[1:])
        record = _Record(module, inputs, replaced.shape)
        if output.is_leaf:  # nothing before it asks for a gradient (it may itself: gradient checkpointing sees to that)
            replaced = replaced.detach().requires_grad_()
            record.leaf = replaced
        else:
            replaced.register_hook(lambda gradient: record.gradients.__setitem__(current[0], gradient))  # type: ignore[no-untyped-call]
        records.append(record)
        return replaced if replaced is not output else None

    with ExitStack() as stack:
        for module in owners:
            handle = module.register_forward_hook(keep, with_kwargs=True)
            stack.callback(handle.remove)
        yield


def _as_use(record: _Record, logits: Tensor, selected_rows: Tensor | None) -> Use:
    """Returns the record as a use with the axes (n, t, i) and (c, n, t, o)."""
    count, outputs = logits.shape
    is_lookup = isinstance(record.module, nn.Embedding)
    if record.inputs.shape[0] != count and count > 1:
        raise BatchAxisLostError(type(record.module).__name__)
    zero = None
    gradients = []
    for logit in range(outputs):
        gradient = record.gradients.get(logit)
        if gradient is None:
            zero = logits.new_zeros(record.output_shape) if zero is None else zero
            gradient = zero
        gradients.append(gradient.reshape(count, -1, record.output_shape[-1]))
    stacked = gradients[0].unsqueeze(0) if outputs == 1 else torch.stack(gradients)
    inputs = record.inputs.reshape(count, -1) if is_lookup else record.inputs.reshape(count, -1, record.inputs.shape[-1])
    return Use(record.module, inputs, stacked, selected_rows)


def capture(model: nn.Module, batch: Batch, trainable: Mapping[str, nn.Parameter], fallback: Sequence[str] = ()) -> Tangents:
    """Returns the factored Jacobian of ``model(batch)`` [n, c] with respect to the trainable parameters.

    Args:
        model: any module from a batch to logits; ``model.selected_rows()``, if there is one, names the modules that
            compute only some rows of their output.
        batch: tensors whose first axis is the example.
        trainable: the parameters that count, by name; one that is used twice counts once, with all its uses.
        fallback: names that no rule covers; their gradients come from plain autograd, and the batch must be one example.

    Cost: one forward pass, c backward passes without weight gradients. Memory: (1 + c) times the linear layers' activations.
    """
    names = {parameter: name for name, parameter in trainable.items()}
    direct = [trainable[name] for name in fallback]
    owners = {
        module
        for module in model.modules()
        if rule_of(module) is not None and any(p in names and names[p] not in fallback for p in module.parameters(recurse=False))
    }
    owners |= {module for module in model.modules() if isinstance(module, nn.Embedding)}  # where gradients start
    select: Callable[[], Mapping[nn.Module, Tensor]] = getattr(model, "selected_rows", dict)
    selections = select()
    count = next(iter(batch.values())).shape[0]
    if direct and count != 1:
        raise ValueError("plain autograd gives one example's gradient at a time; capture a batch of one")
    records: list[_Record] = []
    current = [0]
    direct_gradients: list[list[Tensor | None]] = []
    with frozen(model, direct), torch.enable_grad(), _watched(model, owners, count, records, current):
        logits = model(batch)
        if not bool(torch.isfinite(logits).all()):
            raise RuntimeError("the logits are not finite: try another dtype or attention implementation")
        leaves = [record.leaf for record in records if record.leaf is not None]
        outputs = logits.shape[1]
        for logit in range(outputs):
            current[0] = logit
            found = torch.autograd.grad(logits[:, logit].sum(), [*leaves, *direct], retain_graph=logit + 1 < outputs, allow_unused=True)
            for record, gradient in zip((r for r in records if r.leaf is not None), found, strict=False):
                if gradient is not None:
                    record.gradients[logit] = gradient
            direct_gradients.append(list(found[len(leaves) :]))
    logits = logits.detach()

    parts: dict[str, list[Factors]] = {}
    with torch.no_grad():
        while records:
            record = records.pop(0)
            rule = rule_of(record.module)
            assert rule is not None  # only modules with a rule are watched
            for parameter, factors in rule(_as_use(record, logits, selections.get(record.module))):
                if parameter in names and names[parameter] not in fallback:
                    parts.setdefault(names[parameter], []).append(factors)
        for index, name in enumerate(fallback):
            rows = [
                g[index] if (g := gradients) and g[index] is not None else torch.zeros_like(direct[index]) for gradients in direct_gradients
            ]
            parts[name] = [DenseFactors(torch.stack([r.reshape(1, -1) for r in rows if r is not None]))]
        merged = {name: merge(found_parts, trainable[name].shape) for name, found_parts in parts.items()}
    return Tangents(logits, merged)
