"""Parameters that train, whatever they are: a network's own, LoRA's, or the coordinates of a random subspace."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from lmntk.models.logit_model import LogitModel

NETWORK = "network."  # begins the names of a LogitModel's parameters that are the network's own


@dataclass(frozen=True)
class Trained:
    """Parameters that train.

    Attributes:
        module: from a batch to logits, whose parameters they are.
        parameters: by their names in the module.
        own: from their values to those of the LogitModel's own parameters.
    """

    module: nn.Module
    parameters: Mapping[str, nn.Parameter]
    own: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


def own_head(model: LogitModel) -> dict[str, nn.Parameter]:
    """Return the parameters of a head that was put on a network, which trains beside whatever trains of the network."""
    return {name: parameter for name, parameter in model.named_parameters() if not name.startswith(NETWORK)}
