"""The verdict on toy networks: kernel-like where theory says so, in a wide network; not where features must move."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from toys import Mlp, clusters, mean_loss, train

from lmntk.diagnosis.before import look_before
from lmntk.diagnosis.diagnosis import diagnose
from lmntk.diagnosis.examples import Examples
from lmntk.diagnosis.stability import stable_rates
from lmntk.diagnosis.subject import FineTuning, KernelSolution, LabelledExamples
from lmntk.solvers.emulated_training import Emulation, Training, emulate

WIDTH, STEPS = 4096, 40


def setting(outputs, width=WIDTH, test=80, hidden=1):
    classes = max(outputs, 2)
    model = Mlp(width, outputs, hidden=hidden)
    parts = {
        "train": clusters(12, classes, 1),
        "dev": clusters(12, classes, 2),
        "test": clusters(test, classes, 3),
    }
    examples, labels = ({side: part[i] for side, part in parts.items()} for i in (0, 1))
    return model, examples, labels, {side: part[2] for side, part in parts.items()}


def weights_of(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def rate_of(before, loss, share):
    rates = stable_rates(before.kernels["train", "sgd"].values, before.logits["train"], loss)
    return share * (rates.full_batch if loss == "squared" else rates.for_every_f)


@pytest.mark.parametrize(
    ("outputs", "loss"), [(1, "squared"), (2, "squared"), (1, "cross-entropy"), (2, "cross-entropy")]
)
def test_a_wide_network_is_kernel_like_and_emulated_within_a_hundredth(outputs, loss):
    model, examples, labels, x = setting(outputs)
    before = look_before(model, examples, dict(model.named_parameters()))
    rate = rate_of(before, loss, 0.3)
    tuned = copy.deepcopy(model)
    curve = train(tuned, x["train"], labels["train"], rate, STEPS, loss, x["dev"])
    real = torch.stack(curve).numpy()
    training = Training("sgd", rate, STEPS, loss, decay="constant")
    emulated = emulate(training, before.kernels, labels["train"], before.logits, range(STEPS + 1))
    assert Emulation.of(range(STEPS + 1), real, emulated).error < 0.01
    assert np.abs(real[-1] - real[0]).max() > 0.3 * (real.max() - real.min())  # it did train
    at_start = weights_of(model)
    found = diagnose(
        model,
        LabelledExamples(examples, labels),
        FineTuning(weights_of(tuned), training=training, trajectory=[(STEPS, weights_of(tuned))]),
        solution=KernelSolution(before.kernels),
    )
    assert found.verdict.verdict == "kernel-like", found.verdict.reason
    assert [test.passed for test in found.verdict.tests] == [True, True, True]
    assert found.numbers["logit_error"] < 0.05
    assert found.numbers["gradient_distance"] < 0.15
    assert found.numbers["emulation_error"] < 0.01 and found.numbers["emulation_move_error"] < 0.05
    assert found.regime.word == "holds" and found.forecast.emulator.side == "within"
    assert found.numbers["fine_tuned"] > found.numbers["zero_shot"] + 0.3
    assert all(torch.equal(value, at_start[name]) for name, value in weights_of(model).items())


@pytest.mark.parametrize("outputs", [1, 2])
def test_the_largest_stable_rate_is_that_of_real_training_within_a_factor_of_two(outputs):
    model, examples, labels, x = setting(outputs)
    before = look_before(model, examples, dict(model.named_parameters()))
    predicted = rate_of(before, "squared", 1.0)

    def is_stable(rate):
        losses = [
            float(mean_loss(f, labels["train"], "squared"))
            for f in train(
                copy.deepcopy(model), x["train"], labels["train"], rate, STEPS, "squared", x["train"]
            )
        ]
        return np.isfinite(losses).all() and max(losses) <= 1.5 * losses[0]

    low, high = predicted / 8, predicted * 8
    assert is_stable(low) and not is_stable(high)
    while high / low > 1.1:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if is_stable(middle) else (low, middle)
    assert predicted / 2 < low < predicted * 2


def test_a_narrow_network_at_a_large_rate_is_not_kernel_like():
    model, examples, labels, x = setting(1, width=6, hidden=3)
    before = look_before(model, examples, dict(model.named_parameters()))
    tuned = copy.deepcopy(model)
    rate = rate_of(before, "squared", 1.5)
    train(tuned, x["train"], labels["train"], rate, 200, "squared")
    found = diagnose(
        model,
        LabelledExamples(examples, labels),
        FineTuning(weights_of(tuned), training=Training("sgd", rate, 200, "squared", decay="constant")),
    )
    assert found.verdict.verdict == "not", found.verdict.reason
    assert found.numbers["rate"] > found.numbers["largest_stable_rate"]
    assert found.numbers["logit_error"] > 0.3
    assert found.numbers["emulation_error"] > 0.2 and found.numbers["emulation_move_error"] > 0.2
    assert found.regime.word in ("rough", "leaves the kernel")


class FreshHead(nn.Module):
    """Features that are all but linear, and a head at zero, whose kernel is that of the features: no XOR."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(2, 16).double(), nn.Linear(16, 2).double()
        with torch.no_grad():
            self.body.weight.mul_(0.05)
            self.body.bias.zero_()
            self.head.weight.zero_()
            self.head.bias.zero_()

    def forward(self, batch):
        return self.head(torch.tanh(self.body(batch["x"])))


def exclusive_or(count, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    x = x.sign() * (0.5 + x.abs())
    return Examples.of_batches([{"x": x}]), (x[:, 0] * x[:, 1] > 0).long().tolist(), x


def test_a_fresh_head_on_features_that_must_move_is_not_kernel_like():
    model = FreshHead()
    parts = {"train": exclusive_or(40, 1), "dev": exclusive_or(40, 2), "test": exclusive_or(100, 3)}
    examples, labels = ({side: part[i] for side, part in parts.items()} for i in (0, 1))
    tuned = copy.deepcopy(model)
    with torch.no_grad():  # symmetry must break before features can move
        tuned.head.weight.add_(
            1e-2 * torch.randn(2, 16, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        )
    train(tuned, parts["train"][2], labels["train"], 0.8, 1500, "cross-entropy")
    found = diagnose(model, LabelledExamples(examples, labels), FineTuning(weights_of(tuned)))
    assert found.verdict.verdict == "not"
    assert found.numbers["fine_tuned"] > 0.95
    by_name = {test.name: test for test in found.verdict.tests}
    assert by_name["solves"].passed is False
    assert f"{100 * found.numbers['kernel']:.1f} %" in by_name["solves"].sentence
    assert by_name["linearization"].value < 0.6  # near the threshold, which a hundred texts do not settle
    assert found.groups["head"] == pytest.approx(1.0)
