"""The role of each parameter of a network: a part of attention, an MLP, a norm, a table; query, key or value; in which layer.

Families name their layers as they like; the tables here have all names that are known, and are the one place for them. What no
name tells comes from the modules: a table is an ``nn.Embedding``'s, a norm's class says so, and what the base model lacks is the head.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import nn

from lmntk.models.logit_model import LogitModel

Kind = Literal["weight", "bias", "norm", "table"]
Place = Literal["attention", "mlp", "head", "other"]

# the roles in attention of a linear map, by its module's own name; one map may have several
ATTENTION_ROLES: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("query", "query_proj", "q_proj", "q_lin", "q", "q_a_proj", "q_b_proj", "q_attn"), ("query",)
    ),
    **dict.fromkeys(("key", "key_proj", "k_proj", "k_lin", "k"), ("key",)),
    **dict.fromkeys(("value", "value_proj", "v_proj", "v_lin", "v"), ("value",)),
    **dict.fromkeys(("kv_proj", "kv_a_proj_with_mqa", "kv_b_proj"), ("key", "value")),
    **dict.fromkeys(
        ("c_attn", "qkv_proj", "query_key_value", "Wqkv", "qkv", "W_pack", "in_proj"),
        ("query", "key", "value"),
    ),
    **dict.fromkeys(
        ("dense", "out_proj", "o_proj", "out_lin", "o", "c_proj", "Wo", "wo"), ("attention-output",)
    ),
}
# of a module's path, any part
ATTENTION = re.compile(r"att(n|ention)", re.IGNORECASE)
MLP = re.compile(
    r"(.*_)?(mlp|ffn|moe|experts?)(_.*)?|feed_?forward|intermediate|output|DenseReluDense|fc_?(\d|in|out)|lin\d|w\d|wi|wo",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Part:
    """The role of a parameter.

    Attributes:
        kind: a table of embeddings, a norm's weight or bias, another bias, or another weight.
        place: the attention, the MLP, the head (what is not the base model's), or none of them.
        roles: in attention: ``query``, ``key``, ``value``, ``attention-output``; a fused map has several.
        layer: the number of its layer; None outside of layers.
        linear: it is a linear map's matrix, which LoRA can adapt.
        bias: it is a bias, a norm's too.
        shape: the parameter's.
    """

    kind: Kind
    place: Place
    roles: tuple[str, ...] = ()
    layer: int | None = None
    linear: bool = False
    bias: bool = False
    shape: tuple[int, ...] = ()

    @property
    def adaptable(self) -> bool:
        """Return whether LoRA on all linear maps adapts it: a linear map's matrix, not the head's."""
        return self.linear and self.place != "head"

    @property
    def type(self) -> str:
        """The one type that it counts as: attention, mlp, embeddings, norms, biases, head or other."""
        of_kind = {"table": "embeddings", "norm": "norms", "bias": "biases"}
        return of_kind.get(self.kind, self.place)


def is_bias(name: str) -> bool:
    """Return whether a parameter is called a bias: ``bias`` itself, or a mixture's ``down_proj_bias``."""
    last = name.rsplit(".", 1)[-1]
    return last == "bias" or last.endswith("_bias")


def layer_number(name: str) -> int | None:
    """Return the number of the layer that a parameter is in: the first number in its name."""
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def parts_of(model: LogitModel, names: Iterable[str] | None = None) -> dict[str, Part]:
    """Return what each of the model's parameters is, by name, or each of the named ones."""
    from transformers.pytorch_utils import Conv1D

    owners = {p: module for module in model.modules() for p in module.parameters(recurse=False)}
    tables = {p for p, module in owners.items() if isinstance(module, nn.Embedding)}
    for module in model.modules():
        if isinstance(
            module, nn.Embedding
        ):  # a tied decoder's weight is a table, whichever module comes last
            tables |= set(module.parameters(recurse=False))
    body = {parameter for module in model.body() for parameter in module.parameters()}
    every = dict(model.named_parameters())
    parts = {}
    for name in every if names is None else names:
        parameter = every[name]
        module = owners[parameter]
        kind: Kind = "bias" if is_bias(name) else "weight"
        if parameter in tables:
            kind = "table"
        elif "norm" in type(module).__name__.lower():
            kind = "norm"
        place = _place(name) if parameter in body else "head"
        roles = (
            ATTENTION_ROLES.get(name.split(".")[-2], ()) if place == "attention" and kind == "weight" else ()
        )
        linear = kind == "weight" and isinstance(module, nn.Linear | Conv1D) and parameter.dim() == 2
        shape = tuple(parameter.shape)
        parts[name] = Part(kind, place, roles, layer_number(name), linear, is_bias(name), shape)
    return parts


def _place(name: str) -> Place:
    """Return the place of a parameter of the base model, by its path."""
    path = name.split(".")[:-1]
    if any(ATTENTION.search(part) for part in path):
        return "attention"
    return "mlp" if layer_number(name) is not None and any(MLP.fullmatch(part) for part in path) else "other"
