"""The optimizers of the paper: SGD without momentum, AdamW without decay, and SignGD."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from lmntk.errors import UserError

NAMES = ("sgd", "adamw", "signgd")
# The grids of LM-BFF (Adam) and of the paper (SGD). SignGD takes Adam's: its steps have the size of Adam's
# first.
LEARNING_RATES = {
    "sgd": (1e-4, 5e-4, 1e-3, 5e-3, 1e-2),
    "adamw": (1e-5, 2e-5, 5e-5),
    "signgd": (1e-5, 2e-5, 5e-5),
}
BATCH_SIZES = (2, 4, 8)


class SignGD(torch.optim.Optimizer):
    """Sign descent: theta <- theta - lr sign(gradient), sign(0) = 0; Adam without memory.

    Clipping the gradient before changes nothing but its zeros.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Take a step, and return what ``closure`` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.sub_(parameter.grad.sign(), alpha=group["lr"])
        return loss


def make_optimizer(name: str, parameters: Iterable[nn.Parameter], rate: float) -> torch.optim.Optimizer:
    """Return the optimizer of a name.

    Raises:
        UserError: there is none.
    """
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=rate)
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    if name == "signgd":
        return SignGD(parameters, lr=rate)
    raise UserError(f"finetune: {name!r} is not one of {', '.join(NAMES)}")
