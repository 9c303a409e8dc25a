"""A fresh LoRA on a network, as peft has it, with the random start that the kernels know."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lmntk.errors import UserError
from lmntk.finetuning.trained import NETWORK, Trained, own_head
from lmntk.kernels.lora import Draw
from lmntk.models.filters import has_adapter
from lmntk.models.logit_model import LogitModel
from lmntk.models.parts import parts_of
from lmntk.models.targets import check_rank, parameters_of

ADAPTER = "default"
LORA = ".lora_"


@contextmanager
def lora(model: LogitModel, rank: int, alpha: float, targets: str | None, seed: int) -> Iterator[Trained]:
    """Put a fresh LoRA (A random, B zero) on the network while the body runs.

    Yields its parameters, and those of a head that is not the network's own. Afterwards every module, flag
    and attribute is as it was.

    Args:
        model: a LogitModel without an adapter.
        rank: of every adapted layer.
        alpha: its scale is alpha / rank.
        targets: what is adapted, such as ``query+value``; None: where peft puts it.
        seed: of A, which is the one whose kernels ``kernels.lora.Draw`` gives under this seed.

    Raises:
        UserError: peft is not installed, the network has an adapter already, targets without linear maps, or a
            rank that is larger than a layer.
    """
    if has_adapter(model):
        raise UserError(
            "lora-rank: the model is an adapter already; leave lora-rank out, and the adapter's own parameters train"
        )
    try:
        peft = importlib.import_module("peft")
    except ImportError as error:
        raise UserError("lora-rank: needs PEFT; install it with pip install 'lmntk[peft]'") from error
    modules = _usual_modules(model) if targets is None else _modules_of(model, targets, rank)
    network: Any = model.network
    required = {parameter: parameter.requires_grad for parameter in model.parameters()}
    training = {module: module.training for module in model.modules()}
    attributes = set(vars(network))
    head = own_head(model)
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=modules,
        fan_in_fan_out=_has_transposed(network),
    )
    with torch.random.fork_rng(devices=[]):  # peft draws an A, which is not kept
        tuner = peft.tuners.lora.LoraModel(network, {ADAPTER: config}, ADAPTER)
    try:
        chosen = {name: parameter for name, parameter in model.named_parameters() if LORA in name}
        _draw(chosen, rank, seed)
        yield Trained(model, chosen | head, lambda values: _merged(model, values))
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


def _draw(parameters: Mapping[str, nn.Parameter], rank: int, seed: int) -> None:
    """Fill every A with the rows that the kernels' draw of this seed has: uniform on +-1 / sqrt(inputs), as peft's."""
    draw = Draw(seed, "kaiming")
    with torch.no_grad():
        for name, parameter in parameters.items():
            owner, is_first, _ = name.partition(f"{LORA}A.")
            if is_first:
                parameter.copy_(draw.matrix(f"{owner}.weight", rank, parameter.shape[1]))


def _modules_of(model: LogitModel, targets: str, rank: int) -> list[str]:
    """Return the full names, in the network, of the modules whose weights a target takes."""
    parts = parts_of(model)
    names = parameters_of(targets, parts, low_rank=True)
    check_rank(rank, targets, names, parts)
    return [name.removeprefix(NETWORK).removesuffix(".weight") for name in names]


def _usual_modules(model: LogitModel) -> list[str]:
    """Return the full names of the modules that LoRA goes on where nobody says so.

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
