"""One forward and C backward passes of a batch, with every parameter's gradient caught at its use.

What goes into a module and the gradient of what comes out (``watching.py``, ``relative_positions.py``) are made into factors by the module's rule
(``rules.py``); a parameter without a rule gets plain autograd at its module (``fallback.py``), or through the whole network.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from lmntk.errors import ModelError
from lmntk.models.state import Batch, frozen
from lmntk.system.precision import autocast
from lmntk.tangents.factors import DenseFactors, Tangents, merge
from lmntk.tangents.fallback import BatchAxisLostError, fallback_gradients
from lmntk.tangents.form import Factors
from lmntk.tangents.relative_positions import is_bias_owner, relative_positions_watched
from lmntk.tangents.rules import relative_positions, rule_of
from lmntk.tangents.use import Use
from lmntk.tangents.watching import Record, Watch, watched

CONTAINERS = (
    nn.ParameterDict,
    nn.ParameterList,
    nn.ModuleDict,
    nn.ModuleList,
)  # never called: their parent uses them


class RuleFailedError(ModelError):
    """A rule could not make factors of what its module did."""

    def __init__(self, kind: str, names: Sequence[str]) -> None:
        super().__init__(f"the rule of {kind} fails for {', '.join(names)}; register a right rule for it")
        self.names = tuple(names)


def capture(
    model: nn.Module,
    batch: Batch,
    trainable: Mapping[str, nn.Parameter],
    fallback: Collection[str] = (),
    lower: torch.dtype | None = None,
) -> Tangents:
    """Return the factored Jacobian of ``model(batch)`` [n, c] with respect to the trainable parameters.

    Args:
        model: any module from a batch to logits; ``model.selected_rows()``, if there is one, names the modules that
            compute only some rows of their output.
        batch: tensors whose first axis is the example.
        trainable: the parameters that count, by name; one that is used twice counts once, with all its uses.
        fallback: names that no rule covers; their gradients come from plain autograd, in a batch of several texts at their
            module alone, in a batch of one through the whole network.
        lower: what the passes run in, by autocast; the factors are made and kept in the weights' own precision all the same.

    Cost: one forward pass, c backward passes without weight gradients. Memory: (1 + c) times the linear layers' activations.

    Raises:
        BatchAxisLostError: a module that runs without the batch axis, in a batch of several texts.
        RuleFailedError: a rule that does not fit its module.
    """
    names = {parameter: name for name, parameter in trainable.items()}
    count = next(iter(batch.values())).shape[0]
    direct = [trainable[name] for name in fallback] if count == 1 else []
    ruled = {parameter for parameter, name in names.items() if name not in fallback}
    at_module = {parameter for parameter, name in names.items() if name in fallback} if count > 1 else set()
    owners = _owners(model, ruled, at_module)
    select: Callable[[], Mapping[nn.Module, Tensor]] = getattr(model, "selected_rows", dict)
    watch = Watch(count)
    device, own = (
        next(iter(batch.values())).device,
        next((parameter.dtype for parameter in trainable.values()), torch.float32),
    )
    prepare: Callable[[Batch], None] | None = getattr(model, "prepare", None)
    if prepare is not None:
        with frozen(model):
            prepare(batch)
    with (
        frozen(model, direct),
        torch.enable_grad(),
        watched(owners, watch),
        relative_positions_watched(model, watch),
    ):
        with autocast(device, lower):
            logits = model(batch)
        if not bool(torch.isfinite(logits).all()):
            raise ModelError("the logits are not finite: try another dtype or attention implementation")
        selections = select()
        through_gradients = watch.differentiate(logits, direct)
    logits = logits.detach() if lower is None else logits.detach().to(own)

    parts: dict[str, list[Factors]] = {}
    with torch.no_grad(), frozen(model):
        while watch.records:
            record = watch.records.pop(0)
            if not record.has_gradient:
                continue
            rule = relative_positions if record.is_relative_positions else rule_of(record.module)
            owned = _owned(record.module)
            if rule is not None and any(parameter in ruled for parameter in owned):
                use = _as_use(
                    record if lower is None else record.lifted(own),
                    count,
                    logits.shape[1],
                    selections.get(record.module),
                )
                try:
                    found = list(rule(use))
                except Exception as error:
                    kind = type(record.module).__name__
                    raise RuleFailedError(
                        kind, [names[parameter] for parameter in owned if parameter in ruled]
                    ) from error
                for parameter, factors in found:
                    if parameter in ruled:
                        parts.setdefault(names[parameter], []).append(factors)
            by_autograd = (
                []
                if record.is_relative_positions
                else [parameter for parameter in owned if parameter in at_module]
            )
            if by_autograd:
                with autocast(device, lower):
                    dense_parts = fallback_gradients(record, by_autograd, count, logits.shape[1])
                for parameter, dense in zip(by_autograd, dense_parts, strict=True):
                    parts.setdefault(names[parameter], []).append(dense)
        for index, name in enumerate(fallback if direct else ()):
            if all(row[index] is None for row in through_gradients):
                continue
            rows = [
                torch.zeros_like(direct[index]) if row[index] is None else row[index]
                for row in through_gradients
            ]
            parts[name] = [DenseFactors(torch.stack([row.reshape(1, -1) for row in rows if row is not None]))]
        merged = {name: merge(found_parts, trainable[name].shape) for name, found_parts in parts.items()}
    return Tangents(logits, merged)


def without_rule(model: nn.Module, trainable: Mapping[str, nn.Parameter]) -> tuple[str, ...]:
    """Return the names of the parameters that no module with a rule owns, whether a text uses them or not."""
    ruled = {
        parameter for module in model.modules() if rule_of(module) is not None for parameter in _owned(module)
    }
    return tuple(name for name, parameter in trainable.items() if parameter not in ruled)


def _owned(module: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that a module's own forward uses: its own, and those of containers in it, which are never called."""
    found = list(module.parameters(recurse=False))
    for child in module.children():
        if isinstance(child, CONTAINERS):
            found += _owned(child)
    return found


def _owners(model: nn.Module, ruled: set[nn.Parameter], at_module: set[nn.Parameter]) -> set[nn.Module]:
    """Return the modules to watch: of parameters that count, and every lookup, for gradients start there."""
    biases = {m.relative_attention_bias for m in model.modules() if is_bias_owner(m)}
    owners: set[nn.Module] = set()
    for module in model.modules():
        if isinstance(module, CONTAINERS) or module in biases:
            continue
        if isinstance(module, nn.Embedding):
            owners.add(module)
        else:
            covered = at_module if rule_of(module) is None else at_module | ruled
            if any(parameter in covered for parameter in _owned(module)):
                owners.add(module)
    return owners


def _as_use(record: Record, count: int, logits: int, selected_rows: Tensor | None) -> Use:
    """Return the record as a use with the axes (n, t, i) and (c, n, t, o).

    Modules may see the batch's tokens in one row [n t, i]; ``check_coverage`` finds out when it is not so.
    """
    output = record.outputs[0]
    is_flat = output.dim() == 2 and output.shape[0] % count == 0
    if output.shape[0] != count and not is_flat and count > 1:
        raise BatchAxisLostError(type(record.module).__name__)
    every = tuple(record.stacked(logits, index) for index in range(len(record.outputs)))
    gradients = every[0]
    values: Sequence[object] = record.arguments or tuple(record.keywords.values())
    inputs = (
        values[0] if values and isinstance(values[0], Tensor) else output
    )  # a table that is given a shape
    if not record.is_relative_positions:
        gradients = gradients.reshape(logits, count, -1, gradients.shape[-1])
        if inputs.shape[0] == 1 < count:  # a lookup broadcast over the batch
            inputs = inputs.expand(count, *inputs.shape[1:])
        inputs = (
            inputs.reshape(count, -1, inputs.shape[-1])
            if inputs.is_floating_point()
            else inputs.reshape(count, -1)
        )
    return Use(record.module, inputs, gradients, selected_rows, record.arguments, record.keywords, every)
