"""Which parameters train: those of a filter, without bottom layers, or those of a fresh LoRA."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lmntk.errors import UserError
from lmntk.models.filters import ParameterFilter, has_adapter
from lmntk.models.logit_model import LogitModel
from lmntk.models.parts import parts_of
from lmntk.models.targets import depth, is_above

ADAPTER = "default"
BASE, LORA = ".base_layer.", ".lora_"


@dataclass(frozen=True)
class Subset:
    """A choice of what trains.

    Attributes:
        parameters: of the model as it is; with LoRA all, for there is nothing to choose from.
        freeze_layers: the embeddings and so many bottom layers do not train.
        lora_rank: train a fresh LoRA of this rank, and a head that was put on the network; a classifier's own
            head, which is the network's, stays as it is. None trains the parameters themselves.
        lora_alpha: its scale is alpha / rank.
        seed: of LoRA's random A.
    """

    parameters: ParameterFilter = field(default_factory=ParameterFilter)
    freeze_layers: int = 0
    lora_rank: int | None = None
    lora_alpha: float = 16.0
    seed: int = 0

    def suffix(self) -> str:
        """Return the ending of a method's name that names the choice, beyond the run's own filter."""
        parts = [
            f" (without {self.freeze_layers} bottom layers)" if self.freeze_layers else "",
            " (lora)" if self.lora_rank is not None else "",
        ]
        return "".join(parts)

    def as_dict(self) -> dict[str, object]:
        """Return the choice as plain data."""
        plain = self.parameters.as_dict()
        if self.freeze_layers:
            plain |= {"freeze_layers": self.freeze_layers}
        if self.lora_rank is not None:
            plain |= {"lora_rank": self.lora_rank, "lora_alpha": self.lora_alpha}
        return plain

    @contextmanager
    def chosen(self, model: LogitModel) -> Iterator[Trained]:
        """Yield the parameters that train.

        With LoRA the network has its layers while the body runs, and afterwards its own again.

        Raises:
            UserError: nothing is left, or LoRA with a filter, with frozen layers, or on a network that has an
                adapter already.
        """
        if self.lora_rank is None:
            selected = self.parameters.select(model)
            yield Trained(
                without_bottom(model, selected, self.freeze_layers) if self.freeze_layers else selected, dict
            )
            return
        if self.freeze_layers:
            raise UserError(
                "freeze-layers: LoRA leaves all of the network's own parameters as they are; "
                "give one of the two"
            )
        if self.parameters != ParameterFilter():
            described = self.parameters.describe()
            raise UserError(
                "lora-rank: LoRA trains what it adds, unfiltered; "
                f"leave out the filter ({described}), or lora-rank"
            )
        with lora(model, self.lora_rank, self.lora_alpha, self.seed) as trained:
            yield trained


@dataclass(frozen=True)
class Trained:
    """Parameters that train, by name, and what makes of their values those of the model's own parameters."""

    parameters: Mapping[str, nn.Parameter]
    own: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


def without_bottom(
    model: LogitModel, chosen: Mapping[str, nn.Parameter], layers: int
) -> dict[str, nn.Parameter]:
    """Return the chosen parameters but the embeddings' and the first ``layers`` layers'.

    A decoder tied to the embeddings goes with them.

    Of an encoder-decoder the first layers of both.

    Raises:
        UserError: there are not so many layers, or nothing is left.
    """
    parts = parts_of(model)
    deepest = depth(parts)
    if layers > deepest:
        raise UserError(f"freeze-layers: {layers} of the network's {deepest} layers; give at most {deepest}")
    left = {name: parameter for name, parameter in chosen.items() if is_above(name, parts[name], layers)}
    if not left:
        raise UserError(f"freeze-layers: nothing is left to train above {layers} layers; give fewer")
    return left


@contextmanager
def lora(model: LogitModel, rank: int, alpha: float, seed: int) -> Iterator[Trained]:
    """Put a fresh LoRA (A random, B zero) on the network's attention while the body runs, where peft puts it.

    Yields its parameters, and those of a head that is not the network's own. Afterwards every module, flag
    and attribute is as it was.

    Raises:
        UserError: peft is not installed, or the network has an adapter already.
    """
    if has_adapter(model):
        raise UserError(
            "lora-rank: the model is an adapter already; leave it out, and the adapter's own parameters train"
        )
    try:
        peft = importlib.import_module("peft")
    except ImportError as error:
        raise UserError("lora-rank: needs PEFT; install it with pip install 'lmntk[peft]'") from error
    network: Any = model.network
    required = {parameter: parameter.requires_grad for parameter in model.parameters()}
    training = {module: module.training for module in model.modules()}
    attributes = set(vars(network))
    head = {
        name: parameter for name, parameter in model.named_parameters() if not name.startswith("network.")
    }
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=_targets(peft, model),
        fan_in_fan_out=_has_transposed(network),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tuner = peft.tuners.lora.LoraModel(network, {ADAPTER: config}, ADAPTER)
    try:
        chosen = {name: parameter for name, parameter in model.named_parameters() if LORA in name}
        yield Trained(chosen | head, lambda values: _merged(model, values))
    finally:
        tuner.unload()
        # such as peft_config, by which a network is taken for an adapted one
        for name in set(vars(network)) - attributes:
            delattr(network, name)
        for parameter, flag in required.items():
            parameter.requires_grad_(flag)
        for module, flag in training.items():
            module.training = flag


def _has_transposed(network: nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return any(isinstance(module, Conv1D) for module in network.modules())


def _targets(peft: Any, model: LogitModel) -> list[str]:
    """Return the full names of the modules that LoRA goes on.

    They are peft's for the architecture, else all linear maps of the body.
    """
    from transformers.pytorch_utils import Conv1D

    known = importlib.import_module("peft.utils.constants").TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
    body = {module for part in model.body() for module in part.modules()}
    linear = [
        name
        for name, module in model.network.named_modules()
        if name and module in body and isinstance(module, nn.Linear | Conv1D)
    ]
    usual = known.get(getattr(model.network.config, "model_type", ""), [])
    usual = [usual] if isinstance(usual, str) else usual
    return [name for name in linear if name.rsplit(".", 1)[-1] in usual] or linear


def _merged(model: LogitModel, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the adapted layers' weights W + (alpha / r) B A by their names without LoRA, and the head's.

    A and B are looked up in ``values``, by the names of the model with LoRA in it.
    """
    merged = {name: value for name, value in values.items() if LORA not in name}
    for name, module in model.named_modules():
        a, b = (values.get(f"{name}.lora_{part}.{ADAPTER}.weight") for part in "AB")
        if a is None or b is None:
            continue
        weight = module.get_base_layer().weight.detach().cpu()
        change = module.scaling[ADAPTER] * (b @ a)
        merged[f"{name}.weight"] = weight + (change.T if module.fan_in_fan_out else change)
    return merged
