"""GGUF files: the same tensors and the same key as the folder, read by transformers; what is wrong is one line."""

from __future__ import annotations

import functools
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf
from typer.testing import CliRunner

from lmntk.cli.app import app
from lmntk.errors import UserError
from lmntk.kernels.kernel import Kernel
from lmntk.models.fingerprint import fingerprint
from lmntk.models.gguf import read_gguf
from lmntk.models.loading import load_pretrained
from lmntk.system.notices import kept

gguf = pytest.importorskip("gguf", reason="gguf is not installed: pip install 'lmntk[gguf]'")

HEADS, KEYS, WIDTH, LAYERS = 4, 2, 32, 2
WORDS = ["a", "b", "c", "d", "Ġ", "Ġa", "Ġb", "ab", "cd", "<s>", "</s>"]
MERGES = ["Ġ a", "Ġ b", "a b", "c d"]


def small_llama() -> hf.LlamaForCausalLM:
    torch.manual_seed(0)
    config = hf.LlamaConfig(
        vocab_size=len(WORDS), hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=KEYS, max_position_embeddings=64, tie_word_embeddings=True,
        bos_token_id=9, eos_token_id=10, rms_norm_eps=1e-5,
    )  # fmt: skip
    return hf.LlamaForCausalLM(config)


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """Return a query or key weight in the order in which GGUF has its rows."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


NAMES = {
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
}  # fmt: skip


def write_gguf(path: Path, network: hf.LlamaForCausalLM, quantised: bool = True) -> Path:
    """Write a network as a GGUF file, its matrices in Q8_0."""
    writer = gguf.GGUFWriter(path, "llama")
    config = network.config
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEYS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(WORDS)
    writer.add_token_types([1] * (len(WORDS) - 2) + [3, 3])
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(9)
    writer.add_eos_token_id(10)
    for name, tensor in network.state_dict().items():
        values = tensor.numpy()
        if name == "lm_head.weight":
            continue
        if name == "model.embed_tokens.weight":
            target = "token_embd.weight"
        elif name == "model.norm.weight":
            target = "output_norm.weight"
        else:
            _, _, layer, *rest = name.split(".")
            part = ".".join(rest[:-1])
            target = f"blk.{layer}.{NAMES[part]}.weight"
            if part.endswith(("q_proj", "k_proj")):
                values = permuted(values, HEADS if "q_proj" in part else KEYS)
        if quantised and values.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(target, gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(target, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "small.Q8_0.gguf", small_llama())


def test_a_file_in_float32_is_the_network_that_was_written(tmp_path):
    network = small_llama()
    loaded = load_pretrained(str(write_gguf(tmp_path / "plain.gguf", network, quantised=False)))
    ids = torch.tensor([[9, 0, 4, 1, 5]])
    torch.testing.assert_close(loaded.network(ids).logits, network.eval()(ids).logits)
    assert loaded.kind == "causal"


def test_the_key_is_that_of_the_converted_folder(file, tmp_path):
    loaded = load_pretrained(str(file))
    loaded.network.save_pretrained(tmp_path / "folder")
    loaded.tokenizer.save_pretrained(tmp_path / "folder")
    again = load_pretrained(str(tmp_path / "folder"))
    assert again.fingerprint == loaded.fingerprint == fingerprint(loaded.network)
    states = loaded.network.state_dict(), again.network.state_dict()
    assert all(torch.equal(values, states[1][name]) for name, values in states[0].items())
    texts = ["ab cd", "a b", "d c b a"]
    assert [loaded.tokenizer(text).input_ids for text in texts] == [
        again.tokenizer(text).input_ids for text in texts
    ]
    assert loaded.tokenizer.model_max_length == again.tokenizer.model_max_length == 64


def test_the_file_is_parsed_once_and_without_a_bar(file, monkeypatch, capfd):
    """For its types, configuration, weights and tokenizer; and the table of names is made once, not for each module."""
    made = []
    patched = {gguf.GGUFReader: "__init__", gguf: "get_tensor_name_map"}
    for holder, name in patched.items():

        def counted(*arguments, name, wrapped):
            made.append(name)
            return wrapped(*arguments)

        counting = functools.partialmethod if holder is gguf.GGUFReader else functools.partial
        monkeypatch.setattr(holder, name, counting(counted, name=name, wrapped=getattr(holder, name)))
    before = gguf.GGUFReader, gguf.get_tensor_name_map
    with kept():
        load_pretrained(str(file))
        load_pretrained(str(file.parent), gguf=file.name)
    assert made.count("__init__") == 2 and made.count("get_tensor_name_map") <= 4
    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == before  # nothing is left
    assert capfd.readouterr() == ("", "")


def test_what_it_is_made_of_is_said_and_kept(file):
    with kept() as said:
        loaded = load_pretrained(str(file))
    (line,) = [line for line in said if "dequantised" in line]
    assert "15 Q8_0, 5 F32 tensors" in line and file.name in line and "float32" in line
    assert loaded.gguf == read_gguf(file) and len(loaded.gguf.sha256) == 64


def test_by_name_in_a_folder(file):
    assert (
        load_pretrained(str(file.parent), gguf=file.name).fingerprint
        == load_pretrained(str(file)).fingerprint
    )


def refused(words: str, *arguments: object, **named: object) -> None:
    with pytest.raises(UserError, match=words) as caught:
        load_pretrained(*map(str, arguments), **named)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept_bytes", [3, 40, 900, -200])
def test_damaged_files_are_one_line(file, tmp_path, kept_bytes):
    (tmp_path / "cut.gguf").write_bytes(file.read_bytes()[:kept_bytes])
    refused("cut.gguf", tmp_path / "cut.gguf")


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    network = small_llama()
    with torch.no_grad():
        network.model.norm.weight[3] = float("nan")
    refused(
        "has a weight that is not finite, in 'model.norm.weight'", write_gguf(tmp_path / "nan.gguf", network)
    )


def test_mistakes(file, tmp_path, monkeypatch):
    refused("there is no GGUF file .*its folder has none", tmp_path / "nothing.gguf")
    refused("its folder has small.Q8_0.gguf", file.parent, gguf="other.gguf")
    refused("is not the name of a GGUF file", file.parent, gguf="../small.Q8_0.gguf")
    (tmp_path / "text.gguf").write_text("not a model")
    refused("is no GGUF file, whatever its name", tmp_path / "text.gguf")
    refused("is a whole model, not an adapter", file, base="other")
    writer = gguf.GGUFWriter(tmp_path / "strange.gguf", "unheard-of")
    writer.add_tensor("token_embd.weight", np.ones((4, 4), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    refused("transformers cannot read .*strange.gguf", tmp_path / "strange.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    refused(r"needs the package gguf; pip install 'lmntk\[gguf\]'", file)


def test_commands_take_the_file_and_keep_where_it_came_from(file, tmp_path):
    rows = [{"text_a": "a b", "label": 0}, {"text_a": "cd d", "label": 1}] * 6
    for name in ("train", "test"):
        text = "\n".join(json.dumps(row | {"text_a": row["text_a"] + " c" * i}) for i, row in enumerate(rows))
        (tmp_path / f"{name}.jsonl").write_text(text)
    arguments = [
        "run", "--model", file, "--train", tmp_path / "train.jsonl", "--test", tmp_path / "test.jsonl", "--text-column", "text_a",
        "--template", "{a}", "--label-words", "a,b", "--k", 2, "--seeds", 13, "--formulas", "sgd", "--out", tmp_path / "out",
    ]  # fmt: skip
    done = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0 and "15 Q8_0, 5 F32 tensors" in done.stderr
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    assert f"small.Q8_0.gguf (15 Q8_0, 5 F32), sha256 {sha256}" in (tmp_path / "out/summary.md").read_text()
    kernel = next((tmp_path / "out/kernels").rglob("train-sgd.safetensors"))
    assert Kernel.load(kernel).provenance["gguf"]["sha256"] == sha256
