"""One forward and C backward passes of a batch, with every parameter's gradient caught at its use.

What goes into a module and the gradient of what comes out (``watching.py``, ``relative_positions.py``) are
made into factors by the module's rule (``rules.py``); a parameter without a rule gets plain autograd at its
module (``fallback.py``), or through the whole network.
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
from lmntk.tangents.rules import Rule, relative_positions, rule_of
from lmntk.tangents.use import Use
from lmntk.tangents.watching import Record, Watch, lookups_quiet, watched

# never called: their parent uses them
CONTAINERS = (nn.ParameterDict, nn.ParameterList, nn.ModuleDict, nn.ModuleList)


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
        model: any module from a batch to logits; ``model.selected_rows()``, if there is one, names the
            modules that compute only some rows of their output.
        batch: tensors whose first axis is the example.
        trainable: the parameters that count, by name; one that is used twice counts once, with all its uses.
        fallback: names that no rule covers; their gradients come from plain autograd, in a batch of several
            texts at their module alone, in a batch of one through the whole network.
        lower: what the passes run in, by autocast; the factors are made and kept in the weights' own
            precision all the same.

    Cost: one forward pass, and c backward passes without weight gradients, down to the lowest parameter that
    counts. Memory: (1 + c) times the activations of the linear layers that count.

    Raises:
        BatchAxisLostError: a module that runs without the batch axis, in a batch of several texts.
        RuleFailedError: a rule that does not fit its module.
    """
    names = {parameter: name for name, parameter in trainable.items()}
    first = next(iter(batch.values()))
    count, device = first.shape[0], first.device
    own = next((parameter.dtype for parameter in trainable.values()), torch.float32)
    direct = [name for name in fallback if count == 1]
    ruled = {parameter for parameter, name in names.items() if name not in fallback}
    at_module = {parameter for parameter, name in names.items() if name in fallback and count > 1}
    select: Callable[[], Mapping[nn.Module, Tensor]] = getattr(model, "selected_rows", dict)
    prepare: Callable[[Batch], None] | None = getattr(model, "prepare", None)
    if prepare is not None:
        with frozen(model):
            prepare(batch)
    watch = Watch(count)
    parameters = [trainable[name] for name in direct]
    owners, lookups = _watched_modules(model, ruled, at_module)
    with (
        frozen(model, parameters),
        torch.enable_grad(),
        watched(owners, watch),
        lookups_quiet(lookups, watch),
        relative_positions_watched(model, watch, names),
    ):
        with autocast(device, lower):
            logits = model(batch)
        if not bool(torch.isfinite(logits).all()):
            raise ModelError("the logits are not finite: try another dtype or attention implementation")
        selections = select()
        direct_gradients = watch.differentiate(logits, parameters)
    logits = logits.detach() if lower is None else logits.detach().to(own)
    outputs = logits.shape[1]

    parts: dict[str, list[Factors]] = {}
    with torch.no_grad(), frozen(model):
        while watch.records:
            record = watch.records.pop(0)
            if not record.has_gradient:
                continue
            rule = relative_positions if record.is_relative_positions else rule_of(record.module)
            owned = _owned(record.module)
            by_rule = [names[parameter] for parameter in owned if parameter in ruled]
            if rule is not None and by_rule:
                lifted = record if lower is None else record.lifted(own)
                use = _as_use(lifted, count, outputs, selections.get(record.module))
                for parameter, factors in _yielded(rule, use, by_rule):
                    if parameter in ruled:
                        parts.setdefault(names[parameter], []).append(factors)
            by_autograd = [parameter for parameter in owned if parameter in at_module]
            if by_autograd and not record.is_relative_positions:
                with autocast(device, lower):
                    several = fallback_gradients(record, by_autograd, count, outputs)
                for parameter, dense in zip(by_autograd, several, strict=True):
                    parts.setdefault(names[parameter], []).append(dense)
        for index, name in enumerate(direct):
            gradients = [of_logit[index] for of_logit in direct_gradients]
            if any(gradient is not None for gradient in gradients):
                zeros = torch.zeros_like(trainable[name])
                rows = [zeros if gradient is None else gradient for gradient in gradients]
                parts[name] = [DenseFactors(torch.stack([row.reshape(1, -1) for row in rows]))]
        merged = {name: merge(uses, trainable[name].shape) for name, uses in parts.items()}
    return Tangents(logits, merged)


def _yielded(rule: Rule, use: Use, names: Sequence[str]) -> list[tuple[nn.Parameter, Factors]]:
    """Return what a rule makes of a use, or raise that it fails for the parameters of these names."""
    try:
        return list(rule(use))
    except Exception as error:
        raise RuleFailedError(type(use.module).__name__, names) from error


def without_rule(model: nn.Module, trainable: Mapping[str, nn.Parameter]) -> tuple[str, ...]:
    """Return the names of the parameters that no module with a rule owns, whether a text uses them or not."""
    ruled = {
        parameter for module in model.modules() if rule_of(module) is not None for parameter in _owned(module)
    }
    return tuple(name for name, parameter in trainable.items() if parameter not in ruled)


def _owned(module: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that a module's own forward uses: its own, and those of containers in it."""
    owned = list(module.parameters(recurse=False))
    for child in module.children():
        if isinstance(child, CONTAINERS):
            owned += _owned(child)
    return owned


def _watched_modules(
    model: nn.Module, ruled: set[nn.Parameter], at_module: set[nn.Parameter]
) -> tuple[set[nn.Module], set[nn.Module]]:
    """Return the modules to watch, those with parameters that count, and the lookups among the others.

    Gradients start at the lowest of the first. Tables of relative biases are in neither: they have no batch axis.
    """
    biases = {m.relative_attention_bias for m in model.modules() if is_bias_owner(m)}
    owners: set[nn.Module] = set()
    lookups: set[nn.Module] = set()
    for module in model.modules():
        if isinstance(module, CONTAINERS) or module in biases:
            continue
        covered = at_module if rule_of(module) is None else at_module | ruled
        if any(parameter in covered for parameter in _owned(module)):
            owners.add(module)
        elif isinstance(module, nn.Embedding):
            lookups.add(module)
    return owners, lookups


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
    # else a table that is given a shape
    inputs = values[0] if values and isinstance(values[0], Tensor) else output
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
