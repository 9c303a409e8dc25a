"""Candidates as peft's configurations: peft adapts the modules that were meant, and trains as many numbers."""

from __future__ import annotations

import pytest
from model_table import TABLE

from lmntk.kernels.lora import LoraStart
from lmntk.subspaces.adapter import lora_config, target_modules
from lmntk.subspaces.candidates import Grid, contest_of

TARGETS = ("query+value", "attention", "mlp", "all-linear")
FAMILIES = ("bert", "roberta", "distilbert", "gpt2", "llama", "opt")


@pytest.mark.parametrize("family", FAMILIES)
def test_peft_adapts_what_was_meant(family: str) -> None:
    peft = pytest.importorskip("peft")
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    model = TABLE[family].model(2)
    contest = contest_of(
        model,
        [name for name, _ in model.named_parameters()],
        Grid(TARGETS, (2,), 1, (), LoraStart()),
        trains_head=False,
    )
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    for target, adapted in contest.modules.items():
        fresh = TABLE[family].model(2)
        modules = target_modules([name.removesuffix(".weight") for name in adapted], linear)
        text = lora_config(modules, 2, LoraStart("kaiming", "alpha/r", 16.0))
        # our own text, made a line above: people are to copy it as Python
        wrapped = peft.get_peft_model(fresh.network, eval(text, {"LoraConfig": peft.LoraConfig}))
        trained = {name: each for name, each in wrapped.named_parameters() if each.requires_grad}
        names = {
            f"network.{name.removeprefix('base_model.model.').split('.lora_')[0]}.weight" for name in trained
        }
        assert names == set(adapted), target
        contestant = next(each for each in contest.contestants if each.name == f"{target} r=2")
        assert contestant.parameters == sum(each.numel() for each in trained.values())


def test_ends_that_others_have_too() -> None:
    names = [
        f"encoder.layer.{n}.{part}" for n in (0, 1) for part in ("attention.output.dense", "output.dense")
    ]
    assert target_modules([name for name in names if "attention" in name], names) == [
        "attention.output.dense"
    ]
    expression = target_modules([name for name in names if "attention" not in name], names)
    assert expression == r".*\.layer\.\d+\.output\.dense"


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (LoraStart("kaiming", "alpha/r", 8.0), "LoraConfig(r=4, lora_alpha=8, target_modules=['q'])"),
        (
            LoraStart("kaiming", "alpha/sqrt(r)", 8.0),
            "LoraConfig(r=4, lora_alpha=8, use_rslora=True, target_modules=['q'])",
        ),
        (
            LoraStart("gaussian-peft", "alpha/r", 8.0),
            "LoraConfig(r=4, lora_alpha=8, target_modules=['q'], init_lora_weights=\"gaussian\")",
        ),
    ],
)
def test_configuration(start: LoraStart, expected: str) -> None:
    assert lora_config(["q"], 4, start) == expected
