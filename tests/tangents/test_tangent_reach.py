"""What autograd does not reach does not count, and what it reaches is captured; a kernel entry is compared too."""

from __future__ import annotations

import pytest
import torch
from coverage_models import BATCH, Toy
from torch import nn

from lmntk import module_kernels
from lmntk.errors import ModelError
from lmntk.kernels.gram import Panel, gram
from lmntk.models.invariants import InvariantError
from lmntk.tangents.coverage import check_coverage
from lmntk.tangents.linearized import LinearizedModel

IDS = {"input_ids": torch.tensor([[2, 5, 5, 1], [3, 4, 1, 1]])}


class FixedTable(nn.Embedding):
    @torch.no_grad()
    def forward(self, x):
        return super().forward(torch.arange(x.shape[1]))[None].expand(len(x), -1, -1)


class FixedLinear(nn.Linear):
    @torch.no_grad()
    def forward(self, x):
        return super().forward(x)


class FixedNorm(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x).detach()


class FixedWeight(nn.Linear):
    """Of the weight only the bias beside it is trained."""

    def forward(self, x):
        return nn.functional.linear(x, self.weight.detach(), self.bias)


class FixedPart(nn.Module):
    """A layer that its parent calls under no_grad, and hands on."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        with torch.no_grad():
            return self.inner(x)


class FixedParameter(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.randn(4))

    @torch.no_grad()
    def forward(self, x):
        return x * self.gain


class TwoUses(nn.Linear):
    """One weight, used twice, once where autograd does not go."""

    def forward(self, x):
        with torch.no_grad():
            fixed = super().forward(x)
        return super().forward(torch.tanh(x)) + fixed


class SharedUse(nn.Module):
    """One layer, called twice, once where autograd does not go."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        with torch.no_grad():
            fixed = self.inner(x)
        return self.inner(torch.tanh(x)) + fixed


class Beside(nn.Module):
    """What a module makes of a text, beside the text itself."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return x + self.inner(x)


FIXED = {
    "table": (lambda: FixedTable(9, 4), ["weight"]),
    "linear": (lambda: FixedLinear(4, 4), ["weight", "bias"]),
    "norm": (lambda: FixedNorm(4), ["weight", "bias"]),
    "weight": (lambda: FixedWeight(4, 4), ["weight"]),
    "part": (FixedPart, []),  # what watches it runs where autograd does not go, and captures nothing
    "parameter": (FixedParameter, []),  # captured by autograd alone, which finds nothing
    "two uses": (lambda: TwoUses(4, 4), []),
    "shared use": (SharedUse, []),
}


def jacobian(model, batch):
    rows = []
    for i in range(len(batch["input_ids"])):
        logits = model({"input_ids": batch["input_ids"][i : i + 1]})[0]
        rows.append(torch.stack([_flat(model, logit) for logit in logits]))
    return torch.stack(rows)  # (n, c, p)


def _flat(model, logit):
    parameters = list(model.parameters())
    found = torch.autograd.grad(logit, parameters, retain_graph=True, allow_unused=True)
    return torch.cat(
        [
            (torch.zeros_like(p) if gradient is None else gradient).flatten()
            for p, gradient in zip(parameters, found, strict=True)
        ]
    )


@pytest.mark.parametrize("name", FIXED)
def test_what_runs_under_no_grad_does_not_count(name):
    make, unreached = FIXED[name]
    model = Toy(Beside(make()))
    computed = module_kernels(model, [BATCH], [IDS], ["sgd"])
    expected = torch.einsum("ncp,mdp->ncmd", jacobian(model, BATCH), jacobian(model, IDS))
    torch.testing.assert_close(
        torch.as_tensor(computed.kernels["sgd"].values), expected, rtol=1e-10, atol=1e-12
    )
    named = [f"middle.inner.{each}" for each in unreached]
    assert list(computed.coverage.unreached) == named
    assert ("autograd does not reach" in computed.coverage.describe()) == bool(named)


@pytest.mark.parametrize("name", FIXED)
def test_the_linearized_model_does_not_move_what_autograd_does_not_reach(name):
    """Forward mode goes on under no_grad; the slopes of predictions are to be those of the kernels all the same."""
    model = Toy(Beside(FIXED[name][0]()))
    generator = torch.Generator().manual_seed(1)
    direction = {
        key: torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        for key, parameter in model.named_parameters()
    }
    _, slopes = LinearizedModel(model, direction).taylor(BATCH)
    v = torch.cat([each.flatten() for each in direction.values()])
    torch.testing.assert_close(slopes, jacobian(model, BATCH) @ v, rtol=1e-10, atol=1e-12)


def entries_of(parts):
    panel = Panel(parts)
    return gram(panel, panel, ["sgd"], grouping=lambda name: name)["sgd"]


def test_a_kernel_entry_agrees():
    model = Toy()
    assert check_coverage(model, BATCH, dict(model.named_parameters())).entry is None
    coverage = check_coverage(model, BATCH, dict(model.named_parameters()), entries=entries_of)
    assert coverage.entry is not None and coverage.entry < 1e-12
    assert "a kernel entry to" in coverage.describe()


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda values: {name: 1.001 * each for name, each in values.items()},
        lambda values: {name: each for name, each in values.items() if name != "out.weight"},
        lambda values: values | {"out.bias": 2 * values["out.bias"]},
        lambda values: values | {"table.weight": values["table.weight"].flip(0)},
    ],
    ids=["scaled", "left out", "twice", "texts exchanged"],
)
def test_a_contraction_that_is_wrong_is_refused(spoil, batched):
    """Every parameter's gradient agrees; what is made of them does not."""
    model = Toy() if batched else Toy(Beside(Mixing()))
    with pytest.raises(InvariantError, match="a kernel entry differs from autograd's") as caught:
        check_coverage(
            model, BATCH, dict(model.named_parameters()), entries=lambda parts: spoil(entries_of(parts))
        )
    assert caught.value.invariant == "kernel entry"


class Mixing(nn.Module):
    def forward(self, x):
        return x - x.mean(0, keepdim=True) / 2


def test_logits_that_depend_on_the_batch_go_one_at_a_time():
    model = Toy(Beside(Mixing()))
    coverage = check_coverage(model, BATCH, dict(model.named_parameters()), entries=entries_of)
    assert not coverage.batched and "a text's logits depend on its padding or its batch" in coverage.reason
    assert coverage.entry is not None and coverage.entry < 1e-12


def test_a_module_that_changes_from_pass_to_pass_is_refused():
    class Counting(nn.Module):
        passes = 0

        def forward(self, x):
            self.passes += 1
            return x * (1 + self.passes / 100)

    model = Toy(Counting())
    with pytest.raises(
        ModelError, match=r"two passes of one text differ by .*: the model is random, or changes"
    ):
        check_coverage(model, BATCH, dict(model.named_parameters()))
