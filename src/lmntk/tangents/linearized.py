"""A model linearized at its pre-trained weights, f(x; theta_0) + <grad f(x; theta_0), v>, in one pass a text.

The slope is a directional derivative: forward-mode differentiation carries it along with the forward pass,
for all logits at once, at about three times its cost. Where a network has a step that forward mode does not
know, or gets wrong, it is taken backward, twice.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from lmntk.errors import ModelError
from lmntk.models.state import Batch, frozen

# Of the largest slope of two texts, between the two ways. Llama-like models compute norms in float32 whatever
# their weights are.
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3}
CHECKED = 2  # texts of the first batch on which the two ways are compared


class LinearizedModel(nn.Module):
    """f_lin(x) = f(x; theta_0) + <grad f(x; theta_0), v>: weights move by v, and features stay.

    Args:
        model: from a batch to logits [n, c]; it is left as it is, in eval mode while it is looked at.
        direction: v, by the names of ``model.named_parameters()``, each of its parameter's shape; parameters
            that are not named stay.

    Attributes:
        direction: v as an ``nn.ParameterDict``, a dot in a name being a slash.
        backward: True once forward mode turned out not to do for this model; None before the first batch.

    Cost: three forward passes, or with ``backward`` about six. Memory: that of two forward passes; with
    ``backward`` of a training step.

    Example:
        >>> LinearizedModel(model, {"head.weight": v})(batch).shape  # doctest: +SKIP
        torch.Size([32, 2])
    """

    def __init__(self, model: nn.Module, direction: Mapping[str, Tensor]) -> None:
        super().__init__()
        parameters = dict(model.named_parameters())
        for name, tensor in direction.items():
            if name not in parameters:
                raise ModelError(
                    f"the model has no parameter {name!r}, which the direction has; "
                    "it was made with another model"
                )
            if tensor.shape != parameters[name].shape:
                shapes = f"{tuple(tensor.shape)}, not {tuple(parameters[name].shape)}"
                raise ModelError(
                    f"the direction of {name!r} has the shape {shapes}; it was made with another model"
                )
        self.model = model
        self.direction = nn.ParameterDict(
            {
                name.replace(".", "/"): nn.Parameter(tensor.to(parameters[name]))
                for name, tensor in direction.items()
            }
        )
        self.backward: bool | None = None

    def taylor(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return f(x; theta_0) [n, c] and the slopes <grad f_c(x), v> [n, c]."""
        if self.backward is None:
            self.backward = not self._forward_mode_is_right(
                {name: tensor[:CHECKED] for name, tensor in batch.items()}
            )
        return self._by_double_backward(batch) if self.backward else self._by_forward_mode(batch)

    def forward(self, batch: Batch) -> Tensor:
        """Return the linearized logits [n, c]."""
        logits, slopes = self.taylor(batch)
        return logits + slopes

    def _named(self) -> dict[str, Tensor]:
        return {name.replace("/", "."): tensor for name, tensor in self.direction.items()}

    def _by_forward_mode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        parameters = dict(self.model.named_parameters())
        prepare = getattr(self.model, "prepare", None)
        with (
            frozen(self.model),
            sdpa_kernel([SDPBackend.MATH]),
        ):  # the fused attention has no forward-mode rule
            if prepare is not None:
                prepare(batch)
            with forward_ad.dual_level():
                duals = {}
                for name, v in self._named().items():
                    weight = parameters[name].detach()
                    duals[name] = forward_ad.make_dual(weight, v)  # type: ignore[no-untyped-call]
                dual = functional_call(self.model, duals, (batch,), tie_weights=True)
                logits, slopes = forward_ad.unpack_dual(dual)  # type: ignore[no-untyped-call]
        return logits, torch.zeros_like(logits) if slopes is None else slopes

    def _by_double_backward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return logits and slopes J v, each the derivative with respect to u of u J v, which is linear in u.

        u J is an ordinary backward pass.
        """
        parameters, named, trained = (
            dict(self.model.named_parameters()),
            self._named(),
            torch.is_grad_enabled(),
        )
        chosen = [parameters[name] for name in named]
        with frozen(self.model, chosen), torch.enable_grad(), sdpa_kernel([SDPBackend.MATH]):
            logits = self.model(batch)
            u = torch.zeros_like(logits, requires_grad=True)
            rows = torch.autograd.grad(logits, chosen, u, create_graph=True, allow_unused=True)
            products = [
                (row * v).sum() for row, v in zip(rows, named.values(), strict=True) if row is not None
            ]
            (slopes,) = torch.autograd.grad(torch.stack(products).sum(), u, create_graph=trained)
        return logits.detach(), slopes if trained else slopes.detach()

    def _forward_mode_is_right(self, batch: Batch) -> bool:
        with torch.no_grad():
            try:
                _, slopes = self._by_forward_mode(batch)
            except RuntimeError:  # NotImplementedError is one
                return False
            _, expected = self._by_double_backward(batch)
        scale = float(expected.abs().max())
        return float((slopes - expected).abs().max()) <= TOLERANCE.get(slopes.dtype, 1e-2) * scale
