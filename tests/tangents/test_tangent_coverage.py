"""Planted faults: whatever a rule misses or gets wrong is found before a kernel is made of it."""

from __future__ import annotations

import os

import pytest
import torch
from coverage_check import assert_right, jacobian
from coverage_models import BATCH, Around, BroadcastTable, Coupled, Scale, SharedTable, Toy, Twice, WithSpare
from model_oracle import pad_id, random_texts
from model_table import TABLE
from torch import nn

from lmntk.engine.kernel_work import KernelWork
from lmntk.engine.settings import Settings
from lmntk.engine.stream import stream_kernels, whole
from lmntk.errors import ModelError
from lmntk.kernels.gram import Panel, gram
from lmntk.prompts.batching import collate
from lmntk.prompts.encoding import EncodedText
from lmntk.system.memory import peak_of, return_freed
from lmntk.tangents.capture import capture
from lmntk.tangents.coverage import check_coverage


def test_plain_layers():
    assert_right(Toy(), batched=True)


def test_a_bare_parameter_falls_to_plain_autograd():
    coverage = assert_right(Toy(Scale()), batched=True, fallback=["middle.gain"])
    assert "at their modules" in coverage.describe()


def test_a_bare_parameter_of_the_whole_model():
    class Shifted(Toy):
        def __init__(self):
            super().__init__()
            self.shift = nn.Parameter(torch.randn(2, dtype=torch.float64))

        def forward(self, batch):
            return super().forward(batch) * self.shift

    assert_right(Shifted(), batched=True, fallback=["shift"])


def test_parameters_in_a_list_belong_to_the_module_that_uses_them():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ParameterList([nn.Parameter(torch.randn(4, 4)) for _ in range(2)])
            self.named = nn.ParameterDict({"gain": torch.randn(4)})

        def forward(self, x):
            return (x @ self.parts[0]) * torch.tanh(x @ self.parts[1]) * self.named["gain"]

    assert_right(
        Toy(Mixed()), batched=True, fallback=["middle.parts.0", "middle.parts.1", "middle.named.gain"]
    )


def test_a_module_whose_outputs_are_made_of_each_other():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 4))

        def forward(self, x):
            first = x @ self.weight
            return first, torch.tanh(first)

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.pair = Pair()

        def forward(self, x):
            first, second = self.pair(x)
            return first * second

    assert_right(Toy(Both()), batched=True, fallback=["middle.pair.weight"])


def test_tokens_of_all_texts_in_one_row():
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)
            self.gain = nn.Parameter(torch.randn(4))

        def forward(self, x):
            return self.linear(x.reshape(-1, 4)).reshape(x.shape)

    class Inner(Flat):
        def forward(self, rows):
            return self.linear(rows) * self.gain

    class Around2(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Inner()

        def forward(self, x):
            return self.inner(x.reshape(-1, 4)).reshape(x.shape)

    assert_right(Toy(Around2()), batched=True, fallback=["middle.inner.gain"])


def test_a_module_that_mixes_texts_is_not_cut_into_texts():
    class Centred(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.randn(4))

        def forward(self, x):
            return (x - x.mean(0, keepdim=True) / 2) * self.gain

    coverage = assert_right(Toy(Centred()), batched=False, fallback=["middle.gain"])
    assert "when it is alone" in coverage.reason


def test_a_subclass_that_its_rule_does_not_fit_goes_by_autograd():
    class ScaledLinear(nn.Linear):
        def __init__(self):
            super().__init__(4, 4)
            self.gain = nn.Parameter(torch.randn(4))

        def forward(self, x):
            return super().forward(x) * self.gain

    coverage = assert_right(
        Toy(ScaledLinear()), batched=True, fallback=["middle.weight", "middle.bias", "middle.gain"]
    )
    assert coverage.wrong == ("middle.weight", "middle.bias")  # the rule takes the output for W x + b


def test_a_parameter_whose_gradient_vanishes_in_the_text_that_is_checked_is_still_caught():
    """A deviation from the mean has no gradient in a text of equal tokens, and would then be left out of every text."""

    class Deviation(Scale):
        def forward(self, x):
            return x + (x - x.mean(1, keepdim=True)) ** 2 * self.gain

    model = Toy(Deviation())
    equal = {"input_ids": torch.tensor([[5, 5, 5, 5], [3, 3, 3, 3]])}
    assert not jacobian(model, equal)["middle.gain"].any()
    assert jacobian(model, BATCH)["middle.gain"].any()
    coverage = check_coverage(model, equal, dict(model.named_parameters()))
    assert coverage.fallback == ("middle.gain",)
    assert coverage.unused == ("middle.gain",)


def test_relative_positions_without_a_gradient_in_the_texts_that_are_checked():
    """DeBERTa's have none in a text of equal tokens; they are there for all others."""
    row = TABLE["deberta-shared-keys"]
    model = row.model(1)
    trainable = row.parameters.select(model)
    texts = [EncodedText((7, 7), 0, None), EncodedText((7, 7), 1, None)]
    coverage = check_coverage(model, collate(texts, pad_id(model)), trainable)
    assert (coverage.batched, coverage.fallback) == (True, ())
    tangents = capture(model, collate(random_texts(row, [5, 3], 1), pad_id(model)), trainable)
    assert tangents.factors["network.deberta.encoder.rel_embeddings.weight"].values.any()


def test_the_second_text_is_checked_too():
    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.randn(4))

        def forward(self, x):
            return x * self.gain if x.abs().sum() > threshold else x * 1.0

    model = Toy(Gate())
    threshold = 0.0
    sums = [float(model.table(row).detach().abs().sum()) for row in BATCH["input_ids"]]
    order = sorted(range(3), key=lambda i: sums[i])
    threshold = (sums[order[0]] + sums[order[2]]) / 2
    batch = {"input_ids": BATCH["input_ids"][[order[0], order[2]]]}
    assert check_coverage(model, batch, dict(model.named_parameters())).fallback == ("middle.gain",)


def test_a_module_applied_twice():
    assert_right(Toy(Around(Twice(4, 4))), batched=True)


def test_a_norm_and_its_bias_applied_twice():
    assert_right(Toy(Around(nn.LayerNorm(4))), batched=True)


def test_modules_without_influence():
    unused = ["middle.spare.weight", "middle.spare.bias", "middle.ignored.weight", "middle.ignored.bias"]
    coverage = assert_right(Toy(WithSpare()), batched=True, unused=unused)
    assert "4 parameters have no influence" in coverage.describe()


def test_a_layer_that_couples_the_batch():
    coverage = assert_right(Toy(Coupled()), batched=False)
    assert "depend on its padding or its batch" in coverage.reason


def test_a_layer_without_a_batch_axis():
    coverage = assert_right(Toy(SharedTable()), batched=False)
    assert "batch axis" in coverage.reason


def test_a_lookup_broadcast_over_the_batch():
    assert_right(Toy(BroadcastTable()), batched=True)


def test_a_tied_decoder_over_the_whole_vocabulary():
    """A table and a linear map share a weight, and every row of the output counts; the padding row gets none from the lookup."""

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.table = nn.Embedding(6, 4, padding_idx=2)
            nn.init.normal_(self.table.weight)
            self.decoder = nn.Linear(4, 6)
            self.decoder.weight = self.table.weight
            self.double()

        def forward(self, batch):
            return self.decoder(torch.tanh(self.table(batch["input_ids"])).mean(1))[:, :2]

    assert_right(Tied(), batched=True)


@pytest.mark.filterwarnings("ignore:Complex modules")
def test_weights_that_have_no_gradient_in_floats_are_refused():
    model = Toy().to(torch.complex64)
    with pytest.raises(ModelError, match=r"weights of type torch.complex64: .*; convert the model"):
        check_coverage(model, BATCH, dict(model.named_parameters()))


def test_the_check_leaves_gradients_that_are_there_alone():
    model = Toy()
    model.table.weight.grad = torch.ones(6, 4).double()
    check_coverage(model, BATCH, dict(model.named_parameters()))
    assert torch.equal(model.table.weight.grad, torch.ones(6, 4).double())
    assert model.out.weight.grad is None
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(parameter._post_accumulate_grad_hooks for parameter in model.parameters())


def test_the_users_own_hooks_do_not_run():
    model, ran = Toy(), []
    model.out.weight.register_post_accumulate_grad_hook(ran.append)  # such as an optimizer's step
    hooks = dict(model.out.weight._post_accumulate_grad_hooks)
    check_coverage(model, BATCH, dict(model.named_parameters()))
    assert ran == [] and dict(model.out.weight._post_accumulate_grad_hooks) == hooks
    model(BATCH).sum().backward()
    assert len(ran) == 1 and all(
        parameter.grad is not None for parameter in model.parameters()
    )  # nor do those of the check any more


def test_what_is_no_parameter_gets_no_gradient():
    class Stray(Toy):
        def forward(self, batch):
            return super().forward(batch) * self.stray

    model = Stray()
    model.stray = torch.ones(2, dtype=torch.float64, requires_grad=True)
    assert assert_right(model, batched=True).worst < 1e-12
    assert model.stray.grad is None


def test_a_parameter_under_two_names_is_looked_at_under_both():
    model = Toy(Around(nn.Linear(4, 4)))
    model.again = model.middle.inner
    twice = dict(model.named_parameters(remove_duplicate=False))
    assert {"middle.inner.weight", "again.weight"} <= set(twice)
    coverage = check_coverage(model, BATCH, twice)
    assert not coverage.batched or set(coverage.fallback) & {"middle.inner.weight", "again.weight"}


def test_a_parameter_of_no_axes():
    class Gain(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.tensor(2.0))

        def forward(self, x):
            return x * self.gain

    assert_right(Toy(Gain()), batched=True, fallback=["middle.gain"])


@pytest.mark.skipif(
    not os.path.exists("/proc/self/clear_refs"), reason="only Linux starts its count of memory anew"
)
def test_the_check_holds_no_gradient_of_the_whole_network():
    """Of 12 logits and two texts those would be 24 times the weights."""
    model, wide = Toy(), 1500
    model.table, model.out = nn.Embedding(6, wide), nn.Linear(wide, 12)
    model.middle = nn.Sequential(*(nn.Linear(wide, wide) for _ in range(4)))
    return_freed()
    grown, coverage = peak_of(lambda: check_coverage(model, BATCH, dict(model.named_parameters())))
    assert coverage.fallback == ()
    assert grown < 6 * sum(parameter.nbytes for parameter in model.parameters())


def test_fallback_reaches_the_kernel():
    model = Toy(Scale())
    texts = {"a": [EncodedText(tuple(row.tolist()), 0, None) for row in BATCH["input_ids"]]}
    found = stream_kernels(
        KernelWork(model, texts, [("a", "a")], ["sgd"], dict(model.named_parameters()), 0),
        Settings(batch_size=3),
    )
    full = torch.cat([g.flatten(2) for g in jacobian(model, BATCH).values()], 2)
    expected = torch.einsum("cnp,dmp->ncmd", full, full)
    torch.testing.assert_close(whole(found.kernels["a", "a"]["sgd"]), expected, rtol=1e-12, atol=1e-12)


def test_a_frozen_part_has_no_factors():
    row = TABLE["bert"]
    model = row.model(2)
    trainable = {name: p for name, p in row.parameters.select(model).items() if "layer.1" in name}
    tangents = capture(model, collate(random_texts(row, [5, 4], 1), pad_id(model)), trainable)
    assert set(tangents.factors) == set(trainable)
    assert whole(gram(Panel([tangents]), Panel([tangents]), ["sgd"])["sgd"]).shape == (2, 2, 2, 2)
