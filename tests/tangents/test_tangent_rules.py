"""Rules that are registered, and those that are wrong: found, passed over, in half precision too."""

from __future__ import annotations

import pytest
import torch
from coverage_check import assert_right
from coverage_models import BATCH, Scale, Toy, Twice
from model_oracle import pad_id, random_texts
from model_table import FAMILIES, TABLE
from torch import nn

from lmntk.prompts.batching import collate
from lmntk.tangents.coverage import check_coverage
from lmntk.tangents.factors import sum_over_uses
from lmntk.tangents.rules import register_rule


def test_a_rule_that_is_registered_is_used_and_runs_in_batches():
    @register_rule(Scale)
    def scale(use):
        yield use.module.gain, sum_over_uses(use.output_gradients * use.inputs)

    assert_right(Toy(Scale()), batched=True)


@pytest.mark.parametrize(
    "fault", [lambda use: 1.001 * use.inputs, lambda use: -use.inputs, lambda use: use.inputs.flip(1)]
)
def test_a_wrong_rule_is_found_and_passed_over(fault):
    @register_rule(Scale)
    def scale(use):
        yield use.module.gain, sum_over_uses(use.output_gradients * fault(use))

    coverage = assert_right(Toy(Scale()), batched=True, fallback=["middle.gain"])
    assert coverage.wrong == ("middle.gain",)


HALF = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize(
    "fault", [lambda use: 2 * use.inputs, lambda use: -use.inputs, lambda use: use.inputs.flip(1)]
)
def test_a_wrong_rule_is_found_in_half_precision_too(fault, dtype):
    @register_rule(Scale)
    def scale(use):
        yield use.module.gain, sum_over_uses(use.output_gradients * fault(use))

    model = Toy(Scale()).to(dtype)
    coverage = check_coverage(model, BATCH, dict(model.named_parameters()))
    assert (coverage.batched, coverage.fallback, coverage.wrong) == (True, ("middle.gain",), ("middle.gain",))


@pytest.mark.parametrize("dtype", HALF)
def test_what_is_too_faint_to_compare_is_said(dtype):
    """A wrong rule passes where its gradients lie below the noise; that it was not looked at is no secret."""

    @register_rule(Scale)
    def scale(use):
        yield use.module.gain, sum_over_uses(0 * use.output_gradients * use.inputs)

    model = Toy(Scale()).to(dtype)
    with torch.no_grad():
        for parameter in model.out.parameters():
            parameter *= torch.finfo(dtype).eps  # the gain's gradients are so much smaller than the output's
    coverage = check_coverage(model, BATCH, dict(model.named_parameters()))
    assert set(coverage.faint) == {"middle.gain", "table.weight"} and coverage.wrong == ()
    assert "2 parameters' are too near to rounding noise to compare" in coverage.describe()
    coverage = check_coverage(model.double(), BATCH, dict(model.named_parameters()))
    assert coverage.faint == () and coverage.wrong == ("middle.gain",) and "noise" not in coverage.describe()


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_rule_passes_the_check_in_half_precision(name, dtype):
    row = TABLE[name]
    model = row.model(2, dtype=dtype)
    trainable = row.parameters.select(model)
    coverage = check_coverage(model, collate(random_texts(row, [6, 3, 8], 1), pad_id(model)), trainable)
    assert coverage.batched is row.batched
    assert set(coverage.fallback) == {name for name in trainable if row.goes_by_autograd(name)}


def test_a_subclass_takes_its_nearest_rule():
    @register_rule(Twice)
    def nothing(use):
        yield from ()

    model = Toy(Twice(4, 4))
    coverage = check_coverage(model, BATCH, dict(model.named_parameters()))
    assert coverage.fallback == ("middle.weight", "middle.bias")


class OneEach(nn.Module):
    """A gain for each logit, which the other logit does not depend on."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = Scale(), Scale()
        self.double()

    def forward(self, batch):
        x = torch.nn.functional.one_hot(batch["input_ids"] % 4, 4).double().sum(1)
        return torch.stack([self.first(x).sum(-1), self.second(x).sum(-1)], 1)


@pytest.mark.parametrize("right", [True, False])
def test_a_logit_that_does_not_depend_on_a_parameter_has_no_gradient_there(right):
    @register_rule(Scale)
    def scale(use):
        terms = use.output_gradients * use.inputs
        yield use.module.gain, sum_over_uses(terms if right else terms + terms.flip(0) * 0.01)

    coverage = assert_right(OneEach(), batched=True, fallback=() if right else ("first.gain", "second.gain"))
    assert coverage.wrong == (() if right else ("first.gain", "second.gain"))
