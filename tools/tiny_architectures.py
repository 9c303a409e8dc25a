"""Tiny configurations of every architecture of the installed transformers, made from its own default one.

Sizes shrink by their names (hidden sizes, layers, heads, experts, vocabularies), in configurations inside others
too; what a family needs besides stands in ``BESIDES``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

VOCABULARY = 64
PAD, BEGIN, END, MASK = 0, 1, 2, 4
WIDTH, HEADS, HEAD, LAYERS = 32, 4, 8, 2

# the first that matches a setting's whole name
SIZES: tuple[tuple[str, int], ...] = (
    (r"(.*_)?vocab(ulary)?_size(_.*)?|vocab_size_per_layer_input|n_tokens|text_vocab_size", VOCABULARY),
    (r"type_vocab_size|.*num_key_value_heads|num_kv_heads|n_head_kv|multi_query_group_num|num_attention_groups", 2),
    (r"(.*_)?(num_)?(encoder|decoder|hidden|text)?_?layers|n_layers?|num_blocks|depth", LAYERS),
    (r"(.*_)?(attention_heads|n_heads?|num_heads)|attention_head_count", HEADS),
    (r"head_dim|attention_head_size|.*_head_dim|kv_channels|d_kv|d_head|v_head_dim|qk_nope_head_dim", HEAD),
    (r"qk_rope_head_dim|rotary_dim", 4),
    (r"qk_head_dim", 12),
    (r"(q|kv|o|dt|.*)_lora_rank|.*low_rank_dim|.*_rank", 8),
    (r"(.*_)?(hidden_size|d_model|n_embd|embed(ding)?_(dim|size)|emb_dim|model_dim|hidden_dim|width|dim_model)(_.*)?", WIDTH),
    (r"(.*_)?moe_intermediate_size|expert_ffn.*|moe_ffn.*", 16),
    (r"(.*_)?(intermediate_(size|dim)|ffn_(dim|size|hidden_size)|(ff|inner|mlp)_dim|d_ff|[nd]_inner|dim_ff|feed_forward_size)(_.*)?", 48),
    (r"dim", WIDTH),
    (r"(.*_)?(num_|n_)?(local_|routed_|moe_|total_)?experts", 4),
    (r"(.*_)?(num_experts_per_tok(en)?|moe_top_?k|top_?k(_experts)?|experts_per_token|num_selected_experts|moe_k|num_activated.*)", 2),
    (r"n_group|topk_group|num_expert_groups?|topk_groups?|first_k_dense_replace|num_nextn_predict_layers", 1),
    (r"(.*_)?(max_position_embeddings|n_positions|n_ctx|max_seq(uence)?_len(gth)?|seq_length|max_.*_positions|context_length)", 64),
    (r"(.*_)?(sliding_window|attention_window|local_attention|window_size)(_size)?", 8),
    (r"(.*_)?(state_size|d_state|ssm_state_size)|chunk_size|.*chunk_size", 8),
    (r"relative_attention_num_buckets", 8),
    (r"relative_attention_max_distance", 16),
    (r"image_size", 16),
    (r"patch_size", 4),
)  # fmt: skip
KEY_HEADS = ("num_key_value_heads", "num_kv_heads")  # as many as queries' heads where the default has as many
SIZE_PATTERNS = tuple((re.compile(pattern), size) for pattern, size in SIZES)
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
# settings that the sizes do not give by themselves, by type of model
BESIDES: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "cohere_compass_text": {"rope_parameters": {"full_attention": ROPE, "sliding_attention": ROPE}},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
        "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "dots3_note_text": {
        "per_layer_config": {},
        "n_routed_experts": 4,
        "index_topk": 4,
        "index_head_dim": HEAD,
    },
    "gemma3n_text": {
        "num_kv_shared_layers": 0,
        "activation_sparsity_pattern": [0.5, 0.0],
        "intermediate_size": [48, 48],
        "layer_types": ["sliding_attention", "full_attention"],
        "hidden_size_per_layer_input": 8,
    },
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "longcat_flash": {
        "head_dim": 4,
        "qk_head_dim": 12,
        "ffn_hidden_size": 48,
        "expert_ffn_hidden_size": 16,
        "moe_topk": 2,
        "zero_expert_num": 2,
    },
    "mamba2": {"num_heads": HEADS, "head_dim": 16, "n_groups": 1},
    "ministral": {"head_dim": HEAD},
    "gemma4_assistant": {"text_config": {"hidden_size_per_layer_input": 0}},
    "mpnet": {"relative_attention_num_buckets": 32},
    "nemotron": {"head_dim": HEAD, "num_key_value_heads": 2},
    "nemotron_h": {"mamba_num_heads": HEADS, "mamba_head_dim": 16, "n_groups": 1},
    "neomme": {
        "per_layer_config": {},
        "rope_parameters": {"full_attention": ROPE, "sliding_attention": ROPE},
        "embedding_rank": 8,
        "head_dim": 16,
    },
    "perceiver": {
        "num_latents": 4,
        "d_latents": WIDTH,
        "d_model": WIDTH,
        "num_self_attends_per_block": 1,
        "num_blocks": 1,
    },
    "recurrent_gemma": {"block_types": ["recurrent", "attention"], "lru_width": WIDTH},
    "reformer": {
        "axial_pos_shape": [8, 8],
        "axial_pos_embds_dim": [8, 24],
        "attn_layers": ["local", "lsh"],
        "local_attn_chunk_length": 8,
        "lsh_attn_chunk_length": 8,
        "num_buckets": 2,
        "num_hidden_layers": 2,
    },
    "xlstm": {"embedding_dim": WIDTH, "mode": "train", "chunk_size": 8},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "zamba": {
        "num_hidden_layers": 4,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "attention_hidden_size": 2 * WIDTH,
        "attention_head_dim": 16,
        "mamba_dt_rank": 4,
        "n_mamba_heads": 2,
    },
    "zamba2": {
        "num_hidden_layers": LAYERS,
        "layers_block_type": ["linear_attention", "hybrid"],
        "hybrid_layer_ids": [1],
        "attention_hidden_size": 2 * WIDTH,
        "attention_head_dim": 16,
        "mamba_headdim": 16,
        "n_mamba_heads": HEADS,
        "mamba_ngroups": 1,
        "kv_channels": HEAD,
        "num_query_groups": HEADS,
    },
    "deepseek_v2": {"num_experts_per_tok": 2, "first_k_dense_replace": 1},
    "granite_swa": {"layer_rope_theta": [10000.0] * LAYERS},
    "granitemoe_swa": {"layer_rope_theta": [10000.0] * LAYERS},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "jamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "use_mamba_kernels": False,
    },
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "esm": {"vocab_size": VOCABULARY, "pad_token_id": PAD, "mask_token_id": MASK},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "hunyuan_v1_dense": {"head_dim": HEAD},
    "hunyuan_v1_moe": {"head_dim": HEAD},
}


def tiny_config(kind: type[Any], **others: Any) -> Any:
    """Return a tiny configuration of a class of configurations, with other settings besides."""
    return kind(**tiny_settings(kind) | others)


def tiny_settings(kind: type[Any]) -> dict[str, Any]:
    """Return the settings of a tiny configuration, by name."""
    default = kind()
    given = dict(_shrunken(kind, default))
    _number_tokens(default, given)
    for name, value in BESIDES.get(kind.model_type, {}).items():
        inner = isinstance(value, dict) and isinstance(given.get(name), dict)
        given[name] = given[name] | value if inner else value
    return given


def _shrunken(kind: type[Any], default: Any) -> Iterator[tuple[str, Any]]:
    layers = None
    for name in _settings(kind):
        value = vars(default).get(name, getattr(kind, name, None))
        if name in getattr(kind, "sub_configs", {}) or hasattr(value, "to_dict"):
            inner = value if hasattr(value, "to_dict") else None
            if inner is not None:
                yield name, tiny_settings(type(inner)) | {"model_type": type(inner).model_type}
        elif isinstance(value, int) and not isinstance(value, bool):
            size = size_of(name)
            if name in KEY_HEADS and value == vars(default).get("num_attention_heads"):
                size = HEADS
            if size is not None and value > 0:
                yield name, min(size, value)
        elif isinstance(value, list) and name.endswith("layer_types") and value:
            kinds = list(dict.fromkeys(value))
            layers = max(LAYERS, len(kinds), layers or 0)
            yield name, (kinds * layers)[:layers]
    if layers is not None:
        for name in _settings(kind):
            if name in ("num_hidden_layers", "n_layer", "n_layers", "num_layers"):
                yield name, layers


def size_of(name: str) -> int | None:
    """Return the tiny size of a setting by its name, None for one that is no size."""
    return next((size for pattern, size in SIZE_PATTERNS if pattern.fullmatch(name)), None)


def _settings(kind: type[Any]) -> list[str]:
    names = [
        name
        for name, each in inspect.signature(kind.__init__).parameters.items()
        if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)
    ]
    return [name for name in names if name != "self"]


def _number_tokens(default: Any, given: dict[str, Any]) -> None:
    """Give the special tokens ids inside the tiny vocabulary: those of images and sounds its last ones."""
    last = VOCABULARY - 1
    if getattr(default, "is_encoder_decoder", False):
        given["decoder_start_token_id"] = END
    for name, value in {**vars(default)}.items():
        if not name.endswith(("token_id", "token_index")) or not isinstance(value, int | list):
            continue
        known = {
            "pad_token_id": PAD,
            "bos_token_id": BEGIN,
            "eos_token_id": END,
            "decoder_start_token_id": END,
            "mask_token_id": MASK,
        }
        if name in known:
            given[name] = known[name]
        else:
            given[name] = last if isinstance(value, int) else [last]
            last -= 1
