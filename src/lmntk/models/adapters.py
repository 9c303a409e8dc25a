"""Adapters of PEFT on a base model: read from a folder, without a pickle, and put into the base's layers."""

from __future__ import annotations

import importlib
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lmntk.errors import UserError, one_line
from lmntk.models.hub import Location, locate, looks_local
from lmntk.models.named_files import INDEX, SINGLE, check_named_files
from lmntk.models.vocabulary import head_weight, word_table

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PICKLE_FILE = "adapter_model.bin"
KINDS_OF_TASKS = {"CAUSAL_LM": "causal", "SEQ_2_SEQ_LM": "seq2seq", "SEQ_CLS": "classifier"}
TASKS_WITHOUT_KIND = ("TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION")
PREFIX = "base_model.model."
STARTS_FROM_BASE = ("pissa", "olora", "corda", "eva", "orthogonal", "lora_ga")
HEADS = ("score.weight", "classifier.weight", "classifier.out_proj.weight")


@dataclass(frozen=True)
class Adapter:
    """An adapter's files, the base that they name, and its tensors' shapes by their names in the base.

    ``starts_from_base`` says that PEFT first makes its start of the base's weights, for which it has no float64.
    """

    name: str
    location: Location
    base_name: str | None
    base_revision: str | None
    kind: str | None
    shapes: dict[str, tuple[int, ...]]
    starts_from_base: bool = False

    @property
    def classes(self) -> int | None:
        """The number of classes of the classification head that the adapter brings, if it brings one."""
        return next((self.shapes[head][0] for head in HEADS if head in self.shapes), None)


def read_adapter(name: str, location: Location) -> Adapter:
    """Return the adapter of a folder.

    Raises:
        UserError: PEFT is not installed, the adapter is one of prompt learning, its weights are missing,
            pickled or broken.
    """
    peft = _peft(name)
    check_named_files(name, location)
    try:
        stored = json.loads((location.folder / CONFIG_FILE).read_text())
        config = peft.PeftConfig.from_pretrained(str(location.folder))
        prompt_learning, method = config.is_prompt_learning, str(stored["peft_type"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"adapter: cannot read the {CONFIG_FILE} of {name!r}: {one_line(error)}") from error
    task = stored.get("task_type") or ""
    if prompt_learning:
        raise UserError(
            f"adapter: {name!r} is one of prompt learning ({method}), which changes no layer; "
            "use LoRA, DoRA or IA3"
        )
    if task in TASKS_WITHOUT_KIND:
        raise UserError(
            f"adapter: {name!r} is for the task {task}, not one of {', '.join(KINDS_OF_TASKS)}; "
            "give one of a language model"
        )
    if not location.has(WEIGHTS_FILE):
        why = (
            f"only a pickle, {PICKLE_FILE}, which is never read"
            if location.has(PICKLE_FILE)
            else "no weights"
        )
        raise UserError(f"adapter: {name!r} has {why}; save it again with PEFT as {WEIGHTS_FILE}")
    base = stored.get("base_model_name_or_path")
    return Adapter(
        name,
        location,
        base or None,
        stored.get("revision"),
        KINDS_OF_TASKS.get(task),
        _shapes(name, location.folder / WEIGHTS_FILE),
        str(stored.get("init_lora_weights")).startswith(STARTS_FROM_BASE),
    )


def find_base(adapter: Adapter, base: str | None, revision: str | None) -> tuple[str, Location]:
    """Return the name and location of an adapter's base: ``base`` if given, else the one that it names.

    A folder that the adapter names is looked for from the current directory, then beside the adapter's
    folder. ``revision`` is the base's on the hub; without one, that which the adapter names.

    Raises:
        UserError: no base is named, or it cannot be found, or it is itself an adapter.
    """
    whole = adapter.location.has(SINGLE) or adapter.location.has(INDEX)
    if base is None and whole:
        raise UserError(
            f"adapter: {adapter.name!r} holds a whole model beside the adapter; "
            "say which is the base, with base"
        )
    wanted = base or adapter.base_name
    if wanted is None:
        raise UserError(f"adapter: {adapter.name!r} names no base model; give one, with base")
    shown = f"adapter: the base {wanted!r} of {adapter.name!r}"
    folder = Path(wanted).expanduser()
    beside = adapter.location.folder.resolve().parent / folder
    if base is None and not (folder / "config.json").is_file() and (beside / "config.json").is_file():
        folder = beside
    if folder is beside or looks_local(wanted):
        if revision is not None:
            raise UserError(
                f"{shown} is a folder, which has no revision {revision!r}; leave the revision out"
            )
        location = Location(folder, None)
    else:
        location = locate(wanted, revision or (adapter.base_revision if base is None else None), shown)
    if not location.has("config.json"):
        raise UserError(
            f"{shown} is not a folder with a config.json; give the base model's folder or hub name, with base"
        )
    if location.has(CONFIG_FILE) and location.folder.resolve() != adapter.location.folder.resolve():
        raise UserError(
            f"{shown} is an adapter itself; merge it into its own base first, or give another base"
        )
    return wanted, location


def put_adapter(adapter: Adapter, network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return the network with the adapter's layers in it, changed in place, in ``dtype``.

    Only the adapter requires a gradient.

    Raises:
        UserError: the adapter's weights do not fit the network.
    """
    peft = _peft(adapter.name)
    folder, base = str(adapter.location.folder), type(network).__name__
    _check_vocabulary(adapter, network)
    if adapter.starts_from_base:
        _convert(network, torch.float32)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = peft.PeftModel.from_pretrained(network, folder, is_trainable=True, torch_device="cpu")
            fit = model.load_adapter(folder, "default", is_trainable=True, torch_device="cpu")
    except Exception as error:  # one class of errors for each tuner and for each library of quantisation
        raise UserError(
            f"adapter: cannot put {adapter.name!r} on its base, a {base}: {one_line(error)}"
        ) from error
    tensors = model.state_dict(keep_vars=True)  # one may have several names, of which a file holds one
    there = {id(tensor) for key, tensor in tensors.items() if key not in fit.missing_keys}
    missing = [key for key in fit.missing_keys if id(tensors.get(key)) not in there]
    for keys, problem in (
        (missing, "lacks"),
        (fit.unexpected_keys, "has, and its base has no place for,"),
    ):
        if keys:
            key = min(keys)
            raise UserError(
                f"adapter: {adapter.name!r} does not fit its base, a {base}: it {problem} {key!r}; "
                "give its own base, with base"
            )
    adapted: nn.Module = model.get_base_model()
    _convert(adapted, dtype)
    return adapted


def _convert(network: nn.Module, dtype: torch.dtype) -> None:
    for parameter in network.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)


def _check_vocabulary(adapter: Adapter, network: nn.Module) -> None:
    """Refuse an adapter that was trained on a resized vocabulary, and so brings larger tables than the base's.

    Raises:
        UserError: it is such.
    """
    tables = {"embeddings": word_table(network), "head": head_weight(network)}
    shapes = {
        name: tuple(parameter.shape) for name, parameter in network.named_parameters(remove_duplicate=False)
    }
    own = {
        name
        for name, parameter in network.named_parameters(remove_duplicate=False)
        if any(parameter is each for each in tables.values())
    }
    for name, shape in adapter.shapes.items():
        there = shapes.get(name)
        if name in own and there is not None and shape != there:
            raise UserError(
                f"adapter: {adapter.name!r} brings a table of {shape[0]} words ({name}), and its base has {there[0]}: "
                f"it was trained on a resized vocabulary; load the base, call resize_token_embeddings({shape[0]}), "
                "save it with the adapter's tokenizer, and give that folder, with base"
            )


def _peft(name: str) -> Any:
    try:
        return importlib.import_module("peft")
    except ImportError as error:
        raise UserError(
            f"adapter: {name!r} needs PEFT to be read; install it with pip install 'lmntk[peft]'"
        ) from error


def _shapes(name: str, path: Path) -> dict[str, tuple[int, ...]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            names = list(file.keys())
            return {name.removeprefix(PREFIX): tuple(file.get_slice(name).get_shape()) for name in names}
    except (OSError, SafetensorError) as error:
        raise UserError(f"adapter: cannot read the {WEIGHTS_FILE} of {name!r}: {one_line(error)}") from error
