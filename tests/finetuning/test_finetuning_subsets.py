"""What trains: bottom layers left out, a fresh LoRA put on and taken off again."""

from __future__ import annotations

import re
import sys

import pytest
import torch
from model_oracle import pad_id, random_texts
from model_table import TABLE

from lmntk.errors import UserError
from lmntk.finetuning.logits import logits_of
from lmntk.finetuning.settings import Labelled, TrainingData, TrainingSettings
from lmntk.finetuning.subsets import Subset, without_bottom
from lmntk.finetuning.training import fine_tune, fine_tune_linearized
from lmntk.models.filters import ParameterFilter
from lmntk.models.fingerprint import fingerprint
from lmntk.models.weights import at_weights
from lmntk.tangents.linearized import LinearizedModel

SETTINGS = TrainingSettings("adamw", 1e-2, batch_size=2, steps=6, eval_every=3)
PLAIN = [
    "bert",
    "bert-head-mode",
    "gpt2",
    "gpt2-head-mode",
    "llama",
    "t5",
    "t5-head-mode",
    "bart",
    "mpnet",
    "bert-classifier",
    "esm",
]


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("linearized", [False, True])
def test_lora_is_put_on_trained_merged_and_taken_off(name, linearized):
    row = TABLE[name]
    model, pad = row.model(2), pad_id(row.model(2))
    texts = random_texts(row, [6, 3, 8, 5], 1)
    data = Labelled(texts, [0, 1, 0, 1])
    before = {key: (p, p.detach().clone(), p.requires_grad) for key, p in model.named_parameters()}
    modules = {key: (module, module.training) for key, module in model.named_modules()}
    mark, attributes = fingerprint(model.network), set(vars(model.network))
    with Subset(lora_rank=2, lora_alpha=6).chosen(model) as trained:
        assert all(".lora_" in key or key.startswith("head.") for key in trained.parameters)
        torch.testing.assert_close(
            logits_of(model, texts, pad), logits_of(row.model(2), texts, pad)
        ) if not row.head_mode else None
        found = (fine_tune_linearized if linearized else fine_tune)(
            model, TrainingData(data, data, pad), trained.parameters, SETTINGS
        )
        own = trained.own(found.weights)
    assert {key: (module, module.training) for key, module in model.named_modules()} == modules
    for key, p in model.named_parameters():
        assert p is before[key][0] and torch.equal(p, before[key][1]) and p.requires_grad == before[key][2]
    assert fingerprint(model.network) == mark and set(vars(model.network)) == attributes
    assert set(own) <= set(before) and any(key.startswith("network.") for key in own)
    if linearized:
        change = {key: value - before[key][1] for key, value in own.items()}
        after = logits_of(LinearizedModel(model, change), texts, pad)
    else:
        with at_weights(model, own):
            after = logits_of(model, texts, pad)
    tolerance = 1e-10 if row.tolerance < 1e-9 else 1e-6
    torch.testing.assert_close(after, found.dev_logits, rtol=tolerance, atol=tolerance)
    assert float((after - logits_of(model, texts, pad)).abs().max()) > 1e-3


def test_lora_goes_where_peft_puts_it_and_its_scale_is_alpha_over_rank():
    model = TABLE["bert"].model(1)
    with Subset(lora_rank=4, lora_alpha=6).chosen(model) as trained:
        names = [key for key in trained.parameters if "lora_A" in key]
        assert len(names) == 4 and all(".query." in key or ".value." in key for key in names)
        assert all(p.shape[0] == 4 for key, p in trained.parameters.items() if "lora_A" in key)
        a = {
            key: torch.ones_like(p) if "lora_B" in key else p.detach()
            for key, p in trained.parameters.items()
        }
        merged = trained.own(a)
    key = "network.bert.encoder.layer.0.attention.self.query.weight"
    change = 6 / 4 * a[key.replace("weight", "lora_A.default.weight")].sum(0)
    torch.testing.assert_close(
        merged[key] - dict(model.named_parameters())[key].detach(), change.expand(8, 8)
    )


def test_lora_trains_the_head_that_was_put_on_and_not_a_classifiers_own():
    for name, expected in (("bert-head-mode", True), ("bert-classifier", False)):
        with Subset(lora_rank=2).chosen(TABLE[name].model(1)) as trained:
            own = [key for key in trained.parameters if ".lora_" not in key]
        assert bool(own) == expected and all(key.startswith("head.") for key in own)


def test_lora_of_a_seed_is_the_same_each_time():
    model = TABLE["bert"].model(1)
    draws = []
    for seed in (1, 1, 2):
        with Subset(lora_rank=2, seed=seed).chosen(model) as trained:
            draws.append(
                {key: p.detach().clone() for key, p in trained.parameters.items() if "lora_A" in key}
            )
    assert all(torch.equal(draws[0][key], draws[1][key]) for key in draws[0])
    assert not any(torch.equal(draws[0][key], draws[2][key]) for key in draws[0])


def test_an_error_takes_lora_off_too():
    model = TABLE["bert"].model(1)
    names = [key for key, _ in model.named_parameters()]
    with pytest.raises(KeyboardInterrupt), Subset(lora_rank=2).chosen(model):
        raise KeyboardInterrupt
    assert [key for key, _ in model.named_parameters()] == names and not hasattr(model.network, "peft_config")


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "t5", "roberta", "distilbert"])
def test_bottom_layers_are_left_out(name):
    model = TABLE[name].model(1)
    every = ParameterFilter().select(model)
    left = without_bottom(model, every, 1)
    tables = [
        id(p)
        for module in model.modules()
        if isinstance(module, torch.nn.Embedding)
        for p in module.parameters()
    ]
    assert left and not any(id(p) in tables for p in left.values())
    layer = {
        key: re.search(r"\.(\d+)\.", key) for key in every
    }  # the first number is the layer's; T5 numbers the parts of a layer too
    number = {key: None if found is None else int(found[1]) for key, found in layer.items()}
    assert all(number[key] in (None, 1) and ".embeddings." not in key for key in left)
    assert {key for key in every if number[key] == 1 and id(every[key]) not in tables} <= set(left)
    assert set(without_bottom(model, every, 2)) == {key for key in left if number[key] is None}


def test_bitfit_trains_the_biases_alone():
    model = TABLE["bert"].model(1)
    with Subset(ParameterFilter(biases_only=True)).chosen(model) as trained:
        assert trained.parameters and all(key.endswith("bias") for key in trained.parameters)


def test_names_and_settings():
    assert Subset().suffix() == "" and Subset(lora_rank=8).suffix() == " (lora r=8)"
    assert Subset(freeze_layers=2).suffix() == " (without 2 bottom layers)"
    assert Subset(lora_rank=8).as_dict()["lora_alpha"] == 16.0 and "lora_rank" not in Subset().as_dict()


@pytest.mark.parametrize(
    ("name", "subset", "words"),
    [
        ("bert", Subset(freeze_layers=3), "3 of the network's 2 layers"),
        (
            "bert",
            Subset(ParameterFilter(include=("*embeddings*",)), freeze_layers=1),
            "nothing is left to train",
        ),
        ("bert", Subset(lora_rank=2, freeze_layers=1), "give one of the two"),
        (
            "bert",
            Subset(ParameterFilter(biases_only=True), lora_rank=2),
            r"leave out the filter \(biases only\), or lora-rank",
        ),
        (
            "bert",
            Subset(ParameterFilter(head=False, include=("*layer.1*",)), lora_rank=2),
            "without head; only",
        ),
        ("gpt2-lora", Subset(lora_rank=2), "is an adapter already"),
    ],
)
def test_mistakes_are_told(name, subset, words):
    with pytest.raises(UserError, match=words), subset.chosen(TABLE[name].model(1)):
        pass


def test_without_peft_lora_says_what_to_install(monkeypatch):
    model = TABLE["bert"].model(1)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"lmntk\[peft\]"), Subset(lora_rank=2).chosen(model):
        pass
