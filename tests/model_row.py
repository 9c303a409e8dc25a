"""A row of the table of models: how a small network is built and read, and which of its coordinates are rounding noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import peft
import torch
from torch import Tensor, nn

from lmntk.models.filters import ParameterFilter
from lmntk.models.logit_model import ClassifierModel, HeadModel, LogitModel, PromptModel, untie_head

VOCABULARY = 37
LABELS = (5, 9, 7)
FIRST_ID = 4  # ids below are special in every family
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 24,
}


Noise = Callable[[Tensor], Tensor]  # from a parameter to the mask of its coordinates that are rounding noise


def whole(parameter: Tensor) -> Tensor:
    return torch.ones_like(parameter, dtype=torch.bool)


def middle_third(parameter: Tensor) -> Tensor:
    """The keys' part of a bias of queries, keys and values."""
    mask = torch.zeros_like(parameter, dtype=torch.bool)
    mask[len(mask) // 3 : 2 * len(mask) // 3] = True
    return mask


def unrotated_keys(parameter: Tensor) -> Tensor:
    """GPT-NeoX: a head's queries, keys and values one after the other, four wide; the first two are rotated."""
    mask = torch.zeros_like(parameter, dtype=torch.bool).reshape(2, 3, 4)
    mask[:, 1, 2:] = True
    return mask.flatten()


def unrotated_halves(parameter: Tensor) -> Tensor:
    """Phi: keys four wide, of which the first two are rotated."""
    mask = torch.zeros_like(parameter, dtype=torch.bool).reshape(2, 4)
    mask[:, 2:] = True
    return mask.flatten()


@dataclass(frozen=True)
class Row:
    """A family: how to build it, and what is known of it beforehand."""

    config: Callable[..., Any]
    settings: dict[str, Any]
    network: type[nn.Module]
    reading: str = "mask"  # where the logits are read: mask, last, decoder
    untied: bool = False
    head_mode: bool = False
    classifier: bool = False
    features: str = "read"
    adapter: Callable[[], Any] | None = None  # a peft configuration
    trained: bool = True  # the adapter is moved away from its start, where B = 0
    parameters: ParameterFilter = field(default_factory=ParameterFilter)
    noise: Mapping[str, Noise] = field(
        default_factory=lambda: {"*.key.bias": whole, "*.k_lin.bias": whole}
    )  # names' patterns
    relative_positions: bool = False  # so that padding on the left leaves the function as it is
    batched: bool = True
    fallback: tuple[str, ...] = ()  # patterns of names that go by plain autograd
    token_types: bool = False
    attentions: tuple[str, ...] = ("sdpa", "eager")
    precision: torch.dtype = torch.float64
    moved: float = 0.2  # how far parameters are moved from where they start, standard deviation
    tolerance: float = 1e-10  # 1e-6 where the library computes in float32 inside

    def build(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> Any:
        """Returns the network with every parameter, biases and norms too, moved away from 0 and 1."""
        torch.manual_seed(seed)
        network = self.network(self.config(**self.settings)).double()
        self._move(network)
        if self.untied:
            untie_head(network)
            with torch.no_grad():
                network.get_output_embeddings().weight.add_(0.2 * torch.randn(VOCABULARY, 1))
        if self.adapter is not None:
            network = peft.get_peft_model(network, self.adapter()).double()
            if self.trained:
                self._move(network)
        return network.to(dtype).eval()

    def _move(self, network: nn.Module) -> None:
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(self.moved * torch.randn_like(parameter))

    def model(self, outputs: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> LogitModel:
        """Returns a model of 2 or 3 logits, or with ``outputs=1`` of a difference."""
        classes = max(outputs, 2)
        if self.classifier:
            row = replace(self, settings=self.settings | {"num_labels": classes})
            return ClassifierModel(row.build(seed, dtype), outputs == 1)
        network = self.build(seed, dtype)
        if self.head_mode:
            return HeadModel(network, nn.Linear(8, classes).to(dtype), outputs == 1, self.features)
        return PromptModel(network, LABELS[:classes], outputs == 1)

    def noise_masks(self, trainable: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the masks [p] of the coordinates that are known to be rounding noise."""
        found = {}
        for name, parameter in trainable.items():
            masks = [
                make(parameter.detach().flatten())
                for pattern, make in self.noise.items()
                if fnmatchcase(name, pattern)
            ]
            if masks:
                found[name] = masks[0]
        return found

    def goes_by_autograd(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self.fallback)
