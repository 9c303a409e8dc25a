"""Files that a checkpoint's files name: data in its own folder, or one line; no pickle is opened and nothing is imported."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from tiny import write_adapter, write_model

from lmntk.errors import UserError
from lmntk.models.loading import load_pretrained
from lmntk.models.no_pickle import without_pickles


class Trap:
    """A pickle that says when it is opened."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("plain"))


@pytest.fixture
def sharded(plain: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "sharded"
    shutil.copytree(plain, folder)
    network = hf.AutoModelForMaskedLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    network.save_pretrained(folder, max_shard_size="8KB")
    assert (folder / "model.safetensors.index.json").is_file()
    return folder


def changed(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps(change(content) or content))


def naming(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda index: index["weight_map"].update({next(iter(index["weight_map"])): name})


def refused(folder: Path, **named: Any) -> str:
    with pytest.raises(UserError) as caught:
        load_pretrained(str(folder), **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_sharded_checkpoint_is_read(sharded, plain):
    assert load_pretrained(str(sharded)).fingerprint == load_pretrained(str(plain)).fingerprint


@pytest.mark.parametrize(
    "shard",
    [
        "weights.bin",
        "../outside/model.safetensors",
        "{outside}/model.safetensors",
        "missing.safetensors",
        "..\\a.safetensors",
        7,
    ],
)
def test_shards_are_safetensors_in_the_folder(sharded, tmp_path, plain, shard):
    outside = tmp_path / "outside"
    shutil.copytree(plain, outside)
    with (sharded / "weights.bin").open("wb") as file:
        pickle.dump(Trap(tmp_path / "sprung"), file)
    name = shard.format(outside=outside) if isinstance(shard, str) else shard
    changed(sharded / "model.safetensors.index.json", naming(name))
    assert repr(str(name)) in refused(sharded)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"weight_map": 3}',
        '{"weight_map": {}}',
        '{"weight_map": {"a": "b.safetensors"}, "metadata": 1}',
    ],
)
def test_a_broken_index_is_one_line(sharded, content):
    (sharded / "model.safetensors.index.json").write_text(content)
    assert "model.safetensors.index.json" in refused(sharded)


ENTRIES = {
    "weights of another name": ("config.json", {"transformers_weights": "weights.bin"}),
    "a kernel of a hub": ("config.json", {"attn_implementation": "somebody/kernel"}),
    "a kernel of a hub, inside": ("config.json", {"text_config": {"_attn_implementation": "somebody/kernel:run"}}),
    "a backbone of a hub": ("config.json", {"use_pretrained_backbone": True}),
    "a vocabulary elsewhere": ("tokenizer_config.json", {"vocab_file": "{outside}/config.json"}),
    "a vocabulary above": ("tokenizer_config.json", {"tokenizer_file": "../outside/tokenizer.json"}),
    "several of them": ("tokenizer_config.json", {"fast_tokenizer_files": ["../outside/tokenizer.json"]}),
}  # fmt: skip


@pytest.mark.parametrize("entry", ENTRIES)
def test_what_a_configuration_names_is_refused(plain, tmp_path, entry):
    file, more = ENTRIES[entry]
    for name in ("model", "outside"):
        shutil.copytree(plain, tmp_path / name)
    more = json.loads(json.dumps(more).replace("{outside}", str(tmp_path / "outside")))
    changed(tmp_path / "model" / file, lambda content: content.update(more))
    assert file in refused(tmp_path / "model")


def test_paths_of_another_machine_are_no_harm(plain, tmp_path):
    shutil.copytree(plain, tmp_path / "model")
    more = {"tokenizer_file": "/nowhere/cache/tokenizer.json", "special_tokens_map_file": "/nowhere/map.json"}
    changed(tmp_path / "model" / "tokenizer_config.json", lambda content: content.update(more))
    assert load_pretrained(str(tmp_path / "model")).kind == "masked"


def test_an_adapter_imports_no_module_that_it_names(plain, tmp_path):
    write_adapter(tmp_path / "adapter", plain)
    changed(
        tmp_path / "adapter" / "adapter_config.json",
        lambda content: content.update(megatron_config={"a": 1}, megatron_core="somebody"),
    )
    assert "megatron_config" in refused(tmp_path / "adapter")


@pytest.mark.parametrize("kind", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_weights_that_are_whole_numbers_are_refused(plain, tmp_path, kind):
    shutil.copytree(plain, tmp_path / "model")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    name = next(name for name in tensors if name.endswith("query.weight"))
    save_file(
        tensors | {name: tensors[name].to(kind)}, tmp_path / "model" / "model.safetensors", {"format": "pt"}
    )
    assert name in refused(tmp_path / "model")


@pytest.mark.parametrize(
    "change",
    [{"hidden_size": "many"}, {"max_position_embeddings": "long"}, {"vocab_size": None}, {"num_hidden_layers": -1.5}, {"model_type": 3},
     {"architectures": 7}, {"num_attention_heads": [2]}, {"quantization_config": 3}, {"id2label": "x"}],
)  # fmt: skip
def test_wrong_types_in_a_configuration_are_one_line(plain, tmp_path, change):
    shutil.copytree(plain, tmp_path / "model")
    changed(tmp_path / "model" / "config.json", lambda content: content.update(change))
    refused(tmp_path / "model")


@pytest.mark.parametrize("content", ["[]", "3", "", "\ufeff", '{"model_type": "bert"', "[" * 100_000])
def test_a_configuration_of_another_shape_is_one_line(plain, tmp_path, content):
    shutil.copytree(plain, tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(content)
    refused(tmp_path / "model")


MODELS_OF_ADAPTERS = {
    "a shadow": {"peft_type": "SHADOW", "shadow_model": "{outside}"},
    "experts": {"peft_type": "XLORA", "hidden_size": 8, "adapters": {"0": "{outside}"}},
}


@pytest.mark.parametrize("guard", ["the table", "torch.load"])
@pytest.mark.parametrize("kind", MODELS_OF_ADAPTERS)
def test_no_pickle_that_an_adapter_names_is_opened(plain, tmp_path, monkeypatch, kind, guard):
    (outside := tmp_path / "outside").mkdir()
    shutil.copy(plain / "config.json", outside)
    for name in ("pytorch_model.bin", "adapter_model.bin"):
        with (outside / name).open("wb") as file:
            pickle.dump(Trap(tmp_path / "sprung"), file)
    shutil.copy(write_adapter(tmp_path / "lora", plain) / "adapter_config.json", outside)
    more = json.loads(json.dumps(MODELS_OF_ADAPTERS[kind]).replace("{outside}", str(outside)))
    changed(tmp_path / "lora" / "adapter_config.json", lambda content: content.update(more))
    shutil.copytree(plain, tmp_path / "base")
    changed(tmp_path / "base" / "config.json", lambda content: content.update(use_cache=False))
    loads: list[Any] = []
    monkeypatch.setattr(torch, "load", lambda *given, **_: loads.append(given))
    if guard == "torch.load":
        monkeypatch.setattr("lmntk.models.adapters.check_named_files", lambda *_: None)
    line = refused(tmp_path / "lora", base=str(tmp_path / "base"))
    assert ("is a pickle, and is not read" if guard == "torch.load" else repr(list(more)[-1])) in line
    assert not loads and not (tmp_path / "sprung").exists()


def test_pickles_are_read_again_once_the_last_of_two_models_is_loaded():
    before = torch.load
    with without_pickles():
        with without_pickles():
            pass
        with pytest.raises(UserError, match=r"'a.bin' is a pickle"):
            torch.load("a.bin")  # there is none: the guard comes first
    assert torch.load is before
