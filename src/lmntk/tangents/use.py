"""One call of a module, as rules see it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Use:
    """One call of a module on a batch: what went in, and every logit's gradient at what came out."""

    module: Any  # the nn.Module; rules know its attributes
    inputs: Tensor  # (n, t, i), or (n, t) for ids
    output_gradients: Tensor  # (c, n, t, o)
    selected_rows: Tensor | None = None  # the module computed only these output rows
    arguments: tuple[Any, ...] = ()  # the call as it was, for rules that repeat it
    keywords: dict[str, Any] = field(default_factory=dict)
    # (c, *shape) each, in the order of the module's floating-point outputs; the first is
    # ``output_gradients``, as it came
    every_gradient: tuple[Tensor, ...] = ()
