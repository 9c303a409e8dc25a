"""A check that a text's logits are numbers, and do not depend on the rest of its batch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from lmntk.checkup.findings import Finding, some
from lmntk.models.invariants import BATCH, FINITE
from lmntk.models.rounding import LOGITS
from lmntk.models.state import Batch, frozen

# Of a module's largest output: an order of magnitude below, for what a module mixes may have little weight in
# the logits.
MODULE_TOLERANCE = {torch.float64: 1e-7, torch.float32: 1e-5}


def _mixes_in_training(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm) or "BatchNorm" in type(module).__name__


def check_batches(model: nn.Module, together: Batch, alone: Sequence[Batch]) -> tuple[Finding, bool]:
    """Return whether each text has the same logits alone and in the batch.

    If not, the first module that tells them apart is named.

    Also whether there is anything to look at further: False when a text alone has no logits, or they or
    parameters are not finite.

    Args:
        model: from a batch to logits [n, c].
        together: all texts, padded.
        alone: the same texts, each in a batch of its own.
    """
    bad = [name for name, parameter in model.named_parameters() if not bool(torch.isfinite(parameter).all())]
    if bad:
        line = f"these parameters are not finite: {some(bad)}; load a sound checkpoint"
        return Finding(FINITE.name, "fault", line, {"parameters": bad}), False
    try:
        logits = _logits(model, together)
        singles = torch.cat([_logits(model, batch) for batch in alone])
    except (RuntimeError, ValueError) as error:  # BatchNorm without running statistics refuses a text alone
        return _refused(model, [together, *alone], error), False
    if not bool(torch.isfinite(logits).all() and torch.isfinite(singles).all()):
        return _not_finite(model, [together, *alone]), False
    scale = float(singles.abs().max()) or 1.0
    apart = (logits - singles).abs().amax(1) / scale  # (n,)
    difference, worst = float(apart.max()), int(apart.argmax())
    details: dict[str, Any] = {"largest_relative_difference": difference}
    if difference > LOGITS.get(logits.dtype, 1e-2):
        culprit = _first_difference(model, together, alone[worst], worst)
        line = (
            f"a text's logits depend on the rest of its batch or its padding ({difference:.1e}), from {culprit} on: "
            "kernels go one text at a time, unpadded, and fine-tuning in batches would not follow them; "
            "mend or replace the module"
        )
        return Finding(BATCH.name, "fault", line, details | {"module": culprit}), True
    mixing = [_shown(name, module) for name, module in model.named_modules() if _mixes_in_training(module)]
    if mixing:
        line = (
            f"{some(mixing)} mixes the texts of a batch in training: "
            "fine-tuning would not follow the kernel; replace or freeze it"
        )
        return Finding(BATCH.name, "fault", line, details | {"module": mixing[0]}), True
    if len(alone) == 1:
        return Finding(
            BATCH.name, "note", "a single text does not show whether a batch matters; give several"
        ), True
    return Finding(
        BATCH.name,
        "fine",
        f"logits do not depend on the rest of the batch or its padding (to {difference:.1e})",
        details,
    ), True


def _logits(model: nn.Module, batch: Batch) -> Tensor:
    with frozen(model), torch.no_grad():
        logits: Tensor = model(batch)
    return logits


def _shown(name: str, module: nn.Module) -> str:
    return f"{name} ({type(module).__name__})" if name else f"{type(module).__name__} itself"


@dataclass
class Calls:
    """The inputs and outputs of every module in one pass, and the modules in the order in which they ended.

    Inner modules end first.
    """

    uses: dict[nn.Module, list[tuple[list[Tensor], list[Tensor]]]] = field(default_factory=dict)
    # where an error is raised: the modules that did not end
    running: list[nn.Module] = field(default_factory=list)
    error: Exception | None = None


def _calls(model: nn.Module, batch: Batch) -> Calls:
    calls = Calls()

    def begin(module: nn.Module, arguments: Any) -> None:
        calls.running.append(module)

    def end(module: nn.Module, arguments: Any, keywords: Any, output: Any) -> None:
        calls.running.pop()
        calls.uses.setdefault(module, []).append((_floats((arguments, keywords)), _floats(output)))

    with ExitStack() as stack, frozen(model), torch.no_grad():
        for module in model.modules():
            stack.callback(module.register_forward_pre_hook(begin).remove)
            stack.callback(module.register_forward_hook(end, with_kwargs=True).remove)
        try:
            model(batch)
        except (RuntimeError, ValueError) as error:
            calls.error = error
    return calls


def _floats(values: Any) -> list[Tensor]:
    return [
        each.detach()
        for each in tree_flatten(values)[0]
        if isinstance(each, Tensor) and each.is_floating_point()
    ]


def _refused(model: nn.Module, batches: Sequence[Batch], error: Exception) -> Finding:
    """Return a fault that names the module in which the first batch that fails does."""
    names = {module: name for name, module in model.named_modules()}
    for index, batch in enumerate(batches):
        calls = _calls(model, batch)
        if calls.error is not None:
            module = calls.running[-1]
            culprit = _shown(names[module], module)
            texts = "the texts together" if index == 0 else "a text alone"
            reason = " ".join(str(calls.error).split())[:200]
            line = f"{culprit} cannot compute {texts}: {reason}; replace the module"
            return Finding(BATCH.name, "fault", line, {"module": culprit})
    return Finding(
        BATCH.name, "fault", f"the model fails: {' '.join(str(error).split())[:200]}; run it once more"
    )


def _not_finite(model: nn.Module, batches: Sequence[Batch]) -> Finding:
    """Return a fault that names the first module whose outputs are not finite."""
    names = {module: name for name, module in model.named_modules()}
    for batch in batches:
        for module, uses in _calls(model, batch).uses.items():
            for _, outputs in uses:
                if not all(bool(torch.isfinite(output).all()) for output in outputs):
                    culprit = _shown(names[module], module)
                    line = (
                        f"the logits are not finite, from {culprit} on: "
                        "try another dtype or attention implementation"
                    )
                    return Finding(FINITE.name, "fault", line, {"module": culprit})
    return Finding(
        FINITE.name, "fault", "the logits are not finite: try another dtype or attention implementation"
    )


def _first_difference(model: nn.Module, together: Batch, alone: Batch, index: int) -> str:
    """Return the innermost module whose output for a text differs though its inputs do not."""
    whole, single = _calls(model, together).uses, _calls(model, alone).uses
    count = next(iter(together.values())).shape[0]
    names = {module: name for name, module in model.named_modules()}
    for module in whole:
        for (inputs, outputs), (own_inputs, own_outputs) in zip(
            whole[module], single.get(module, []), strict=False
        ):
            if _agree(inputs, own_inputs, count, index) and not _agree(outputs, own_outputs, count, index):
                return _shown(names[module], module)
    return "a module that could not be found"


def _agree(batch: Sequence[Tensor], single: Sequence[Tensor], count: int, index: int) -> bool:
    """Return whether one text's part of tensors [n, t, ...] equals its own [1, t', ...].

    They are compared up to the shorter length.
    """
    for whole, alone in zip(batch, single, strict=False):
        part = whole[index : index + 1] if whole.dim() and whole.shape[0] == count else whole
        if part.dim() != alone.dim():
            continue
        cut = tuple(slice(0, min(a, b)) for a, b in zip(part.shape, alone.shape, strict=True))
        part, alone = part[cut], alone[cut]
        finite = torch.isfinite(part) & torch.isfinite(alone)  # masks hold infinities
        part, alone = torch.where(finite, part, 0.0), torch.where(finite, alone, 0.0)
        if alone.numel() and float((part - alone).abs().max()) > MODULE_TOLERANCE.get(
            alone.dtype, 1e-2
        ) * float(alone.abs().max()):
            return False
    return True
