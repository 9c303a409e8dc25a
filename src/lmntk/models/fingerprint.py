"""One sha256 of a network: its configuration, its adapters' and the content of all its tensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

BOOKKEEPING = (
    "_name_or_path",
    "architectures",
    "transformers_version",
    "dtype",
    "torch_dtype",
    "id2label",
    "label2id",
)
ADAPTER_BOOKKEEPING = (
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "auto_mapping",
    "peft_version",
    "runtime_config",
)


def fingerprint(network: nn.Module) -> str:
    """Return the sha256 of a network's configuration, adapters, parameters and buffers. About 1 s a GB.

    The configuration counts because the same weights compute something else with, say, another number of
    heads; an adapter's, because its scaling is in no tensor.
    """
    config = getattr(network, "config", None)
    settings = (
        {}
        if config is None
        else {name: value for name, value in config.to_dict().items() if name not in BOOKKEEPING}
    )
    if "use_cache" in settings:
        settings["use_cache"] = True  # whether keys are kept for a next call changes no result
    content = [type(network).__name__, settings, *_adapters(network)]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, default=_plain).encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().contiguous().cpu().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _adapters(network: nn.Module) -> list[Any]:
    """Return the adapters' configurations and the scalings in use, layer by layer, if there are adapters."""
    configs = getattr(network, "peft_config", None)
    if not isinstance(configs, Mapping):
        return []
    kept = {
        adapter: {name: value for name, value in config.to_dict().items() if name not in ADAPTER_BOOKKEEPING}
        for adapter, config in configs.items()
    }
    scalings = {
        name: dict(module.scaling)
        for name, module in network.named_modules()
        if isinstance(getattr(module, "scaling", None), dict)
    }
    layers = [
        (name, module)
        for name, module in network.named_modules()
        if hasattr(module, "active_adapters") and hasattr(module, "merged")
    ]
    active = {
        name: [list(module.active_adapters), module.disable_adapters, module.merged]
        for name, module in layers
    }
    usual = [list(kept), False, False]  # the one adapter, in use
    return [kept, scalings, *([] if all(state == usual for state in active.values()) else [active])]


def _plain(value: Any) -> Any:
    """Return a value that JSON has no word for, in a form that is the same in every process.

    A set is in another order in each.
    """
    return sorted(map(str, value)) if isinstance(value, set | frozenset) else str(value)
