"""Adapters from folders: put on their base, told from it by their fingerprint, or a one-line error."""

from __future__ import annotations

import json
import sys

import peft
import pytest
import torch
import transformers as hf
from saved_models import BERT, GPT2, LLAMA, T5, adapted, logits_of, one_line, save, seeded

from lmntk.errors import UserError
from lmntk.models.filters import ParameterFilter
from lmntk.models.loading import fingerprint, load_pretrained
from lmntk.models.logit_model import PromptModel

ADAPTERS = {
    "lora": (GPT2, lambda: peft.LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=4), "causal", "lora_"),
    "dora": (LLAMA, lambda: peft.LoraConfig(task_type="CAUSAL_LM", r=2, use_dora=True), "causal", "lora_"),
    "ia3": (LLAMA, lambda: peft.IA3Config(task_type="CAUSAL_LM"), "causal", "ia3_"),
    "lora of t5": (T5, lambda: peft.LoraConfig(task_type="SEQ_2_SEQ_LM", r=2), "seq2seq", "lora_"),
    "lora of bert": (
        BERT,
        lambda: peft.LoraConfig(r=2, target_modules=["query", "value"]),
        "masked",
        "lora_",
    ),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_is_put_on_its_base(tmp_path, name):
    build, config, kind, mark = ADAPTERS[name]
    base = save(build(), tmp_path / "base")
    trained = build()
    folder = adapted(trained, tmp_path / "adapter", base, config())
    loaded = load_pretrained(str(folder), "float64")
    assert (loaded.kind, loaded.adapter, loaded.name, loaded.stored_dtype) == (
        kind,
        True,
        str(folder),
        "float32",
    )
    assert type(loaded.network) is type(build())
    assert not loaded.network.training
    for parameter_name, parameter in loaded.network.named_parameters():
        assert parameter.requires_grad == (mark in parameter_name), parameter_name
        assert parameter.dtype == torch.float64
    rows = [[6, 7, 8, 9]]
    found = logits_of(loaded.network, rows)
    torch.testing.assert_close(found, logits_of(trained.double(), rows), rtol=1e-6, atol=1e-6)
    assert (found - logits_of(build().double(), rows)).abs().max() > 1e-3
    assert loaded.tokenizer.mask_token_id == 4


def test_the_fingerprint_is_of_the_adapter_too(tmp_path):
    base = save(GPT2(), tmp_path / "base")

    def written(name, alpha=4, scale=1.0):
        config = peft.LoraConfig(
            task_type="CAUSAL_LM", r=2, lora_alpha=alpha, target_modules=["c_attn", "c_fc", "c_proj"]
        )
        return str(adapted(GPT2(), tmp_path / name, base, config, scale))

    plain = load_pretrained(base).fingerprint
    first, same, other_weights, other_scaling = (
        written("a"),
        written("b"),
        written("c", scale=0.5),
        written("d", alpha=8),
    )
    prints = [load_pretrained(folder).fingerprint for folder in (first, other_weights, other_scaling)]
    assert len({plain, *prints}) == 4
    assert load_pretrained(same).fingerprint == prints[0]
    network = load_pretrained(first).network
    network.peft_config["default"].use_rslora = True
    assert fingerprint(network) != prints[0]
    network.peft_config["default"].use_rslora = False
    assert fingerprint(network) == prints[0]
    network.transformer.h[0].attn.c_attn.set_scale("default", 3.0)
    assert fingerprint(network) != prints[0]


def test_the_fingerprint_says_which_adapter_is_on():
    network = peft.get_peft_model(
        GPT2(), peft.LoraConfig(task_type="CAUSAL_LM", r=2, init_lora_weights=False)
    )
    network.add_adapter("other", peft.LoraConfig(task_type="CAUSAL_LM", r=2, init_lora_weights=False))
    first = fingerprint(network)
    network.set_adapter("other")
    second = fingerprint(network)
    with network.disable_adapter():
        off = fingerprint(network)
    assert len({first, second, off}) == 3
    network.set_adapter("default")
    assert fingerprint(network) == first


def test_a_merged_adapter_is_refused():
    network = peft.get_peft_model(
        GPT2(), peft.LoraConfig(task_type="CAUSAL_LM", r=2, init_lora_weights=False)
    )
    network.merge_adapter()
    with pytest.raises(UserError, match=r"the adapter is merged.*call unmerge_adapter\(\) first"):
        ParameterFilter().select(PromptModel(network, [0, 1]))
    network.unmerge_adapter()
    assert ParameterFilter().select(PromptModel(network, [0, 1]))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("build", [LLAMA, BERT])
def test_a_classifier_s_adapter_brings_its_head(tmp_path, build, classes):
    classifier = hf.LlamaForSequenceClassification if build is LLAMA else hf.BertForSequenceClassification
    base = save(build(hf.LlamaModel if build is LLAMA else hf.BertModel), tmp_path / "base")
    trained = build(classifier, num_labels=classes)
    if build is BERT:
        trained.bert.load_state_dict(
            load_pretrained(base, kind="classifier", needs_head=False).network.bert.state_dict()
        )
    else:
        trained.model.load_state_dict(load_pretrained(base, needs_head=False).network.model.state_dict())
    folder = str(
        adapted(trained, tmp_path / "adapter", base, peft.LoraConfig(task_type="SEQ_CLS", r=2, lora_alpha=4))
    )
    loaded = load_pretrained(folder)
    assert (loaded.kind, loaded.network.config.num_labels) == ("classifier", classes)
    trainable = {name for name, parameter in loaded.network.named_parameters() if parameter.requires_grad}
    assert [name for name in trainable if "modules_to_save" in name]
    assert all("lora_" in name or "modules_to_save" in name for name in trainable)
    rows = [[6, 7, 8, 9]]
    torch.testing.assert_close(
        logits_of(loaded.network, rows), logits_of(trained, rows), rtol=1e-5, atol=1e-5
    )
    assert load_pretrained(folder).fingerprint == loaded.fingerprint


def test_where_the_base_is_looked_for(tmp_path, monkeypatch):
    base = save(GPT2(), tmp_path / "models" / "base")
    expected = load_pretrained(str(adapted(GPT2(), tmp_path / "models" / "adapter", base))).fingerprint
    beside = str(adapted(GPT2(), tmp_path / "models" / "beside", "base"))
    assert load_pretrained(beside).fingerprint == expected
    below = str(adapted(GPT2(), tmp_path / "below", "models/base"))
    monkeypatch.chdir(tmp_path)
    assert load_pretrained(below).fingerprint == expected
    gone = str(adapted(GPT2(), tmp_path / "gone", "/no/such/base"))
    with pytest.raises(
        UserError,
        match=r"the base '/no/such/base' of '.*gone' is not a folder with a config.json; give the base",
    ) as caught:
        load_pretrained(gone)
    one_line(caught)
    assert load_pretrained(gone, base=base).fingerprint == expected
    on_hub = str(adapted(GPT2(), tmp_path / "on-hub", "owner/no-such-base"))
    with pytest.raises(
        UserError, match=r"the base 'owner/no-such-base' of '.*on-hub' is no folder here and not in the cache"
    ) as caught:
        load_pretrained(on_hub)
    one_line(caught)
    unnamed = str(adapted(GPT2(), tmp_path / "unnamed", None))
    with pytest.raises(UserError, match="names no base model; give one, with base") as caught:
        load_pretrained(unnamed)
    one_line(caught)
    with pytest.raises(UserError, match="is a folder, which has no revision 'main'") as caught:
        load_pretrained(beside, revision="main")
    one_line(caught)


def test_a_base_that_is_an_adapter_and_an_adapter_beside_a_whole_model(tmp_path):
    base = save(GPT2(), tmp_path / "base")
    mixed = tmp_path / "mixed"
    save(GPT2(), mixed)
    adapted(GPT2(), mixed, base)
    with pytest.raises(
        UserError, match="holds a whole model beside the adapter; say which is the base"
    ) as caught:
        load_pretrained(str(mixed))
    one_line(caught)
    on_mixed = adapted(GPT2(), tmp_path / "on-mixed", str(mixed))
    with pytest.raises(UserError, match="is an adapter itself; merge it into its own base first") as caught:
        load_pretrained(str(on_mixed))
    one_line(caught)
    assert load_pretrained(str(mixed), base=base).adapter


def test_the_tokenizer_of_an_adapter_s_folder_goes_first(tmp_path):
    base = save(GPT2(), tmp_path / "base")
    folder = adapted(GPT2(), tmp_path / "adapter", base)
    assert load_pretrained(str(folder)).tokenizer.eos_token is None
    own = hf.AutoTokenizer.from_pretrained(base)
    own.eos_token = "z"
    own.save_pretrained(folder)
    assert load_pretrained(str(folder)).tokenizer.eos_token == "z"


@pytest.mark.parametrize(
    "method", [peft.PromptTuningConfig, peft.PrefixTuningConfig, peft.PromptEncoderConfig]
)
def test_prompt_learning_is_refused(tmp_path, method):
    base = save(GPT2(), tmp_path / "base")
    folder = adapted(GPT2(), tmp_path / "adapter", base, method(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(
        UserError, match=r"is one of prompt learning \(.*_TUNING\), which changes no layer; use LoRA"
    ) as caught:
        load_pretrained(str(folder))
    one_line(caught)


def test_an_adapter_s_pickle_is_never_read(tmp_path, monkeypatch):
    base = save(GPT2(), tmp_path / "base")
    folder = adapted(GPT2(), tmp_path / "adapter", base)
    weights = folder / "adapter_model.safetensors"
    kept = weights.read_bytes()
    weights.unlink()
    (folder / "adapter_model.bin").write_bytes(b"a pickle")
    monkeypatch.setattr(torch, "load", lambda *arguments, **options: pytest.fail("a pickle was read"))
    with pytest.raises(
        UserError, match=r"only a pickle, adapter_model.bin, which is never read; save it again"
    ) as caught:
        load_pretrained(str(folder))
    one_line(caught)
    weights.write_bytes(kept)
    assert load_pretrained(str(folder)).adapter
    weights.write_bytes(kept[:-10])
    with pytest.raises(UserError, match=r"cannot read the adapter_model.safetensors") as caught:
        load_pretrained(str(folder))
    one_line(caught)


STARTS = {
    "pissa": lambda: peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights="pissa"),
    "olora": lambda: peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights="olora"),
    "vb-lora, whose bank has a name in every layer": lambda: peft.VBLoRAConfig(
        r=2, target_modules=["q_proj", "v_proj"], num_vectors=8, vector_length=2, topk=2
    ),
    "vb-lora, the chosen vectors alone": lambda: peft.VBLoRAConfig(
        r=2, target_modules=["q_proj"], num_vectors=8, vector_length=2, topk=2, save_only_topk_weights=True
    ),
    "adaption prompt": lambda: peft.AdaptionPromptConfig(
        adapter_len=3, adapter_layers=2, task_type="CAUSAL_LM"
    ),
    "layer norms": lambda: peft.LNTuningConfig(target_modules=["input_layernorm"], task_type="CAUSAL_LM"),
    "trained tokens": lambda: peft.TrainableTokensConfig(
        token_indices=[5, 7], target_modules=["embed_tokens"]
    ),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", STARTS)
def test_methods_that_start_from_the_base_or_share_their_weights(tmp_path, name, dtype):
    """Put on in float32 where PEFT has no float64; and of each what it trains counts alone."""
    base = save(LLAMA(), tmp_path / "base")
    trained = peft.get_peft_model(LLAMA(), STARTS[name]())
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in trained.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    trained.peft_config["default"].base_model_name_or_path = base
    trained.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    loaded = load_pretrained(str(tmp_path / "adapter"), dtype, kind="causal")
    assert {parameter.dtype for parameter in loaded.network.parameters()} == {getattr(torch, dtype)}
    expected = logits_of(trained, [[6, 7, 8, 9]])
    torch.testing.assert_close(
        logits_of(loaded.network, [[6, 7, 8, 9]]).float(), expected, rtol=1e-5, atol=1e-6
    )
    counting = ParameterFilter().select(PromptModel(loaded.network, (5, 7)))
    names = {n.removeprefix("base_model.model.") for n, p in trained.named_parameters() if p.requires_grad}
    assert {n.removeprefix("network.") for n in counting} == names


@pytest.mark.parametrize("whole", [True, False])
def test_an_adapter_of_a_resized_vocabulary_says_how_to_resize(tmp_path, whole):
    base = save(LLAMA(), tmp_path / "base")
    larger = LLAMA()
    larger.resize_token_embeddings(43, mean_resizing=False)
    config = peft.LoraConfig(
        r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"] if whole else None
    )
    trained = peft.get_peft_model(larger, config)
    trained.peft_config["default"].base_model_name_or_path = base
    trained.save_pretrained(tmp_path / "adapter", save_embedding_layers=not whole)
    with pytest.raises(
        UserError, match=r"a table of 43 words .* its base has 40.*resize_token_embeddings\(43\)"
    ) as caught:
        load_pretrained(str(tmp_path / "adapter"), kind="causal")
    one_line(caught)


def test_prompt_learning_in_memory_is_refused():
    config = peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    with pytest.raises(UserError, match="PromptTuning is one of prompt learning") as caught:
        PromptModel(peft.get_peft_model(LLAMA(), config), (5, 7))
    one_line(caught)


def test_what_is_frozen_does_not_count():
    network = LLAMA()
    assert set(ParameterFilter().select(PromptModel(network.requires_grad_(False), (5, 7)))) == {
        f"network.{name}" for name, _ in network.named_parameters()
    }  # frozen whole, it is only being looked at
    network.model.layers[1].requires_grad_(True)
    counting = ParameterFilter().select(PromptModel(network, (5, 7)))
    assert counting and all(".layers.1." in name for name in counting)


def test_an_adapter_that_does_not_fit(tmp_path):
    base = save(GPT2(), tmp_path / "base")
    folder = str(adapted(GPT2(), tmp_path / "adapter", base))
    shallow = seeded(
        lambda: hf.GPT2LMHeadModel(
            hf.GPT2Config(vocab_size=40, n_embd=8, n_layer=1, n_head=2, n_positions=20)
        )
    )
    deep = seeded(
        lambda: hf.GPT2LMHeadModel(
            hf.GPT2Config(vocab_size=40, n_embd=8, n_layer=3, n_head=2, n_positions=20)
        )
    )
    wide = seeded(
        lambda: hf.GPT2LMHeadModel(
            hf.GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=20)
        )
    )
    cases = [
        (shallow, "does not fit its base, .* no place for"),
        (deep, "it lacks .*h.2"),
        (wide, "cannot put"),
        (LLAMA(), "cannot put|fit"),
    ]
    for number, (network, message) in enumerate(cases):
        with pytest.raises(UserError, match=message) as caught:
            load_pretrained(folder, base=save(network, tmp_path / str(number)))
        one_line(caught)


def test_an_adapter_without_peft_installed(tmp_path, monkeypatch):
    base = save(GPT2(), tmp_path / "base")
    folder = adapted(GPT2(), tmp_path / "adapter", base)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(
        UserError, match=r"needs PEFT to be read; install it with pip install 'lmntk\[peft\]'"
    ) as caught:
        load_pretrained(str(folder))
    one_line(caught)


def test_an_adapter_s_config_that_is_no_config(tmp_path):
    folder = adapted(GPT2(), tmp_path / "adapter", save(GPT2(), tmp_path / "base"))
    stored = json.loads((folder / "adapter_config.json").read_text())
    for content in ("not json", "[]", "{}", json.dumps(stored | {"peft_type": "NOTHING"})):
        (folder / "adapter_config.json").write_text(content)
        with pytest.raises(UserError, match=r"cannot read the adapter_config.json") as caught:
            load_pretrained(str(folder))
        one_line(caught)
    (folder / "adapter_config.json").write_text(json.dumps(stored | {"task_type": "TOKEN_CLS"}))
    with pytest.raises(
        UserError, match=r"is for the task TOKEN_CLS, not one of CAUSAL_LM, SEQ_2_SEQ_LM, SEQ_CLS"
    ) as caught:
        load_pretrained(str(folder))
    one_line(caught)
