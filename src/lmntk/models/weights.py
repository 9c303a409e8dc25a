"""Other values for a model's parameters, for a while: fine-tuned weights in place of the pre-trained ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lmntk.errors import ModelError


@contextmanager
def at_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Let the named parameters hold these values while the body runs.

    Afterwards they hold exactly, to the bit, what they held before.

    Args:
        model: changed in place; modules and optimizers that hold its parameters see the change.
        weights: values by the names of ``model.named_parameters()``, each of its parameter's shape; others
            stay.

    Memory: a copy of the named parameters.

    Raises:
        ModelError: a name that the model does not have, or another shape.
    """
    parameters = dict(model.named_parameters())
    for name, value in weights.items():
        if name not in parameters:
            raise ModelError(
                f"the model has no parameter {name!r}, which the weights have; they are of another model"
            )
        if value.shape != parameters[name].shape:
            shapes = f"{tuple(value.shape)}, not {tuple(parameters[name].shape)}"
            raise ModelError(f"the weights of {name!r} have the shape {shapes}; they are of another model")
    before = {name: parameters[name].detach().clone() for name in weights}
    try:
        with torch.no_grad():
            for name, value in weights.items():
                parameters[name].copy_(value)
        yield
    finally:
        with torch.no_grad():
            for name, value in before.items():
                parameters[name].copy_(value)
