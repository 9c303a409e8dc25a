"""Names of sets of parameters over every family of the table of models."""

from __future__ import annotations

import re

import pytest
from model_table import TABLE

from lmntk.errors import UserError
from lmntk.kernels.grid import lora_candidates, part_candidates, parts_for_lora, plain_candidates
from lmntk.models.filters import ParameterFilter
from lmntk.models.parts import parts_of
from lmntk.models.targets import parameters_of

BERT = "network.bert.encoder.layer.N."
LLAMA = "network.model.layers.N."
GPT2 = "network.transformer.h.N."
# family -> the modules, without layers' numbers, that LoRA adapts for query+value, attention and the MLP
ADAPTED = {
    "bert": (
        [f"{BERT}attention.self.query", f"{BERT}attention.self.value"],
        [f"{BERT}attention.{each}" for each in ("self.query", "self.key", "self.value", "output.dense")],
        [f"{BERT}intermediate.dense", f"{BERT}output.dense"],
    ),
    "roberta": (
        [f"{BERT}attention.self.{each}".replace("bert", "roberta") for each in ("query", "value")],
        [
            f"{BERT}attention.{each}".replace("bert", "roberta")
            for each in ("self.query", "self.key", "self.value", "output.dense")
        ],
        [f"{BERT}{each}.dense".replace("bert", "roberta") for each in ("intermediate", "output")],
    ),
    "distilbert": (
        [f"network.distilbert.transformer.layer.N.attention.{each}" for each in ("q_lin", "v_lin")],
        [f"network.distilbert.transformer.layer.N.attention.{e}_lin" for e in ("q", "k", "v", "out")],
        [f"network.distilbert.transformer.layer.N.ffn.lin{each}" for each in (1, 2)],
    ),
    "albert": (
        [
            f"network.albert.encoder.albert_layer_groups.N.albert_layers.N.attention.{e}"
            for e in ("query", "value")
        ],
        [
            f"network.albert.encoder.albert_layer_groups.N.albert_layers.N.attention.{e}"
            for e in ("query", "key", "value", "dense")
        ],
        [f"network.albert.encoder.albert_layer_groups.N.albert_layers.N.{e}" for e in ("ffn", "ffn_output")],
    ),
    "deberta-own-keys-convolution": (
        [f"network.deberta.encoder.layer.N.attention.self.{each}_proj" for each in ("query", "value")],
        [
            f"network.deberta.encoder.layer.N.attention.{each}"
            for each in (
                *(f"self.{name}_proj" for name in ("query", "key", "value", "pos_key", "pos_query")),
                "output.dense",
            )
        ],
        [f"network.deberta.encoder.layer.N.{each}.dense" for each in ("intermediate", "output")],
    ),
    "modernbert": (
        ["network.model.layers.N.attn.Wqkv"],
        ["network.model.layers.N.attn.Wqkv", "network.model.layers.N.attn.Wo"],
        ["network.model.layers.N.mlp.Wi", "network.model.layers.N.mlp.Wo"],
    ),
    "gpt2": (
        [f"{GPT2}attn.c_attn"],
        [f"{GPT2}attn.c_attn", f"{GPT2}attn.c_proj"],
        [f"{GPT2}mlp.c_fc", f"{GPT2}mlp.c_proj"],
    ),
    "opt": (
        [f"network.model.decoder.layers.N.self_attn.{each}_proj" for each in "qv"],
        [f"network.model.decoder.layers.N.self_attn.{each}_proj" for each in ("q", "k", "v", "out")],
        [f"network.model.decoder.layers.N.fc{each}" for each in (1, 2)],
    ),
    "gpt-neox": (
        ["network.gpt_neox.layers.N.attention.query_key_value"],
        [f"network.gpt_neox.layers.N.attention.{each}" for each in ("query_key_value", "dense")],
        [f"network.gpt_neox.layers.N.mlp.dense_{each}" for each in ("h_to_4h", "4h_to_h")],
    ),
    "llama": (
        [f"{LLAMA}self_attn.{each}_proj" for each in "qv"],
        [f"{LLAMA}self_attn.{each}_proj" for each in "qkvo"],
        [f"{LLAMA}mlp.{each}_proj" for each in ("gate", "up", "down")],
    ),
    "t5": (
        [f"network.{s}.block.N.layer.N.SelfAttention.{e}" for s in ("encoder", "decoder") for e in "qv"]
        + [f"network.decoder.block.N.layer.N.EncDecAttention.{each}" for each in "qv"],
        [f"network.{s}.block.N.layer.N.SelfAttention.{e}" for s in ("encoder", "decoder") for e in "qkvo"]
        + [f"network.decoder.block.N.layer.N.EncDecAttention.{each}" for each in "qkvo"],
        [
            f"network.{s}.block.N.layer.N.DenseReluDense.{e}"
            for s in ("encoder", "decoder")
            for e in ("wi", "wo")
        ],
    ),
}


def modules(names):
    return sorted({re.sub(r"\.\d+(?=\.)", ".N", name.rsplit(".", 1)[0]) for name in names})


@pytest.mark.parametrize("family", ADAPTED)
def test_what_lora_adapts_by_name(family):
    parts = parts_of(TABLE[family].model(2))
    for target, expected in zip(("query+value", "attention", "mlp"), ADAPTED[family], strict=True):
        assert modules(parameters_of(target, parts, low_rank=True)) == sorted(expected), target
    both = set(parameters_of("attention+mlp", parts, low_rank=True))
    assert both <= set(parameters_of("all-linear", parts, low_rank=True))


@pytest.mark.one_in(4)
@pytest.mark.parametrize("family", [name for name, row in TABLE.items() if row.adapter is None])
def test_every_family_has_the_parts_by_name(family):
    """Attention, an MLP, norms and tables are there; types and layers have each parameter once; LoRA leaves the head."""
    model = TABLE[family].model(2)
    parts = parts_of(model)
    for target in ("query+value", "attention", "mlp", "norms", "embeddings"):
        assert parameters_of(target, parts), target
    linear = parameters_of("all-linear", parts, low_rank=True)
    assert linear
    head = {id(p) for p in model.parameters()} - {id(p) for m in model.body() for p in m.parameters()}
    parameters = dict(model.named_parameters())
    assert not any(id(parameters[name]) in head for name in linear)
    for prefix in ("layer: ", "type: "):
        names = [n for c in part_candidates(parts) if c.name.startswith(prefix) for n in c.parameters]
        assert sorted(names) == sorted(parts)
    assert "type: other" not in {c.name for c in part_candidates(parts)} or all(
        parts[name].layer is None or "bottleneck" in name
        for c in part_candidates(parts)
        if c.name == "type: other"
        for name in c.parameters
    )


def test_layers_patterns_and_what_two_terms_share():
    model = TABLE["bert"].model(2)
    parts = parts_of(model)
    top = parameters_of("top-1", parts)
    assert modules(name for name in top if ".layer." in name) == modules(n for n in parts if ".layer.1." in n)
    assert any("cls" in name for name in top)
    assert not any("embeddings" in name for name in top)
    assert parameters_of("layer-0", parts) == tuple(name for name in parts if ".layer.0." in name)
    assert parameters_of("query&layer-0", parts) == (
        "network.bert.encoder.layer.0.attention.self.query.weight",
    )
    assert parameters_of("*.layer.1.*", parts) == parameters_of("layer-1", parts)
    assert parameters_of("all", parts) == tuple(parts)
    for target, chosen in (("biases", ParameterFilter(biases_only=True)), ("head", ParameterFilter())):
        others = set() if target == "biases" else set(ParameterFilter(head=False).select(model))
        assert set(parameters_of(target, parts)) == set(chosen.select(model)) - others


@pytest.mark.parametrize(
    ("family", "target", "low_rank", "message"),
    [
        (
            "bert",
            "queries",
            False,
            "no 'queries' is known; give one of all, query, key, .*top-K, layer-K, or a pattern",
        ),
        (
            "llama",
            "biases",
            False,
            "'biases' matches nothing here; there are all, query, .* and names like 'network",
        ),
        ("bert", "*.nobody.*", False, r"'\*.nobody.\*' matches nothing here; there are all, query"),
        ("bert", "query&mlp", False, "'query&mlp' takes no parameter here"),
        (
            "bert",
            "norms",
            True,
            "'norms' takes no linear map for LoRA here; there are all, query, key, value, ",
        ),
        ("bert", "top-3", False, "'top-3' of a network of 2 layers; give top-1 to top-2"),
        ("bert", "layer-2", False, "'layer-2' of a network of 2 layers; give layer-0 to layer-1"),
    ],
)
def test_targets_that_match_nothing(family, target, low_rank, message):
    with pytest.raises(UserError, match=f"^targets: {message}"):
        parameters_of(target, parts_of(TABLE[family].model(2)), low_rank)


def test_ranks_that_no_layer_has_and_lora_on_an_adapter():
    parts = parts_for_lora(TABLE["llama"].model(2))
    with pytest.raises(
        UserError, match=r"^rank: 9 is more than .*layers.0.self_attn.k_proj.weight' has, which is 4 x 8"
    ):
        lora_candidates(parts, ["attention"], [2, 9])
    with pytest.raises(UserError, match=r"^lora: the model is an adapter already; give its base model"):
        parts_for_lora(TABLE["llama-lora"].model(2))


def test_grids_of_candidates_by_name():
    parts = parts_of(TABLE["bert"].model(2))
    found = lora_candidates(parts, ["query+value", "mlp"], [1, 4], [0, 7])
    assert [candidate.name for candidate in found[:3]] == [
        "query+value r=1 seed=0",
        "query+value r=1 seed=7",
        "query+value r=4 seed=0",
    ]
    assert [(c.rank, c.seed) for c in found] == [(1, 0), (1, 7), (4, 0), (4, 7)] * 2
    assert [c.name for c in plain_candidates(parts, ["biases", "top-1"])] == ["biases", "top-1"]
