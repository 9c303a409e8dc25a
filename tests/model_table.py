"""One table of small language models, and the oracle: plain autograd on the untouched network, one text at a time.

A new family is one row of ``TABLE``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from typing import Any
from zlib import crc32

import peft
import pytest
import torch
import transformers as hf
from tiny_architectures import tiny_settings
from torch import Tensor, nn

from lmntk.models.configuration import setting
from lmntk.models.filters import ParameterFilter
from lmntk.models.kinds import auto_class
from lmntk.models.logit_model import ClassifierModel, HeadModel, LogitModel, PromptModel, untie_head
from lmntk.prompts.batching import collate
from lmntk.prompts.encoding import EncodedText

VOCABULARY = 37
LABELS = (5, 9, 7)
FIRST_ID = 4  # ids below are special in every family
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 24,
}


Noise = Callable[[Tensor], Tensor]  # from a parameter to the mask of its coordinates that are rounding noise


def whole(parameter: Tensor) -> Tensor:
    return torch.ones_like(parameter, dtype=torch.bool)


def middle_third(parameter: Tensor) -> Tensor:
    """The keys' part of a bias of queries, keys and values."""
    mask = torch.zeros_like(parameter, dtype=torch.bool)
    mask[len(mask) // 3 : 2 * len(mask) // 3] = True
    return mask


def unrotated_keys(parameter: Tensor) -> Tensor:
    """GPT-NeoX: a head's queries, keys and values one after the other, four wide; the first two are rotated."""
    mask = torch.zeros_like(parameter, dtype=torch.bool).reshape(2, 3, 4)
    mask[:, 1, 2:] = True
    return mask.flatten()


def unrotated_halves(parameter: Tensor) -> Tensor:
    """Phi: keys four wide, of which the first two are rotated."""
    mask = torch.zeros_like(parameter, dtype=torch.bool).reshape(2, 4)
    mask[:, 2:] = True
    return mask.flatten()


@dataclass(frozen=True)
class Row:
    """A family: how to build it, and what is known of it beforehand."""

    config: Callable[..., Any]
    settings: dict[str, Any]
    network: type[nn.Module]
    reading: str = "mask"  # where the logits are read: mask, last, decoder
    untied: bool = False
    head_mode: bool = False
    classifier: bool = False
    features: str = "read"
    adapter: Callable[[], Any] | None = None  # a peft configuration
    trained: bool = True  # the adapter is moved away from its start, where B = 0
    parameters: ParameterFilter = field(default_factory=ParameterFilter)
    noise: Mapping[str, Noise] = field(
        default_factory=lambda: {"*.key.bias": whole, "*.k_lin.bias": whole}
    )  # names' patterns
    relative_positions: bool = False  # so that padding on the left leaves the function as it is
    batched: bool = True
    fallback: tuple[str, ...] = ()  # patterns of names that go by plain autograd
    token_types: bool = False
    attentions: tuple[str, ...] = ("sdpa", "eager")
    precision: torch.dtype = torch.float64
    moved: float = 0.2  # how far parameters are moved from where they start, standard deviation
    tolerance: float = 1e-10  # 1e-6 where the library computes in float32 inside

    def build(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> Any:
        """Returns the network with every parameter, biases and norms too, moved away from 0 and 1."""
        torch.manual_seed(seed)
        network = self.network(self.config(**self.settings)).double()
        self._move(network)
        if self.untied:
            untie_head(network)
            with torch.no_grad():
                network.get_output_embeddings().weight.add_(0.2 * torch.randn(VOCABULARY, 1))
        if self.adapter is not None:
            network = peft.get_peft_model(network, self.adapter()).double()
            if self.trained:
                self._move(network)
        return network.to(dtype).eval()

    def _move(self, network: nn.Module) -> None:
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(self.moved * torch.randn_like(parameter))

    def model(self, outputs: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> LogitModel:
        """Returns a model of 2 or 3 logits, or with ``outputs=1`` of a difference."""
        classes = max(outputs, 2)
        if self.classifier:
            row = replace(self, settings=self.settings | {"num_labels": classes})
            return ClassifierModel(row.build(seed, dtype), outputs == 1)
        network = self.build(seed, dtype)
        if self.head_mode:
            return HeadModel(network, nn.Linear(8, classes).to(dtype), outputs == 1, self.features)
        return PromptModel(network, LABELS[:classes], outputs == 1)

    def noise_masks(self, trainable: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the masks [p] of the coordinates that are known to be rounding noise."""
        found = {}
        for name, parameter in trainable.items():
            masks = [
                make(parameter.detach().flatten())
                for pattern, make in self.noise.items()
                if fnmatchcase(name, pattern)
            ]
            if masks:
                found[name] = masks[0]
        return found

    def goes_by_autograd(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self.fallback)


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


def pad_id(model: LogitModel) -> int:
    return int(setting(model.network.config, "pad_token_id", 0))


def random_texts(row: Row, lengths: Sequence[int], seed: int) -> list[EncodedText]:
    """Returns texts in which tokens, label words among them, are often repeated; the read position is anywhere."""
    generator = torch.Generator().manual_seed(seed)

    prefix = (2, 3) if row.reading == "decoder" else None

    def draw(low: int, high: int, count: int) -> tuple[int, ...]:
        return tuple(torch.randint(low, high, (count,), generator=generator).tolist())

    texts = []
    for length in lengths:
        types = draw(0, 2, length) if row.token_types else None
        ids = draw(FIRST_ID, 18, length - 1)
        # the last token differs: without absolute positions, equal tokens make attention uniform and its gradients noise
        position = {"last": length - 1, "decoder": len(prefix or ()) - 1}.get(
            row.reading, draw(0, length, 1)[0]
        )
        texts.append(EncodedText((*ids, 20), position, types, decoder_ids=prefix))
    return texts


def plain_logits(model: LogitModel, batch: Mapping[str, Tensor]) -> Tensor:
    """Returns one text's logits [c] from the network as Hugging Face made it: all tokens, the whole vocabulary."""
    inputs = {name: tensor for name, tensor in batch.items() if name != "read_position"}
    position = int(batch["read_position"])
    network: Any = model.network
    if isinstance(model, HeadModel):
        output = network(**inputs)
        features = {
            "read": lambda: output[0][0, position],
            "mean": lambda: output[0][0].mean(0),
            "pooled": lambda: output.pooler_output[0],
        }
        logits = nn.functional.linear(features[model.kind](), model.head.weight, model.head.bias)
    elif isinstance(model, ClassifierModel):
        logits = network(**inputs).logits[0]
    else:
        logits = network(**inputs).logits[0, position][model.label_ids]  # type: ignore[index]
    return logits[1:] - logits[:1] if model.difference else logits


def _without_rounding(name: str, gradient: Tensor) -> Tensor:
    """Returns a router's gradient [e, h] without rounding error in place of zero.

    Mixtral's weights sum to one over the experts chosen, so the others' scores do not matter, and a text's gradient is zero in the
    rows of experts that it never chooses. The softmax is float32: autograd returns 1e-6 of the rest or less there.
    """
    if not name.endswith(".mlp.gate.weight"):
        return gradient
    sizes = gradient.abs().amax(1, keepdim=True)
    return torch.where(sizes < 1e-5 * sizes.max(), 0.0, gradient)


def oracle(
    model: LogitModel, batches: Sequence[Mapping[str, Tensor]], trainable: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """Returns the Jacobian {name: [n, c, p]} by ``torch.autograd.grad``, one text and logit at a time."""
    rows: dict[str, list[Tensor]] = {name: [] for name in trainable}
    for batch in batches:
        logits = plain_logits(model, batch)
        found = [
            torch.autograd.grad(f, list(trainable.values()), retain_graph=True, allow_unused=True)
            for f in logits
        ]
        for index, (name, parameter) in enumerate(trainable.items()):
            parts = [torch.zeros_like(parameter) if each[index] is None else each[index] for each in found]
            rows[name].append(torch.stack([_without_rounding(name, part).flatten() for part in parts]))
    return {name: torch.stack(each) for name, each in rows.items()}


def alone(model: LogitModel, texts: Sequence[EncodedText]) -> list[dict[str, Tensor]]:
    """Returns every text as a batch of one without padding."""
    return [collate([text], pad_id(model)) for text in texts]


def flat(jacobian: Mapping[str, Tensor], without: Mapping[str, Tensor] | None = None) -> Tensor:
    """Returns the Jacobian [n, c, p] with the masked coordinates set to zero."""
    masks = without or {}
    return torch.cat(
        [torch.where(masks[name], 0.0, part) if name in masks else part for name, part in jacobian.items()], 2
    )


# kernel -> (sign of the rows' gradient, sign of the columns'), written down once more: not the library's own table
ORACLE_SIGNS = {
    "sgd": (False, False),
    "signgd": (True, True),
    "asigngd": (True, False),
    "asigngd_flipped": (False, True),
}


def kernel_of(name: str, rows: Tensor, columns: Tensor) -> Tensor:
    """Returns the named kernel [n, c, m, d] of two Jacobians, by the definition."""
    row_sign, column_sign = ORACLE_SIGNS[name]
    return torch.einsum(
        "ncp,mdp->ncmd", rows.sign() if row_sign else rows, columns.sign() if column_sign else columns
    )


def relative_distance(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())
