"""Families of which nothing is known beforehand: a default configuration each, tiny by the names of its settings."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import peft
import torch
import transformers as hf
from model_row import Row
from model_table import llama
from tiny_architectures import tiny_settings

from lmntk.models.kinds import auto_class


def generated(name: str, kind: str, **besides: Any) -> Row:
    """Returns the row of a type of model, tiny by the names of its settings."""
    config = hf.CONFIG_MAPPING[name]
    networks = auto_class(kind)._model_mapping[config]
    settings = tiny_settings(config) | {"experts_implementation": "eager"} | besides
    if kind == "causal" and config in auto_class("masked")._model_mapping:
        settings |= {"is_decoder": True}
    network = networks[0] if isinstance(networks, tuple) else networks
    reading = {"masked": "mask", "causal": "last", "seq2seq": "decoder"}[kind]
    return Row(config, settings, network, reading, noise={}, moved=0.1, tolerance=1e-6)


# families of which nothing is known beforehand
GENERATED: dict[str, Row] = {
    **{f"{name}-masked": generated(name, "masked") for name in (
        "big_bird", "camembert", "convbert", "data2vec-text", "ernie", "esmc", "eurobert", "ibert", "layoutlm", "megatron-bert",
        "nystromformer", "rembert", "roc_bert", "roformer", "squeezebert", "xlm-roberta-xl", "xmod",
    )},
    **{f"{name}-causal": generated(name, "causal") for name in (
        "apertus", "arcee", "aria_text", "bamba", "bert", "biogpt", "bitnet", "blenderbot", "camembert", "codegen", "cohere2", "ctrl",
        "dbrx", "deepseek_v3", "diffllama", "ernie4_5_moe", "exaone4", "falcon_mamba", "glm4", "gpt_bigcode", "granitemoe", "helium",
        "jamba", "jetmoe", "mamba", "mamba2", "modernbert-decoder", "mpt", "nemotron", "olmo3", "persimmon", "phimoe", "qwen3_next",
        "starcoder2",
    )},
    **{f"{name}-seq2seq": generated(name, "seq2seq") for name in (
        "blenderbot-small", "m2m_100", "mvp", "plbart", "switch_transformers", "t5gemma",
    )},
    "llama-adaption-prompt": llama(
        adapter=partial(peft.AdaptionPromptConfig, adapter_len=3, adapter_layers=2, task_type="CAUSAL_LM")
    ),
    "llama-trained-norms": llama(adapter=partial(peft.LNTuningConfig, target_modules=["input_layernorm"])),
    "llama-vb-lora": llama(
        adapter=partial(peft.VBLoRAConfig, r=2, target_modules=["q_proj", "v_proj"], num_vectors=8, vector_length=2, topk=2)
    ),
    "deberta-both-ways": generated(
        "deberta", "masked", relative_attention=True, pos_att_type=["p2c", "c2p"], max_relative_positions=8
    ),
    # in float64 its gradients of a text that does not fill its windows are NaN, in plain transformers too
    "led-seq2seq": replace(generated("led", "seq2seq"), precision=torch.float32, tolerance=1e-4),
    "gemma2-window-causal": generated("gemma2", "causal", sliding_window=4),
}  # fmt: skip
