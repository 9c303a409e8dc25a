"""Whether a text's logits depend on what else is in its batch, and if so, where that begins."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from lmntk.checkup.findings import Finding
from lmntk.models.state import Batch, frozen

TOLERANCE = 1e5  # machine epsilons


def check_batches(model: nn.Module, together: Batch, alone: Sequence[Batch]) -> list[Finding]:
    """Returns whether each text has the same logits alone and in the batch, and the first module that tells them apart.

    Args:
        model: from a batch to logits [n, c].
        together: all texts, padded.
        alone: the same texts, each in a batch of its own.
    """
    coupling = [
        f"{name} ({type(module).__name__})" for name, module in model.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]
    with frozen(model), torch.no_grad():
        logits = model(together)
        single = torch.cat([model(batch) for batch in alone])
    if not bool(torch.isfinite(logits).all() and torch.isfinite(single).all()):
        return [Finding("batch", "fault", "the logits are not finite: try another dtype or attention implementation")]
    scale = float(single.abs().max()) or 1.0
    difference = float((logits - single).abs().max()) / scale
    details: dict[str, Any] = {"largest_relative_difference": difference}
    if difference > TOLERANCE * torch.finfo(logits.dtype).eps:
        culprit = _first_difference(model, together, alone[0])
        line = f"a text's logits depend on the rest of its batch ({difference:.1e}), from {culprit} on: its kernel is not defined"
        return [Finding("batch", "fault", line, details | {"module": culprit})]
    if coupling:
        line = f"{coupling[0]} mixes the texts of a batch in training: fine-tuning would not follow the kernel; take it out or freeze it"
        return [Finding("batch", "fault", line, details | {"module": coupling[0]})]
    return [Finding("batch", "fine", f"logits do not depend on the rest of the batch or its padding (to {difference:.1e})", details)]


def _first_difference(model: nn.Module, together: Batch, alone: Batch) -> str:
    """Returns the innermost module whose output for the first text differs though its inputs do not."""
    order: list[nn.Module] = []
    seen = [_calls(model, batch, order if index == 0 else []) for index, batch in enumerate((together, alone))]
    count = next(iter(together.values())).shape[0]
    names = {module: name for name, module in model.named_modules()}
    for module in order:  # in the order in which they end: inner before outer
        for (inputs, outputs), (single_inputs, single_outputs) in zip(seen[0][module], seen[1].get(module, []), strict=False):
            if _agree(inputs, single_inputs, count) and not _agree(outputs, single_outputs, count):
                return f"{names[module]} ({type(module).__name__})"
    return "a module that could not be told"


def _calls(model: nn.Module, batch: Batch, order: list[nn.Module]) -> dict[nn.Module, list[tuple[list[Tensor], list[Tensor]]]]:
    calls: dict[nn.Module, list[tuple[list[Tensor], list[Tensor]]]] = {}

    def keep(module: nn.Module, arguments: Any, keywords: Any, output: Any) -> None:
        if module not in calls:
            order.append(module)
        calls.setdefault(module, []).append((_floats((arguments, keywords)), _floats(output)))

    with ExitStack() as stack, frozen(model), torch.no_grad():
        for module in model.modules():
            stack.callback(module.register_forward_hook(keep, with_kwargs=True).remove)
        model(batch)
    return calls


def _floats(values: Any) -> list[Tensor]:
    return [each.detach() for each in tree_flatten(values)[0] if isinstance(each, Tensor) and each.is_floating_point()]


def _agree(batch: Sequence[Tensor], single: Sequence[Tensor], count: int) -> bool:
    """Compares the first text's part of tensors [n, t, ...] with its own [1, t', ...], up to the shorter length."""
    for whole, alone in zip(batch, single, strict=False):
        part = whole[:1] if whole.dim() and whole.shape[0] == count else whole
        if part.dim() != alone.dim():
            continue
        cut = tuple(slice(0, min(a, b)) for a, b in zip(part.shape, alone.shape, strict=True))
        part, alone = part[cut], alone[cut]
        scale = 1.0 + float(alone.abs().max()) if alone.numel() else 1.0
        if alone.numel() and float((part - alone).abs().max()) > 10 * TOLERANCE * torch.finfo(alone.dtype).eps * scale:
            return False
    return True
