"""The families of benchmarks/models.py: how to build the network of each at any size, and random texts for it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import peft
import torch
import transformers as hf
from torch import nn

from lmntk.prompts.encoding import EncodedText

FIRST_ID = 10  # ids below are special or label words


PAD_ID = 0


@dataclass(frozen=True)
class Size:
    """The sizes of every network and text; everything random follows from the seed."""

    hidden: int = 256
    layers: int = 4
    heads: int = 8
    mlp: int = 1024
    vocabulary: int = 8192
    tokens: int = 40
    train: int = 32
    evaluation: int = 128
    batch_size: int = 32
    seed: int = 0


QUICK = Size(
    hidden=32, layers=2, heads=4, mlp=64, vocabulary=64, tokens=8, train=4, evaluation=6, batch_size=4
)


@dataclass(frozen=True)
class Family:
    """How to build a family's network, and where it is read: ``mask``, ``last`` or ``decoder``."""

    config: Callable[..., Any]
    network: type[nn.Module]
    settings: Callable[[Size], dict[str, Any]]
    reading: str = "mask"
    adapter: Callable[[], Any] | None = None

    def build(self, size: Size) -> Any:
        """Returns the network with random weights, and its adapter."""
        torch.manual_seed(size.seed)
        network = self.network(self.config(**self.settings(size))).float()
        if self.adapter is not None:
            network = peft.get_peft_model(network, self.adapter())
        return network.eval()

    def texts(self, size: Size) -> dict[str, list[EncodedText]]:
        """Returns random texts by group."""
        chance = random.Random(size.seed)

        def text() -> EncodedText:
            ids = tuple(chance.randrange(FIRST_ID, size.vocabulary) for _ in range(size.tokens))
            position = {"mask": chance.randrange(size.tokens), "last": size.tokens - 1, "decoder": 0}[
                self.reading
            ]
            return EncodedText(ids, position, None, decoder_ids=(2,) if self.reading == "decoder" else None)

        return {
            "train": [text() for _ in range(size.train)],
            "eval": [text() for _ in range(size.evaluation)],
        }


SPECIAL = {"pad_token_id": PAD_ID, "bos_token_id": 1, "eos_token_id": 2}


def encoder(size: Size) -> dict[str, Any]:
    return SPECIAL | {
        "vocab_size": size.vocabulary,
        "hidden_size": size.hidden,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "intermediate_size": size.mlp,
        "max_position_embeddings": 2 * size.tokens,
    }


def grouped(size: Size) -> dict[str, Any]:
    """Llama and its like: two queries to a key."""
    return encoder(size) | {"num_key_value_heads": size.heads // 2, "head_dim": size.hidden // size.heads}


def gpt2(size: Size) -> dict[str, Any]:
    shape = {
        "n_embd": size.hidden,
        "n_layer": size.layers,
        "n_head": size.heads,
        "n_positions": 2 * size.tokens,
        "n_inner": size.mlp,
    }
    return SPECIAL | shape | {"vocab_size": size.vocabulary}


def t5(size: Size) -> dict[str, Any]:
    shape = {
        "d_model": size.hidden,
        "d_kv": size.hidden // size.heads,
        "d_ff": size.mlp,
        "num_heads": size.heads,
    }
    layers = {"num_layers": size.layers // 2, "num_decoder_layers": size.layers // 2}
    return (
        shape
        | layers
        | {
            "vocab_size": size.vocabulary,
            "pad_token_id": PAD_ID,
            "eos_token_id": 1,
            "decoder_start_token_id": 2,
        }
    )


def bart(size: Size) -> dict[str, Any]:
    shape = {
        "d_model": size.hidden,
        "vocab_size": size.vocabulary,
        "max_position_embeddings": 2 * size.tokens,
    }
    for part in ("encoder", "decoder"):
        shape |= {
            f"{part}_layers": size.layers // 2,
            f"{part}_attention_heads": size.heads,
            f"{part}_ffn_dim": size.mlp,
        }
    return SPECIAL | shape | {"decoder_start_token_id": 2}


def lora() -> Any:
    return peft.LoraConfig(
        r=8, lora_alpha=16, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"
    )


def ia3() -> Any:
    return peft.IA3Config(
        target_modules=["k_proj", "v_proj", "down_proj"],
        feedforward_modules=["down_proj"],
        task_type="CAUSAL_LM",
    )


def plus(settings: Callable[[Size], dict[str, Any]], **more: Any) -> Callable[[Size], dict[str, Any]]:
    return lambda size: settings(size) | more


def deberta(size: Size) -> dict[str, Any]:
    """DeBERTa-v3-base's attention."""
    relative = {
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
    }
    return (
        encoder(size)
        | relative
        | {"position_buckets": size.tokens // 2, "position_biased_input": False, "type_vocab_size": 0}
    )


FAMILIES: dict[str, Family] = {
    "bert": Family(hf.BertConfig, hf.BertForMaskedLM, encoder),
    "roberta": Family(hf.RobertaConfig, hf.RobertaForMaskedLM, encoder),
    "albert": Family(
        hf.AlbertConfig,
        hf.AlbertForMaskedLM,
        lambda size: encoder(size) | {"embedding_size": size.hidden // 2},
    ),
    "modernbert": Family(
        hf.ModernBertConfig, hf.ModernBertForMaskedLM, plus(encoder, cls_token_id=1, sep_token_id=2)
    ),
    "deberta-v2": Family(hf.DebertaV2Config, hf.DebertaV2ForMaskedLM, deberta),
    "gpt2": Family(hf.GPT2Config, hf.GPT2LMHeadModel, gpt2, "last"),
    "opt": Family(
        hf.OPTConfig,
        hf.OPTForCausalLM,
        lambda size: encoder(size) | {"ffn_dim": size.mlp, "word_embed_proj_dim": size.hidden},
        "last",
    ),
    "gpt-neox": Family(hf.GPTNeoXConfig, hf.GPTNeoXForCausalLM, encoder, "last"),
    "llama": Family(hf.LlamaConfig, hf.LlamaForCausalLM, grouped, "last"),
    "qwen3": Family(hf.Qwen3Config, hf.Qwen3ForCausalLM, grouped, "last"),
    "gemma3": Family(
        hf.Gemma3TextConfig, hf.Gemma3ForCausalLM, plus(grouped, query_pre_attn_scalar=32), "last"
    ),
    "mixtral": Family(hf.MixtralConfig, hf.MixtralForCausalLM, plus(grouped, num_local_experts=4), "last"),
    "t5": Family(hf.T5Config, hf.T5ForConditionalGeneration, t5, "decoder"),
    "bart": Family(hf.BartConfig, hf.BartForConditionalGeneration, bart, "decoder"),
    "llama-lora": Family(hf.LlamaConfig, hf.LlamaForCausalLM, grouped, "last", lora),
    "llama-ia3": Family(hf.LlamaConfig, hf.LlamaForCausalLM, grouped, "last", ia3),
}
