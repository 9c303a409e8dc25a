"""One table of small language models; ``model_oracle`` has what plain autograd makes of them.

A new family is one row of ``TABLE``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any
from zlib import crc32

import peft
import pytest
import transformers as hf
from model_row import (
    SMALL,
    VOCABULARY,
    Row,
    middle_third,
    unrotated_halves,
    unrotated_keys,
    whole,
)
from torch import nn

from lmntk.models.filters import ParameterFilter


def family(
    config: Callable[..., Any], settings: dict[str, Any] | None, network: type[nn.Module], **known: Any
) -> Callable[..., Row]:
    """Returns what makes rows of a family, each with its own changes."""
    return partial(
        Row, config=config, network=network, **known, **({} if settings is None else {"settings": settings})
    )


bert = family(hf.BertConfig, SMALL, hf.BertForMaskedLM, token_types=True)
roberta = family(
    hf.RobertaConfig, SMALL, hf.RobertaForMaskedLM, relative_positions=True
)  # positions count from the first token
distilbert = family(
    hf.DistilBertConfig,
    {
        "vocab_size": VOCABULARY,
        "dim": 8,
        "n_layers": 2,
        "n_heads": 2,
        "hidden_dim": 12,
        "max_position_embeddings": 24,
    },
    hf.DistilBertForMaskedLM,
)
albert = family(hf.AlbertConfig, SMALL | {"embedding_size": 6}, hf.AlbertForMaskedLM, token_types=True)
electra = family(hf.ElectraConfig, SMALL | {"embedding_size": 6}, hf.ElectraForMaskedLM, token_types=True)
DEBERTA = SMALL | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "norm_rel_ebd": "layer_norm"}
deberta = family(
    hf.DebertaV2Config,
    None,
    hf.DebertaV2ForMaskedLM,
    fallback=("*.conv.conv.*",),
    attentions=("eager",),
)
SPECIAL = {"pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}
MODERN = SMALL | SPECIAL | {"num_hidden_layers": 4, "local_attention": 4}
# rotary positions are relative, but transformers computes their angles in float32: moved texts agree to 1e-9 only
modern = family(hf.ModernBertConfig, None, hf.ModernBertForMaskedLM, noise={})

DECODER = SMALL | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GROUPED = DECODER | {"num_key_value_heads": 1, "head_dim": 4}
causal = partial(family, reading="last", relative_positions=True, noise={})
in_float32 = partial(
    causal, tolerance=1e-6
)  # RMSNorm and the rotary angles are float32, whatever the weights are
KEYS = {"*.k_proj.bias": whole}
gpt2 = causal(
    hf.GPT2Config,
    {
        "vocab_size": VOCABULARY,
        "n_embd": 8,
        "n_layer": 2,
        "n_head": 2,
        "n_positions": 24,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    },
    hf.GPT2LMHeadModel,
    noise={"*.attn.c_attn.bias": middle_third},
)
opt = causal(hf.OPTConfig, None, hf.OPTForCausalLM, noise=KEYS)
OPT = DECODER | {"ffn_dim": 12, "word_embed_proj_dim": 8}
neox = causal(
    hf.GPTNeoXConfig,
    DECODER | {"rotary_pct": 0.5},
    hf.GPTNeoXForCausalLM,
    tolerance=1e-6,
    noise={"*.query_key_value.bias": unrotated_keys},
)
llama = in_float32(hf.LlamaConfig, GROUPED, hf.LlamaForCausalLM)
qwen2 = in_float32(hf.Qwen2Config, GROUPED, hf.Qwen2ForCausalLM)
# their only implementation in float64 on the CPU is the eager one
MIXTURE = GROUPED | {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 6,
    "experts_implementation": "eager",
}
GEMMA = GROUPED | {"query_pre_attn_scalar": 4, "sliding_window": 4}

ENCODER_DECODER = {
    "vocab_size": VOCABULARY, "d_model": 8, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 12, "decoder_ffn_dim": 12, "max_position_embeddings": 24, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "decoder_start_token_id": 2,
}  # fmt: skip
bart = family(hf.BartConfig, ENCODER_DECODER, hf.BartForConditionalGeneration, reading="decoder", noise=KEYS)
T5 = {
    "vocab_size": VOCABULARY, "d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 2, "num_heads": 2, "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16, "pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0,
}  # fmt: skip
t5 = family(
    hf.T5Config,
    T5,
    hf.T5ForConditionalGeneration,
    reading="decoder",
    noise={},
    relative_positions=True,
    tolerance=1e-6,
)


def lora(**settings: Any) -> Callable[[], Any]:
    return partial(peft.LoraConfig, **({"r": 3, "lora_alpha": 5, "lora_dropout": 0.1} | settings))


def ia3(targets: Sequence[str], feedforward: Sequence[str]) -> Callable[[], Any]:
    return partial(
        peft.IA3Config, target_modules=[*targets, *feedforward], feedforward_modules=[*feedforward]
    )


TABLE: dict[str, Row] = {
    "bert": bert(),
    "bert-untied": bert(untied=True),
    "bert-head-mode": bert(head_mode=True),
    "bert-pooled": bert(network=hf.BertModel, head_mode=True, features="pooled"),
    "bert-mean": bert(head_mode=True, features="mean"),
    "bert-biases": bert(parameters=ParameterFilter(biases_only=True)),
    "bert-classifier": bert(network=hf.BertForSequenceClassification, classifier=True),
    "roberta": roberta(),
    "roberta-untied-without-embeddings": roberta(untied=True, parameters=ParameterFilter(embeddings=False)),
    "roberta-top-layer": roberta(
        parameters=ParameterFilter(include=("*.layer.1.*",), exclude=("*.layer.1.output.dense.bias",))
    ),
    "distilbert": distilbert(),
    "distilbert-without-head": distilbert(parameters=ParameterFilter(head=False)),
    "albert": albert(),
    "albert-head-mode": albert(head_mode=True),
    "electra": electra(),
    "electra-untied": electra(untied=True),
    "deberta-shared-keys": deberta(
        settings=DEBERTA
        | {
            "share_att_key": True,
            "position_buckets": 4,
            "position_biased_input": False,
            "type_vocab_size": 0,
        },
        noise={},
        relative_positions=True,
    ),
    "deberta-own-keys-convolution": deberta(
        settings=DEBERTA | {"share_att_key": False, "conv_kernel_size": 3, "conv_act": "gelu"},
        noise={"*.pos_key_proj.bias": whole},
    ),
    "deberta-without-embeddings": deberta(
        settings=DEBERTA | {"share_att_key": True},
        untied=True,
        noise={},
        parameters=ParameterFilter(embeddings=False),
    ),
    "modernbert": modern(settings=MODERN),
    "modernbert-with-biases": modern(
        settings=MODERN
        | {"attention_bias": True, "mlp_bias": True, "norm_bias": True, "classifier_bias": True},
        untied=True,
    ),
    # uses its decoder's weight without calling the decoder
    "mobilebert": family(
        hf.MobileBertConfig,
        SMALL | {"embedding_size": 6, "intra_bottleneck_size": 8, "true_hidden_size": 8},
        hf.MobileBertForMaskedLM,
        token_types=True,
        batched=False,
        fallback=(
            "network.mobilebert.*.LayerNorm.*",
            "*.cls.predictions.bias",
            "*.word_embeddings.weight",
            "*.predictions.dense.weight",
        ),
        tolerance=1e-9,
    )(),
    # adds a bias to its decoder's output itself
    "esm": family(
        hf.EsmConfig,
        SMALL | {"pad_token_id": 0, "mask_token_id": 3},
        hf.EsmForMaskedLM,
        fallback=("*.lm_head.bias",),
    )(),
    # its relative positions have no batch axis
    "mpnet": family(
        hf.MPNetConfig, SMALL, hf.MPNetForMaskedLM, batched=False, noise={"*.attn.k.bias": whole}
    )(),
    "gpt2": gpt2(),
    "gpt2-untied": gpt2(untied=True),
    "gpt2-head-mode": gpt2(head_mode=True),
    "gpt2-classifier": gpt2(network=hf.GPT2ForSequenceClassification, classifier=True),
    "gpt-neo": causal(
        hf.GPTNeoConfig,
        DECODER
        | {"num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]], "window_size": 4},
        hf.GPTNeoForCausalLM,
        attentions=("eager",),
        tolerance=1e-6,
    )(),
    "gpt-j": causal(
        hf.GPTJConfig,
        {
            "vocab_size": VOCABULARY,
            "n_embd": 8,
            "n_layer": 2,
            "n_head": 2,
            "n_positions": 24,
            "rotary_dim": 2,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        hf.GPTJForCausalLM,
        attentions=("eager",),
        tolerance=1e-6,
    )(),
    "opt": opt(settings=OPT),
    "opt-projected": opt(settings=OPT | {"word_embed_proj_dim": 6, "do_layer_norm_before": False}),
    "gpt-neox": neox(),
    "bloom": causal(
        hf.BloomConfig,
        {"vocab_size": VOCABULARY, "hidden_size": 8, "n_layer": 2, "n_head": 2},
        hf.BloomForCausalLM,
        # its softmax is float32, so in float64 the keys' bias is noise that float64's threshold does not know
        parameters=ParameterFilter(exclude=("*.query_key_value.bias",)),
        attentions=("eager",),
        tolerance=1e-6,
    )(),
    "llama": llama(),
    "llama-tied": llama(settings=GROUPED | {"tie_word_embeddings": True}),
    "llama-head-mode": llama(head_mode=True),
    "llama-classifier": llama(network=hf.LlamaForSequenceClassification, classifier=True),
    "mistral": in_float32(hf.MistralConfig, GROUPED | {"sliding_window": 4}, hf.MistralForCausalLM)(),
    "qwen2": qwen2(),
    "qwen3": in_float32(hf.Qwen3Config, GROUPED, hf.Qwen3ForCausalLM)(),
    "gemma": in_float32(hf.GemmaConfig, GROUPED, hf.GemmaForCausalLM)(),
    "gemma2": in_float32(
        hf.Gemma2Config, GEMMA | {"sliding_window": 24}, hf.Gemma2ForCausalLM, attentions=("eager",)
    )(),
    "gemma3": in_float32(hf.Gemma3TextConfig, GEMMA, hf.Gemma3ForCausalLM, attentions=("sdpa",))(),
    "phi": in_float32(hf.PhiConfig, DECODER, hf.PhiForCausalLM, noise={"*.k_proj.bias": unrotated_halves})(),
    "phi3": in_float32(hf.Phi3Config, DECODER, hf.Phi3ForCausalLM)(),
    "olmo2": in_float32(hf.Olmo2Config, DECODER, hf.Olmo2ForCausalLM)(),
    "stablelm": in_float32(hf.StableLmConfig, GROUPED | {"num_key_value_heads": 2}, hf.StableLmForCausalLM)(),
    "falcon": in_float32(hf.FalconConfig, DECODER, hf.FalconForCausalLM)(),
    "cohere": in_float32(hf.CohereConfig, DECODER | {"use_qk_norm": True}, hf.CohereForCausalLM)(),
    "mixtral": in_float32(hf.MixtralConfig, MIXTURE | {"num_local_experts": 3}, hf.MixtralForCausalLM)(),
    "qwen2-moe": in_float32(
        hf.Qwen2MoeConfig, MIXTURE | {"shared_expert_intermediate_size": 6}, hf.Qwen2MoeForCausalLM
    )(),
    "qwen3-moe": in_float32(hf.Qwen3MoeConfig, MIXTURE | {"norm_topk_prob": True}, hf.Qwen3MoeForCausalLM)(),
    "olmoe": in_float32(hf.OlmoeConfig, MIXTURE, hf.OlmoeForCausalLM)(),
    "gpt-oss": in_float32(
        hf.GptOssConfig,
        MIXTURE | {"num_local_experts": 4},
        hf.GptOssForCausalLM,
        attentions=("eager",),
        fallback=("*.sinks",),
    )(),
    "t5": t5(),
    "t5-gated-untied": t5(settings=T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "t5-head-mode": t5(head_mode=True),
    "umt5": t5(config=hf.UMT5Config, network=hf.UMT5ForConditionalGeneration, settings=T5),
    "bart": bart(),
    "bart-scaled-untied": bart(settings=ENCODER_DECODER | {"scale_embedding": True}, untied=True),
    "bart-head-mode": bart(head_mode=True),
    "mbart": bart(config=hf.MBartConfig, network=hf.MBartForConditionalGeneration),
    "bert-lora-at-start": bert(adapter=lora(target_modules=["query", "value"]), trained=False),
    "bert-lora-head-mode": bert(adapter=lora(target_modules=["query", "dense"]), head_mode=True),
    "gpt2-lora": gpt2(adapter=lora(target_modules=["c_attn", "c_fc"])),
    "llama-lora-at-start": llama(adapter=lora(target_modules="all-linear"), trained=False),
    "llama-lora": llama(adapter=lora(target_modules="all-linear", use_rslora=True)),
    "llama-lora-on-the-vocabulary": llama(
        adapter=lora(target_modules=["embed_tokens", "lm_head", "v_proj"]), fallback=("*.lora_embedding_*",)
    ),
    "llama-lora-and-whole-modules": llama(
        adapter=lora(target_modules=["q_proj"], modules_to_save=["lm_head"])
    ),
    "llama-dora": llama(adapter=lora(target_modules=["q_proj", "down_proj"], use_dora=True)),
    "llama-ia3": llama(adapter=ia3(["k_proj", "v_proj"], ["down_proj"])),
    "gpt2-ia3": gpt2(adapter=ia3(["c_attn"], ["mlp.c_proj"])),
    "t5-lora": t5(adapter=lora(target_modules=["q", "v"])),
    "llama-classifier-lora": llama(
        network=hf.LlamaForSequenceClassification,
        classifier=True,
        adapter=lora(target_modules=["q_proj"], task_type="SEQ_CLS"),
    ),
}


def cases(table: Mapping[str, Row]) -> list[Any]:
    """Returns names and numbers of logits, of which every tenth, by hash, is quick."""
    return [
        pytest.param(
            name, outputs, marks=() if crc32(f"{name}-{outputs}".encode()) % 10 == 0 else pytest.mark.slow
        )
        for name in table
        for outputs in (1, 2, 3)
    ]


# one row a family, for what need not be shown for every variant
MASKED = [
    "bert",
    "roberta",
    "distilbert",
    "albert",
    "electra",
    "deberta-shared-keys",
    "deberta-own-keys-convolution",
    "modernbert",
]
FAMILIES = [*MASKED, "gpt2", "opt", "llama", "gemma3", "mixtral", "t5", "bart", "gpt2-lora", "llama-dora"]
