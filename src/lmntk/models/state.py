"""A model's flags while it is only being looked at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

Batch = Mapping[str, Tensor]  # tensors whose first axis is the example


@contextmanager
def frozen(model: nn.Module, asking: Sequence[nn.Parameter] = ()) -> Iterator[None]:
    """Run the body in eval mode with only ``asking`` requiring gradients, and restore every flag.

    Gradients of lookups are dense meanwhile: a sparse one holds the same numbers, and has fewer operations.
    """
    sparse = [module for module in model.modules() if getattr(module, "sparse", False) is True]
    training = {module: module.training for module in model.modules()}
    required = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        model.eval()
        for module in sparse:
            module.sparse = False  # type: ignore[assignment]
        for parameter in required:
            parameter.requires_grad_(False)
        for parameter in asking:
            parameter.requires_grad_(True)
        yield
    finally:
        for module, flag in training.items():
            module.training = flag
        for module in sparse:
            module.sparse = True  # type: ignore[assignment]
        for parameter, flag in required.items():
            parameter.requires_grad_(flag)
