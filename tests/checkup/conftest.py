"""A folder with a small model of every kind, the doctor's command on them, and faults to plant."""

from __future__ import annotations

import json
import sys

import peft
import pytest
import torch
import transformers as hf
from tiny import write_model, write_rows
from transformers import AutoTokenizer

import lmntk.checkup.examine as doctor
from lmntk import load_pretrained
from lmntk.cli import app as cli
from lmntk.tangents.rules import RULES

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}


SPECIAL = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}


BART = {"d_model": 16, "max_position_embeddings": 64, "decoder_start_token_id": 3, **SPECIAL}
T5 = {
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 2,
    "num_heads": 2,
    "pad_token_id": 0,
    "eos_token_id": 3,
    "decoder_start_token_id": 0,
}
BART |= {
    f"{side}_{name}": value
    for side in ("encoder", "decoder")
    for name, value in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 32))
}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, **SPECIAL}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tmp_path_factory.mktemp("check")
    write_model(base / "bert")
    write_rows(base / "rows.jsonl", 24)
    tokenizer = AutoTokenizer.from_pretrained(base / "bert")

    def write(name, network):
        torch.manual_seed(0)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        network.save_pretrained(base / name)
        tokenizer.save_pretrained(base / name)

    size = {"vocab_size": len(tokenizer)}
    write("gpt2", hf.GPT2LMHeadModel(hf.GPT2Config(**size, **GPT2)))
    write("llama", hf.LlamaForCausalLM(hf.LlamaConfig(**size, **SMALL, **SPECIAL)))
    write("t5", hf.T5ForConditionalGeneration(hf.T5Config(**size, **T5)))
    write("bart", hf.BartForConditionalGeneration(hf.BartConfig(**size, **BART)))
    write("classifier", hf.BertForSequenceClassification(hf.BertConfig(**size, **SMALL)))
    write("three-classes", hf.BertForSequenceClassification(hf.BertConfig(**size, **SMALL, num_labels=3)))
    deberta = hf.DebertaV2Config(**size, **SMALL, relative_attention=True, pos_att_type=["p2c", "c2p"])
    write("deberta", hf.DebertaV2ForMaskedLM(deberta))
    network = hf.BertForMaskedLM.from_pretrained(base / "bert")
    peft.get_peft_model(network, peft.LoraConfig(r=2, target_modules=["query", "value"])).save_pretrained(
        base / "lora"
    )
    return base


@pytest.fixture
def check(folder, capsys, monkeypatch):
    """Runs ``lmntk check`` on a model of the folder; returns its exit code and what it printed, as JSON wherever there is some."""

    def run(model, *options, as_json=True):
        monkeypatch.setattr(
            sys,
            "argv",
            ["lmntk", "check", str(folder / model), *map(str, options), *(["--json"] if as_json else [])],
        )
        with pytest.raises(SystemExit) as left:
            cli.main()
        printed = capsys.readouterr()
        if left.value.code == 2:
            assert printed.out == "" and len(printed.err.splitlines()) == 1
            return 2, printed.err
        return left.value.code, json.loads(printed.out) if as_json else printed.out

    return run


@pytest.fixture
def plant(monkeypatch):
    """Changes every network that is loaded."""

    def planted(change):
        def load(*arguments, **keywords):
            pretrained = load_pretrained(*arguments, **keywords)
            change(pretrained.network)
            return pretrained

        monkeypatch.setattr(doctor, "load_pretrained", load)

    return planted


@pytest.fixture
def rules():
    before = dict(RULES)
    yield RULES
    RULES.clear()
    RULES.update(before)
