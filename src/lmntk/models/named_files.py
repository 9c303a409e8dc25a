"""Files that a model's files name: shards of the index, vocabularies, kernels, modules; none may lie elsewhere, or be more than data.

A checkpoint is read as data alone: safetensors, JSON and text in its own folder. What its files name is opened by libraries, some of
which read a pickle where a name does not end in ``.safetensors``, or import what a configuration names. So all is looked at before.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lmntk.errors import UserError
from lmntk.models.hub import Location

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
CONFIGURATIONS = ("config.json", "generation_config.json", "tokenizer_config.json", ADAPTER)
# of these a library would open a file as it stands there
PATHS = ("_file", "_files", "_path", "_dir", "_folder")
# of these PEFT would load another model, or adapter, with whatever is in its folder; but for the word that says that there is none
MODELS = {"adapters": None, "shadow_model": "mirror"}
# of these it would import a module, or get one from a hub
MODULES = ("megatron_config", "use_pretrained_backbone", "transformers_weights")
IMPLEMENTATIONS = ("attn_implementation", "_attn_implementation", "experts_implementation")
# types of tensors that are no weights without a scale, which a quantisation would bring
WHOLE_NUMBERS = ("I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64", "BOOL")


def check_named_files(name: str, location: Location) -> None:
    """Refuse a model, an adapter or a tokenizer whose files name what is not data in its own folder.

    Raises:
        UserError: an index that is broken, or names a file elsewhere, one that is missing or no safetensors file; a configuration
            that names a file elsewhere, another model, a module or a kernel of somebody's.
    """
    if location.has(INDEX):
        shards(name, location)
    for file in CONFIGURATIONS:
        for key, value in _entries(_json(location.folder / file)):
            _check_entry(f"{name!r}: its {file}", location.folder, key, value)
            if file == ADAPTER and key in MODELS and value and value != MODELS[key]:
                raise UserError(
                    f"model: {name!r}: its {file} names other models as {key!r} ({str(value)[:100]!r}), "
                    "which are not read; use an adapter that is whole, such as LoRA"
                )


def shards(name: str, location: Location) -> list[Path]:
    """Return the files of a model's weights.

    Raises:
        UserError: the index is broken, or names what is no safetensors file in the folder.
    """
    if location.has(SINGLE) or not location.has(INDEX):
        return [location.folder / SINGLE] if location.has(SINGLE) else []
    index = _json(location.folder / INDEX)
    weights = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weights, dict) or not weights or not isinstance(index.get("metadata", {}), dict):
        raise UserError(f"model: {name!r}: its {INDEX} is damaged; save the model again with transformers")
    for shard in dict.fromkeys(map(str, weights.values())):
        if Path(shard).name != shard or "\\" in shard or not shard.endswith(".safetensors"):
            raise UserError(
                f"model: {name!r}: its {INDEX} names {shard!r}, which is not a safetensors file in its folder and is not read; "
                "save the model again with transformers"
            )
        if not location.has(shard):
            raise UserError(
                f"model: {name!r}: its {INDEX} names {shard!r}, which is missing; get the whole checkpoint"
            )
    return [location.folder / shard for shard in sorted(set(map(str, weights.values())))]


def check_types(name: str, location: Location, parameters: Mapping[str, Any]) -> None:
    """Refuse weights that are whole numbers: without a quantisation's scales they would be cast, and be other weights.

    Raises:
        UserError: the file's name, and that of a parameter that is stored so.
    """
    from safetensors import SafetensorError, safe_open

    for path in shards(name, location):
        try:
            with safe_open(path, "pt") as file:
                types = {key: file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"model: cannot read {path.name!r} of {name!r} ({' '.join(str(error).split())[:120]})"
            ) from error
        for key, kind in types.items():
            if (kind in WHOLE_NUMBERS or kind.startswith("F8")) and _is_parameter(key, parameters):
                raise UserError(
                    f"model: {name!r} stores {key!r} as {kind}, and its configuration has no quantization_config; "
                    "use the unquantised checkpoint"
                )


def _is_parameter(key: str, parameters: Mapping[str, Any]) -> bool:
    return key in parameters or any(
        known.endswith(f".{key}") or key.endswith(f".{known}") for known in parameters
    )


def _check_entry(shown: str, folder: Path, key: str, value: Any) -> None:
    if key in MODULES and value:
        raise UserError(
            f"model: {shown} has {key!r}, which does not name a file of the model; take it out, or use another model"
        )
    if key in IMPLEMENTATIONS and any(mark in str(value) for mark in "/:\\"):
        raise UserError(
            f"model: {shown} names {str(value)!r} as {key!r}, which is foreign code and is never fetched or run; take it out"
        )
    if key.endswith(PATHS) and not key.endswith("name_or_path"):  # a model, which is loaded as this one is
        for path in value if isinstance(value, list) else [value]:
            if isinstance(path, str) and path and _is_elsewhere(folder, path):
                raise UserError(
                    f"model: {shown} names {path!r} as {key!r}, a file outside its folder, which is not read; take it out"
                )


def _is_elsewhere(folder: Path, path: str) -> bool:
    """Return whether there is such a file, outside of a folder; paths of another machine are left there by older libraries."""
    try:
        found = [base / path for base in (folder, Path()) if (base / path).exists()]
        return any(not each.resolve().is_relative_to(folder.resolve()) for each in found) and any(
            mark in path for mark in "/\\"
        )
    except (OSError, ValueError):
        return False


def _entries(content: Any) -> Iterator[tuple[str, Any]]:
    """Yield all entries of plain data, those of its parts too."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield str(key), value
            yield from _entries(value)
    elif isinstance(content, list):
        for value in content:
            yield from _entries(value)


def _json(path: Path) -> Any:
    """Return the data of a JSON file, None where there is none, or a broken one: its reader says so."""
    try:
        return json.loads(path.read_text(encoding="utf8"))
    except (OSError, ValueError, RecursionError):
        return None
