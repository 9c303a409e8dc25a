"""Faults that are planted in a sound model, one at a time: the doctor names each, and exits with 1."""

from __future__ import annotations

import pytest
import torch
import transformers as hf
from findings import faults
from torch import nn
from transformers import AutoTokenizer

from lmntk.tangents.factors import OuterFactors, sum_over_uses
from lmntk.tangents.rules import register_rule


def test_a_rule_removed(check, rules):
    del rules[nn.Linear]
    code, report = check("bert")
    fault = faults(report)["rules"]
    assert code == 1 and fault["modules"] == ["Linear"] and not report["all_is_well"]
    assert "network.bert.encoder.layer.*.attention.self.query.weight (Linear) x 2" in fault["line"]
    assert "network.bert.encoder.layer.1.output.dense.bias" in fault["names"]
    code, printed = check("bert", as_json=False)
    assert (
        code == 1
        and "FAULT  rules: no rule covers" in printed
        and printed.splitlines()[-1] == "not all is well: 1 fault"
    )


def test_a_wrong_rule(check, rules):
    @register_rule(nn.Linear)
    def linear(use):
        gradients = use.output_gradients
        yield use.module.weight, OuterFactors(1.001 * use.inputs, gradients, False)
        yield use.module.bias, sum_over_uses(gradients)

    code, report = check("classifier", "--dtype", "float64")
    fault = faults(report)["rules"]
    assert (
        code == 1
        and "the rule is wrong for" in fault["line"]
        and "network.classifier.weight" in fault["names"]
    )
    assert all(name.endswith("weight") for name in fault["names"])


def test_a_tied_weight_doubled_with_equal_values(folder, check):
    network = hf.BertForMaskedLM.from_pretrained(folder / "bert")
    network.config.tie_word_embeddings = False
    network.cls.predictions.decoder.weight = nn.Parameter(
        network.bert.embeddings.word_embeddings.weight.detach().clone()
    )
    network.cls.predictions.decoder.bias = nn.Parameter(network.cls.predictions.bias.detach().clone())
    network.save_pretrained(folder / "doubled")
    AutoTokenizer.from_pretrained(folder / "bert").save_pretrained(folder / "doubled")
    code, report = check("doubled")
    assert code == 1 and set(faults(report)) == {"ties"}
    names = ["network.bert.embeddings.word_embeddings.weight", "network.cls.predictions.decoder.weight"]
    assert faults(report)["ties"]["doubled"] == [names]


@pytest.mark.parametrize("planted", ["in the checkpoint", "after loading"])
def test_a_configuration_that_ties_weights_that_are_apart(folder, check, plant, planted):
    def untie(network):
        weight = network.cls.predictions.decoder.weight
        network.cls.predictions.decoder.weight = nn.Parameter(2 * weight.detach())

    if planted == "after loading":
        plant(untie)
        code, report = check("bert")
    else:
        network = hf.BertForMaskedLM.from_pretrained(folder / "bert")
        untie(network)
        network.save_pretrained(folder / "apart")
        AutoTokenizer.from_pretrained(folder / "bert").save_pretrained(folder / "apart")
        code, report = check("apart")
    assert code == 1 and set(faults(report)) == {"ties"}
    assert "the configuration ties network.cls.predictions.decoder.weight" in faults(report)["ties"]["line"]


class WithNorm(nn.Module):
    def __init__(self, inner, **settings):
        super().__init__()
        self.inner = inner
        self.norm = nn.BatchNorm1d(16, **settings)

    def forward(self, x):
        return self.norm(self.inner(x).transpose(1, 2)).transpose(1, 2)


class Centred(nn.Linear):
    def forward(self, x):
        x = super().forward(x)
        return x - x.mean(0, keepdim=True) / 4


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            lambda dense: WithNorm(dense, track_running_stats=False),
            "network.bert.encoder.layer.1.output.dense.norm (BatchNorm1d)",
        ),
        (lambda dense: WithNorm(dense), "network.bert.encoder.layer.1.output.dense.norm (BatchNorm1d)"),
        (lambda dense: Centred(32, 16), "network.bert.encoder.layer.1.output.dense (Centred)"),
    ],
    ids=["batch statistics", "running statistics", "batch mean"],
)
def test_a_layer_that_couples_the_batch(check, plant, change, named):
    def couple(network):
        output = network.bert.encoder.layer[1].output
        torch.manual_seed(0)
        output.dense = change(output.dense)

    plant(couple)
    code, report = check("bert")
    assert (
        code == 1 and faults(report)["batch"]["module"] == named and named in faults(report)["batch"]["line"]
    )


def test_padding_that_is_not_masked(check, plant):
    def unmask(network):
        attention = network.bert.encoder.layer[0].attention.self
        forward = attention.forward
        attention.forward = lambda hidden, **keywords: forward(
            hidden, **(keywords | {"attention_mask": None})
        )

    plant(unmask)
    code, report = check("bert")
    assert code == 1 and faults(report)["batch"]["module"].startswith(
        "network.bert.encoder.layer.0.attention.self "
    )


def test_parameters_that_are_not_numbers(check, plant):
    plant(lambda network: network.bert.encoder.layer[0].output.dense.bias.data.fill_(float("nan")))
    code, report = check("bert")
    assert code == 1 and "network.bert.encoder.layer.0.output.dense.bias" in faults(report)["logits"]["line"]
    assert not {"coverage", "label words"} & {finding["check"] for finding in report["findings"]}


@pytest.mark.parametrize("mode", ["prompt", "head"])
def test_a_frozen_adapter(check, plant, mode):
    plant(lambda network: network.requires_grad_(False))
    code, report = check("lora", "--mode", mode)
    assert code == 1 and "the adapter is frozen" in faults(report)["parameters"]["line"]
