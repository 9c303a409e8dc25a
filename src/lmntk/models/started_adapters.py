"""Fresh adapters whose start is made of the network's own weights: PiSSA and OLoRA. Both of their factors have gradients."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import nn

from lmntk.errors import UserError
from lmntk.models.filters import has_adapter
from lmntk.models.logit_model import LogitModel

OwnStart = Literal["pissa", "olora"]
NETWORK, WEIGHT, NAME = "network.", ".weight", "default"


@contextmanager
def started_adapter(
    model: LogitModel, weights: Sequence[str], rank: int, init: OwnStart, alpha: float | None = None
) -> Iterator[dict[str, nn.Parameter]]:
    """Put a fresh adapter on the network while the body runs; yield its parameters by name.

    The logits stay as they are, to rounding: what the adapter adds is taken from the weights. Afterwards every module, weight, flag and
    attribute is as it was.

    Args:
        model: from a batch to logits.
        weights: the names of the linear maps' matrices.
        rank: of the adapter.
        init: ``pissa``: the weight's largest singular vectors; ``olora``: an orthonormal part of it.
        alpha: the scale is alpha / rank; by default one.

    Raises:
        UserError: peft is not installed, the network has an adapter already, or peft has no such start for it.
    """
    if has_adapter(model):
        raise UserError(f"{init}: the model is an adapter already; give its base model")
    if init not in get_args(OwnStart):
        raise UserError(f"subspaces: no start {init!r} is known; give one of {', '.join(get_args(OwnStart))}")
    try:
        peft: Any = importlib.import_module("peft")
    except ImportError as error:
        raise UserError(f"{init}: needs PEFT; install it with pip install 'lmntk[peft]'") from error
    from transformers.pytorch_utils import Conv1D

    network: Any = model.network
    flags = {parameter: parameter.requires_grad for parameter in model.parameters()}
    training = {module: module.training for module in model.modules()}
    attributes = set(vars(network))
    names = [name.removeprefix(NETWORK).removesuffix(WEIGHT) for name in weights]
    adapted = {name: network.get_submodule(name) for name in names}
    transposed = any(isinstance(module, Conv1D) for module in adapted.values())
    if transposed and init == "olora":  # peft 0.21 makes its factors of the wrong shapes
        raise UserError(
            f"olora: PEFT does not start it on transposed maps, such as {weights[0]!r}; use pissa"
        )
    before = {name: module.weight.detach().clone() for name, module in adapted.items()}
    for module in adapted.values():  # peft makes these starts in float32
        module.weight.data = module.weight.data.float()
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=rank if alpha is None else alpha,
        target_modules=names,
        init_lora_weights=init,
        fan_in_fan_out=transposed,
    )
    tuner = peft.tuners.lora.LoraModel(network, {NAME: config}, NAME)
    try:
        for name in names:
            _convert(network.get_submodule(name), before[name].dtype)
        yield {name: parameter for name, parameter in model.named_parameters() if ".lora_" in name}
    finally:
        tuner.unload()
        for name, weight in before.items():
            adapted[name].weight.data = weight
        for added in set(vars(network)) - attributes:
            delattr(network, added)
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)
        for module, flag in training.items():
            module.training = flag


def _convert(layer: nn.Module, dtype: torch.dtype) -> None:
    for parameter in layer.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
