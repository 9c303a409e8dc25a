"""Fine-tuning against its linearization at theta_0: f_lin(x) = f(x; theta_0) + <g(x), theta_FT - theta_0>."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lmntk.diagnosis.examples import Examples, device_of
from lmntk.errors import ModelError
from lmntk.solvers.inputs import Array
from lmntk.tangents.linearized import LinearizedModel


@dataclass(frozen=True, eq=False)
class Linearized:
    """Logits [n, c] float64 before fine-tuning, and after it of the model linearized at theta_0."""

    before: Array
    after: Array


def change_of(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return theta_FT - theta_0 by parameter; parameters that are not named stay.

    The difference is taken in the wider of the two types.

    Raises:
        ModelError: a name that the model does not have, or another shape.
    """
    parameters = dict(model.named_parameters())
    change = {}
    for name, value in weights.items():
        if name not in parameters or parameters[name].shape != value.shape:
            has = (
                f"it there with {tuple(parameters[name].shape)}"
                if name in parameters
                else "no such parameter"
            )
            raise ModelError(
                f"the weights have {name!r} with {tuple(value.shape)}, and the model {has}; "
                "they are of another model"
            )
        before = parameters[name].detach()
        wide = torch.promote_types(before.dtype, value.dtype)
        change[name] = (value.to(before.device, wide) - before.to(wide)).to(before.dtype)
    return change


def linearized_logits(model: nn.Module, examples: Examples, weights: Mapping[str, Tensor]) -> Linearized:
    """Return the logits before, and the linearized logits after fine-tuning.

    Args:
        model: at theta_0.
        examples: n of them.
        weights: theta_FT by the names of ``model.named_parameters()``.

    Cost: three forward passes a text (see ``LinearizedModel``). Memory: the change, and one batch.
    """
    change = change_of(model, weights)
    linearized = LinearizedModel(model, change)
    before: dict[int, Tensor] = {}
    after: dict[int, Tensor] = {}
    with torch.no_grad():
        for positions, batch in examples.on(device_of(model)):
            logits, slopes = linearized.taylor(batch)
            before.update(zip(positions, logits.double().cpu(), strict=True))
            after.update(zip(positions, (logits.double() + slopes.double()).cpu(), strict=True))
    order = range(len(examples))
    return Linearized(
        torch.stack([before[position] for position in order]).numpy(),
        torch.stack([after[position] for position in order]).numpy(),
    )


def recovered_share(zero_shot: float, fine_tuned: float, linearized: float) -> float:
    """Return (linearized - zero-shot) / (fine-tuned - zero-shot) of a metric; nan without a gain."""
    gain = fine_tuned - zero_shot
    return (linearized - zero_shot) / gain if gain > 0 else float("nan")
