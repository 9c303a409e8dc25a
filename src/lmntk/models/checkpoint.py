"""A checkpoint on disk, with or without an adapter, made into a network; weights are never made up."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lmntk.errors import UserError, one_line
from lmntk.models.adapters import Adapter, put_adapter
from lmntk.models.hub import Location
from lmntk.models.kinds import KINDS, auto_class, can_do_without_cache, kind_of
from lmntk.models.named_files import check_named_files, check_types
from lmntk.models.vocabulary import head_of, is_tied
from lmntk.system.notices import say

_LAYER = re.compile(r"\.\d+\.")  # in the name of a layer's weight
ADVICE = {
    "masked": "use a masked-LM checkpoint, or head mode",
    "causal": "use a causal-LM checkpoint, or head mode",
    "seq2seq": "use a sequence-to-sequence checkpoint, or head mode",
    "classifier": "use a fine-tuned classifier, or another kind",
}


@contextmanager
def loading(shown: str) -> Iterator[None]:
    """Turn what the libraries raise about a file into a ``UserError`` in one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # each library has its own, and a wrong type in a configuration may raise any
        raise UserError(f"{shown}: {one_line(error)}") from error


@dataclass(frozen=True)
class Checkpoint:
    """A model's configuration and weights in a folder, and the adapter to put on it."""

    name: str
    location: Location
    adapter: Adapter | None

    def load(
        self, dtype: torch.dtype, attention: str | None, kind: str, needs_head: bool | None
    ) -> tuple[Any, str, str]:
        """Return the network in eval mode, its kind, and the data type that its weights are stored in.

        Raises:
            UserError: files that cannot be read, a kind that the model has not, quantised weights, weights
                that are missing.
        """
        from transformers import CONFIG_MAPPING, AutoConfig

        folder = str(self.location.folder)
        check_named_files(self.name, self.location)
        with loading(f"model: cannot load {self.name!r}"):
            stored = json.loads((self.location.folder / "config.json").read_text(encoding="utf8"))
            if not isinstance(stored, dict):
                raise UserError(f"model: the config.json of {self.name!r} is no table of settings")
            if stored.get("auto_map") and stored.get("model_type") not in CONFIG_MAPPING:
                raise UserError(
                    f"model: {self.name!r} needs Python code of its own, which is never run; "
                    "use a model that transformers has"
                )
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            kind = kind_of(config, self.name, kind)
        if getattr(config, "quantization_config", None) is not None and self.adapter is None:
            raise UserError(
                f"model: {self.name!r} has quantised weights, which have no gradient; "
                "use the unquantised checkpoint, or train an adapter on it and give the adapter's folder"
            )
        if not any(self.location.has(file) for file in ("model.safetensors", "model.safetensors.index.json")):
            pickled = (
                " (pytorch_model.bin is a pickle, which is never read)"
                if self.location.has("pytorch_model.bin")
                else ""
            )
            raise UserError(
                f"model: cannot load {self.name!r}: it has no model.safetensors{pickled}; "
                "save it again with transformers"
            )
        if (
            kind == "classifier"
            and self.adapter is not None
            and self.adapter.classes not in (None, config.num_labels)
        ):
            config.num_labels = self.adapter.classes
        extra = {} if attention is None else {"attn_implementation": attention}
        if dtype == torch.float64:  # the grouped matrix product of mixtures of experts has no float64
            config._experts_implementation = "eager"
        with loading(f"model: cannot load {self.name!r} as a {KINDS[kind]} model"):
            network, report = auto_class(kind, config).from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                output_loading_info=True,
                local_files_only=True,
                trust_remote_code=False,
                **extra,
            )
        if getattr(config, "quantization_config", None) is None:
            check_types(self.name, self.location, dict(network.named_parameters()))
        supplied = () if self.adapter is None else self.adapter.shapes
        missing = {*report["missing_keys"], *_tied_against_its_config(network, stored)}
        _check_weights(
            self.name,
            network,
            missing - set(supplied),
            kind,
            kind == "classifier" if needs_head is None else needs_head,
        )
        _clear(network, report["missing_keys"])
        _say_unused(self.name, report["unexpected_keys"])
        check_numbers(f"model: {self.name!r}", network)
        if kind in ("causal", "seq2seq") and can_do_without_cache(network.config):
            network.config.use_cache = False
        if self.adapter is not None:
            network = put_adapter(self.adapter, network, dtype)
            check_numbers(f"adapter: {self.adapter.name!r}", network)
        return network.eval(), kind, str(stored.get("dtype") or stored.get("torch_dtype") or "float32")


def _check_weights(name: str, network: Any, missing: Collection[str], kind: str, needs_head: bool) -> None:
    """Refuse a network with weights missing. A pooler's are no loss, except to the classifier on top of it.

    Tied weights are not among the missing ones when the weight that they are tied to is there.

    Raises:
        UserError: the head's weights are missing and needed, or others are.
    """
    lost = sorted(
        key for key in missing if _in_head(network, key) or (kind == "classifier" and ".pooler." in key)
    )
    if lost and needs_head:
        architecture = ", ".join(getattr(network.config, "architectures", None) or ["unknown"])
        raise UserError(
            f"model: {name!r} ({architecture}) has no {KINDS[kind]} head: {lost[0]!r} is not in its weights; "
            f"{ADVICE[kind]}"
        )
    others = sorted(key for key in missing if key not in lost and ".pooler." not in key)
    if others:
        raise UserError(
            f"model: {name!r} lacks weights, {others[0]!r} among {len(others)}; the checkpoint is incomplete"
        )


def _say_unused(name: str, unused: Collection[str]) -> None:
    """Say that a checkpoint has layers which its configuration does not count; heads of other kinds are no loss."""
    layers = sorted(key for key in unused if _LAYER.search(key))
    if layers:
        say(
            f"model: {name!r} has {len(layers)} weights of layers that its configuration does not have, {layers[0]!r} among them; "
            "they are left out"
        )


def check_numbers(shown: str, network: nn.Module) -> None:
    """Refuse weights that are no numbers: NaN, or infinite, but for a choice's logits (VB-LoRA: never chosen).

    Raises:
        UserError: there are some; the first parameter is named.
    """
    for name, parameter in network.named_parameters():
        if (
            parameter.dtype not in (torch.float64, torch.float32, torch.bfloat16, torch.float16)
            or not parameter.numel()
        ):
            continue
        ends = torch.stack(torch.aminmax(parameter.detach()))  # both are NaN if one entry is
        if bool(ends.isnan().any()) or (bool(ends.isinf().any()) and "vblora_logits" not in name):
            raise UserError(f"{shown} has a weight that is not finite, in {name!r}; get an undamaged copy")


def _in_head(network: Any, key: str) -> bool:
    """Return whether a weight is outside the base model.

    T5's base is the network itself, and its head the output embeddings.
    """
    if network.base_model is not network:
        return not key.startswith(f"{network.base_model_prefix}.")
    head = head_of(network)
    return any(
        key.startswith(f"{name}.") for name, module in network.named_modules() if name and module is head
    )


def _tied_against_its_config(network: Any, stored: dict[str, Any]) -> list[str]:
    """Return the name of a head's weight that was tied for want of one, against the stored configuration.

    So transformers does with T5 1.1: its weights alone would give logits of no model that was ever trained.
    """
    if stored.get("tie_word_embeddings") is not False or not is_tied(network):
        return []
    head = head_of(network)
    return [f"{name}.weight" for name, module in network.named_modules() if module is head]


def _clear(network: nn.Module, missing: Collection[str]) -> None:
    """Set weights that no file has to zero: at random, they would make the fingerprint another each time."""
    tensors = network.state_dict(keep_vars=True)
    kept = {id(tensor) for name, tensor in tensors.items() if name not in missing}
    with torch.no_grad():
        for name in missing:
            if name in tensors and id(tensors[name]) not in kept:
                tensors[name].zero_()
