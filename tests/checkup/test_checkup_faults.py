"""Planted faults of any module: each is found and named, and a sound module has none."""

from __future__ import annotations

import pytest
import torch
from model_oracle import pad_id, random_texts
from model_table import FAMILIES, TABLE
from torch import nn

from lmntk.checkup.examine import examine
from lmntk.checkup.findings import Finding, is_well, some
from lmntk.checkup.gradients import check_error
from lmntk.prompts.batching import collate
from lmntk.tangents.coverage import Coverage, check_coverage
from lmntk.tangents.factors import OuterFactors, sum_over_uses
from lmntk.tangents.rules import RULES, RULES_BY_NAME, register_rule

PAD = 0
TEXTS = [[1, 2, 3, 1, 4], [4, 1, 5], [5, 5, 1, 3], [2, 3]]


def padded(texts):
    length = max(map(len, texts))
    ids = torch.tensor([text + [PAD] * (length - len(text)) for text in texts])
    return {
        "input_ids": ids,
        "attention_mask": torch.tensor([[1] * len(text) + [0] * (length - len(text)) for text in texts]),
    }


class Toy(nn.Module):
    """Embedding, a module in the middle, the masked mean over tokens, two logits."""

    def __init__(self, middle=None, masked=True, dtype=torch.float64):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(8, 8)
        self.middle = middle or nn.Linear(8, 8)
        self.out = nn.Linear(8, 2)
        self.masked = masked
        self.to(dtype)

    def forward(self, batch):
        hidden = torch.tanh(self.middle(self.table(batch["input_ids"])))
        mask = (
            batch["attention_mask"][:, :, None].to(hidden.dtype) if self.masked else torch.ones_like(hidden)
        )
        return self.out((hidden * mask).sum(1) / mask.sum(1))


class Around(nn.Module):
    """A linear layer, and what a function makes of its output."""

    def __init__(self, change):
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.change = change

    def forward(self, x):
        return self.change(self.linear(x))


class Normed(nn.Module):
    """BatchNorm over texts and tokens, or over texts alone."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        return self.norm(x.transpose(1, 2)).transpose(1, 2)


class Pooled(Toy):
    """BatchNorm on one row a text."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(2, track_running_stats=False).double()

    def forward(self, batch):
        return self.norm(super().forward(batch))


def findings_of(model, texts=TEXTS, trainable=None):
    return examine(
        model, padded(texts), [padded([text]) for text in texts], trainable or dict(model.named_parameters())
    )


def faults(found):
    return {finding.check: finding for finding in found if finding.level == "fault"}


@pytest.fixture
def rules():
    before, named = dict(RULES), dict(RULES_BY_NAME)
    yield RULES
    RULES.clear(), RULES_BY_NAME.clear()
    RULES.update(before), RULES_BY_NAME.update(named)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sound_module_has_no_fault(dtype):
    found = findings_of(Toy(dtype=dtype))
    assert is_well(found), [finding.line for finding in found]
    assert [finding.check for finding in found] == ["batch", "coverage", "error", "gradients", "noise"]


@pytest.mark.parametrize("name", FAMILIES)
def test_sound_families_have_no_fault_but_missing_rules(name):
    row = TABLE[name]
    model = row.model(2)
    texts = random_texts(row, [7, 5, 6, 3], 1)
    trainable = row.parameters.select(model)
    found = examine(
        model, collate(texts, pad_id(model)), [collate([text], pad_id(model)) for text in texts], trainable
    )
    unruled = {name for finding in found if finding.check == "rules" for name in finding.details["names"]}
    assert unruled == {name for name in trainable if row.goes_by_autograd(name)}
    assert [
        line for check, finding in faults(found).items() if check != "rules" for line in [finding.line]
    ] == []
    [noise] = [finding for finding in found if finding.check == "noise"]
    assert noise.details["coordinates"] == sum(
        int(mask.sum()) for mask in row.noise_masks(trainable).values()
    )


def test_a_rule_removed(rules):
    del rules[nn.Linear]
    fault = faults(findings_of(Toy()))["rules"]
    assert "no rule covers" in fault.line and "middle.weight (Linear)" in fault.line
    assert fault.details["names"] == ["middle.weight", "middle.bias", "out.weight", "out.bias"]
    assert fault.details["modules"] == ["Linear"]
    assert fault.details["times_as_long"] >= 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("factor", [1.01, -1.0, 0.0])
def test_a_wrong_rule(rules, dtype, factor):
    @register_rule(nn.Linear)
    def linear(use):
        yield use.module.weight, OuterFactors(factor * use.inputs, use.output_gradients, False)
        yield use.module.bias, sum_over_uses(use.output_gradients)

    found = faults(findings_of(Toy(dtype=dtype)))
    assert set(found) == {"rules"}
    assert "the rule is wrong for" in found["rules"].line
    assert found["rules"].details["names"] == ["middle.weight", "out.weight"]


def test_a_rule_that_raises(rules):
    @register_rule(nn.Linear)
    def linear(use):
        raise IndexError("no such axis")
        yield

    assert "the rule is wrong for" in faults(findings_of(Toy()))["rules"].line


def test_a_rule_that_is_a_thousandth_off_in_float64(rules):
    """Found by the parameter-wise check, and by the whole gradients even where that one is not asked."""

    @register_rule(nn.Linear)
    def linear(use):
        yield use.module.weight, OuterFactors(1.001 * use.inputs, use.output_gradients, False)
        yield use.module.bias, sum_over_uses(use.output_gradients)

    model = Toy()
    trainable = dict(model.named_parameters())
    assert check_coverage(model, padded(TEXTS[:2]), trainable).wrong == ("middle.weight", "out.weight")
    blind = Coverage(True, (), (), 0.0)
    found = check_error(model, padded(TEXTS), [padded([text]) for text in TEXTS], trainable, blind)
    assert found.level == "fault" and set(found.details["by_parameter"]) == {"middle.weight", "out.weight"}
    assert all(error == pytest.approx(1e-3, rel=1e-6) for error in found.details["by_parameter"].values())
    assert all(1e-5 < error < 1e-3 for error in found.details["relative_errors"])


def test_a_rule_that_is_wrong_for_a_small_parameter_only(rules):
    @register_rule(nn.Linear)
    def linear(use):
        yield use.module.weight, OuterFactors(use.inputs, use.output_gradients, False)
        yield (
            use.module.bias,
            sum_over_uses(use.output_gradients * (1.001 if use.module.out_features == 8 else 1.0)),
        )

    model = Toy()
    with torch.no_grad():
        model.out.weight.mul_(1e-3)  # so that little of the gradient is the middle's
    blind = Coverage(True, (), (), 0.0)
    trainable = dict(model.named_parameters())
    found = check_error(model, padded(TEXTS), [padded([text]) for text in TEXTS], trainable, blind)
    assert found.level == "fault" and list(found.details["by_parameter"]) == ["middle.bias"]
    assert "middle.bias" in found.line and max(found.details["relative_errors"]) < 1e-5


def test_a_rule_that_is_wrong_for_one_text_only(rules):
    """The parameter-wise check looks at the shortest and the longest text alone."""

    @register_rule(nn.Linear)
    def linear(use):
        off = torch.ones(use.inputs.shape[0], 1, 1, dtype=use.inputs.dtype)
        if len(off) == 4:
            off[2] = 1.1
        yield use.module.weight, OuterFactors(off * use.inputs, use.output_gradients, False)
        yield use.module.bias, sum_over_uses(use.output_gradients)

    found = faults(findings_of(Toy()))
    assert set(found) == {"gradients"}
    errors = found["gradients"].details["relative_errors"]
    assert errors[2] > 1e-2 and max(errors[:2] + errors[3:]) < 1e-12
    assert "middle.weight" in found["gradients"].line or "out.weight" in found["gradients"].line


def test_a_gradient_that_is_not_a_number(rules):
    @register_rule(nn.Linear)
    def linear(use):
        yield use.module.weight, OuterFactors(use.inputs * float("nan"), use.output_gradients, False)
        yield use.module.bias, sum_over_uses(use.output_gradients)

    model = Toy()
    blind = Coverage(True, (), (), 0.0)
    found = check_error(
        model, padded(TEXTS), [padded([text]) for text in TEXTS], dict(model.named_parameters()), blind
    )
    assert found.level == "fault" and found.as_dict()["relative_errors"] == [None] * 4


def test_a_doubled_weight():
    model = Toy(nn.Linear(8, 8, bias=False))
    with torch.no_grad():
        model.middle.weight.copy_(model.table.weight)
    fault = faults(findings_of(model))["ties"]
    assert fault.details["doubled"] == [["table.weight", "middle.weight"]]
    assert "table.weight and middle.weight hold the same values" in fault.line
    model.middle.weight = model.table.weight
    found = findings_of(model)
    assert is_well(found)
    assert [finding.details["tied"] for finding in found if finding.check == "ties"] == [
        [["table.weight", "middle.weight"]]
    ]


def test_a_tied_parameter_with_one_use_that_has_no_rule(rules):
    model = Toy(nn.Linear(8, 8, bias=False))
    model.middle.weight = model.table.weight
    del rules[nn.Linear]
    fault = faults(findings_of(model))["rules"]
    assert "no rule covers table.weight (Linear)" in fault.line and fault.details["modules"] == ["Linear"]


def test_constant_and_frozen_copies_are_no_doubles():
    model = Toy(nn.Linear(8, 8, bias=False))
    with torch.no_grad():
        model.middle.weight.fill_(1.0), model.table.weight.fill_(1.0)
    assert "ties" not in faults(findings_of(model))
    with torch.no_grad():
        model.middle.weight.copy_(nn.init.normal_(model.table.weight))
    trained = {name: parameter for name, parameter in model.named_parameters() if name != "table.weight"}
    assert "ties" not in faults(findings_of(model, trainable=trained))


@pytest.mark.parametrize("index", [0, 1, 3])
def test_a_module_that_subtracts_the_batch_mean(index):
    layers = [nn.Identity() for _ in range(5)]
    layers[index] = Around(lambda x: x - x.mean(0, keepdim=True) / 10)
    fault = faults(findings_of(Toy(nn.Sequential(*layers))))["batch"]
    assert fault.details["module"] == f"middle.{index} (Around)" and f"middle.{index} (Around)" in fault.line


def test_a_whole_model_that_mixes_texts():
    class Mixed(Toy):
        def forward(self, batch):
            logits = super().forward(batch)
            return logits - logits.mean(0) / 2

    assert faults(findings_of(Mixed()))["batch"].details["module"] == "Mixed itself"


def test_batch_norm_without_running_statistics():
    fault = faults(findings_of(Toy(Normed(nn.BatchNorm1d(8, track_running_stats=False)))))["batch"]
    assert fault.details["module"] == "middle.norm (BatchNorm1d)"


def test_batch_norm_that_refuses_a_text_alone():
    found = findings_of(Pooled())
    assert [finding.check for finding in found] == ["batch"]
    assert "norm (BatchNorm1d) cannot compute a text alone" in found[0].line and found[0].level == "fault"


def test_batch_norm_with_running_statistics_mixes_texts_in_training():
    found = faults(findings_of(Toy(Normed(nn.BatchNorm1d(8)))))
    assert (
        found["batch"].details["module"] == "middle.norm (BatchNorm1d)"
        and "in training" in found["batch"].line
    )
    assert "middle.norm.weight (BatchNorm1d)" in found["rules"].line


@pytest.mark.parametrize("texts", [TEXTS, TEXTS[::-1]])
def test_padding_that_is_not_masked(texts):
    fault = faults(findings_of(Toy(masked=False), texts))["batch"]
    assert "padding" in fault.line and fault.details["module"] == "Toy itself"


def test_padding_that_an_attention_does_not_mask():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.key = nn.Linear(8, 8)

        def forward(self, x):
            return (self.key(x) @ x.transpose(1, 2)).softmax(-1) @ x

    model = Toy(nn.Sequential(nn.Linear(8, 8), Attention(), nn.Linear(8, 8)))
    assert faults(findings_of(model))["batch"].details["module"] == "middle.1 (Attention)"


def test_logits_that_are_not_numbers():
    model = Toy(nn.Sequential(nn.Linear(8, 8), Around(lambda x: (x - 1e6).sqrt())))
    found = findings_of(model)
    assert [finding.check for finding in found] == ["logits"]
    assert found[0].level == "fault" and "from middle.1 (Around) on" in found[0].line
    model = Toy()
    with torch.no_grad():
        model.middle.bias[3] = float("inf")  # whose tanh is finite
    assert "middle.bias" in faults(findings_of(model))["logits"].line


def test_a_single_text_is_said_to_show_nothing_of_batches():
    found = findings_of(Toy(), TEXTS[:1])
    assert is_well(found) and (found[0].check, found[0].level) == ("batch", "note")


@pytest.mark.parametrize(
    "middle", [None, Normed(nn.BatchNorm1d(8)), Around(lambda x: x - x.mean(0)), Around(lambda x: x.log())]
)
def test_the_model_is_left_as_it_was(middle):
    model = Toy(middle).train()
    model.out.eval()
    model.table.weight.requires_grad_(False)
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_forward_hooks_with_kwargs")
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    findings_of(model)
    assert all(not getattr(module, name) for module in model.modules() for name in hooks)
    assert all("forward" not in vars(module) for module in model.modules())
    assert [name for name, module in model.named_modules() if not module.training] == ["out"]
    assert [name for name, parameter in model.named_parameters() if not parameter.requires_grad] == [
        "table.weight"
    ]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_names_that_differ_in_a_layer_number_are_one():
    names = [f"h.{layer}.bias" for layer in range(4)] + [
        "out.bias",
        "out.weight",
        "in.0.weight",
        "in.1.weight",
    ]
    assert some(names, 2) == "h.*.bias x 4, out.bias and 3 more"
    assert some(["h.0.bias"]) == "h.0.bias"


def test_a_finding_as_plain_data():
    finding = Finding("error", "fault", "off", {"errors": [float("nan"), 1.0], "inner": {"x": float("inf")}})
    assert finding.as_dict() == {
        "check": "error",
        "level": "fault",
        "line": "off",
        "errors": [None, 1.0],
        "inner": {"x": None},
    }
    assert finding.as_text() == "FAULT  error: off"
