"""Any module from a batch to logits has its kernels taken: the user's own network, on the user's own batches."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lmntk import UserError, module_kernels, register_rule
from lmntk.engine.kernel_work import KernelWork
from lmntk.engine.settings import Settings
from lmntk.engine.stream import stream_kernels, whole
from lmntk.errors import ModelError
from lmntk.prompts.encoding import EncodedText
from lmntk.tangents.factors import sum_over_uses


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.randn(6))

    def forward(self, x):
        return x * self.gain


class Network(nn.Module):
    """No tokens, no Hugging Face: a regression on vectors, with a layer that nobody knows."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.scale, self.last = nn.Linear(5, 6), Scale(), nn.Linear(6, 2)
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.double()

    def forward(self, batch):
        return self.last(
            torch.tanh(self.frozen(self.scale(torch.tanh(self.first(batch["x"]))))) * batch["weight"][:, None]
        )


def batches(*sizes):
    return [
        {"x": torch.randn(size, 5, dtype=torch.float64), "weight": torch.rand(size, dtype=torch.float64)}
        for size in sizes
    ]


def jacobian(network, parts):
    rows = []
    for batch in parts:
        for i in range(len(batch["x"])):
            logits = network({name: tensor[i : i + 1] for name, tensor in batch.items()})[0]
            trained = [p for p in network.parameters() if p.requires_grad]
            rows.append(
                torch.stack(
                    [
                        torch.cat([g.flatten() for g in torch.autograd.grad(f, trained, retain_graph=True)])
                        for f in logits
                    ]
                )
            )
    return torch.stack(rows)  # [n, c, p]


def check(network, fallback, batched=True):
    train, evaluate = batches(3, 2), batches(4)
    found = module_kernels(network, train, evaluate)
    rows, columns = jacobian(network, train), jacobian(network, evaluate)
    expected = {
        "sgd": (rows, columns),
        "signgd": (rows.sign(), columns.sign()),
        "asigngd": (rows.sign(), columns),
    }
    for formula, (left, right) in expected.items():
        kernel = torch.einsum("ncp,mdp->ncmd", left, right)
        torch.testing.assert_close(
            torch.as_tensor(found.kernels[formula].values), kernel, rtol=1e-10, atol=1e-10
        )
    flipped = torch.einsum("ncp,mdp->ncmd", rows, columns.sign())
    torch.testing.assert_close(
        torch.as_tensor(found.kernels["asigngd"].flipped), flipped, rtol=1e-10, atol=1e-10
    )
    assert found.logits["train"].shape == (5, 2)
    assert (found.coverage.fallback, found.coverage.batched) == (fallback, batched)


def test_a_module_of_the_users_own():
    check(Network(), ("scale.gain",))


def test_with_a_rule_of_the_users_own():
    @register_rule(Scale)
    def scale(use):
        yield use.module.gain, sum_over_uses(use.output_gradients * use.inputs)

    check(Network(), ())


def test_the_first_batch_may_be_of_one():
    network = Network()
    train, evaluate = batches(1, 4), batches(2)
    found = module_kernels(network, train, evaluate, ["sgd"])
    kernel = torch.einsum("ncp,mdp->ncmd", jacobian(network, train), jacobian(network, evaluate))
    torch.testing.assert_close(torch.as_tensor(found.kernels["sgd"].values), kernel, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("formulas", [["sgd"], ["signgd"]])
def test_gradients_that_are_not_finite_are_an_error(formulas):
    """The square root of zero: a sound logit, and an infinite slope."""

    class Root(Network):
        def forward(self, batch):
            return torch.sqrt(super().forward(batch).abs() * (batch["x"][:, :1] != 0))

    train, evaluate = batches(3), batches(2)
    assert module_kernels(Root(), train, evaluate, formulas)
    train[0]["x"][1, 0] = 0.0  # not one that the check looks at
    with pytest.raises(ModelError, match=r"gradients are not finite, in first\.weight"):
        module_kernels(Root(), train, evaluate, formulas)
    evaluate[0]["x"][:, 0] = 0.0
    with pytest.raises(ModelError, match=r"gradients are not finite, in first\.weight"):
        module_kernels(Root(), evaluate, evaluate, formulas)


def test_a_parameter_that_only_some_texts_use_is_not_passed_over():
    """The two texts that the check looks at leave it alone; a third one uses it, and no rule covers it."""

    class Sometimes(Network):
        def __init__(self):
            super().__init__()
            self.extra = nn.Parameter(torch.ones(2, dtype=torch.float64))

        def forward(self, batch):
            used = (batch["x"][:, :1] > 100).to(batch["x"].dtype)
            return super().forward(batch) + used * self.extra**2

    network = Sometimes()
    train, evaluate = batches(3), batches(3)
    train[0]["x"][1, 0] = evaluate[0]["x"][1, 0] = 101.0
    found = module_kernels(network, train, evaluate, ["sgd"])
    kernel = torch.einsum("ncp,mdp->ncmd", jacobian(network, train), jacobian(network, evaluate))
    torch.testing.assert_close(torch.as_tensor(found.kernels["sgd"].values), kernel, rtol=1e-10, atol=1e-10)


def test_examples_that_must_go_alone():
    class Lonely(Network):
        def forward(self, batch):
            if len(batch["x"]) > 1:
                raise RuntimeError("one at a time, please")
            return super().forward(batch)

    check(Lonely(), ("scale.gain",), batched=False)


def test_groups_and_chosen_parameters():
    network = Network()
    train, evaluate = batches(3), batches(2)
    settings = Settings(grouping=lambda name: name.split(".")[0])
    whole = module_kernels(network, train, evaluate, ["sgd"], settings=settings).kernels["sgd"]
    assert set(whole.groups) == {"first", "scale", "last"}
    part = module_kernels(
        network,
        train,
        evaluate,
        ["sgd"],
        trainable={n: p for n, p in network.named_parameters() if n.startswith("first")},
    )
    torch.testing.assert_close(
        torch.as_tensor(part.kernels["sgd"].values), torch.as_tensor(whole.groups["first"])
    )


def test_nothing_to_do():
    with pytest.raises(UserError, match="nothing in Network requires a gradient"):
        module_kernels(Network().requires_grad_(False), batches(2), batches(2))
    with pytest.raises(UserError, match="no examples"):
        module_kernels(Network(), [], batches(2))


def test_an_adapter_on_weights_that_are_whole_numbers():
    """Quantised weights have no gradient, but let one through to the adapter below them."""

    class Quantised(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("weight", torch.randint(-127, 128, (6, 5), dtype=torch.int8))
            self.down, self.up = nn.Linear(5, 2, bias=False), nn.Linear(2, 6, bias=False)

        def forward(self, x):
            return x @ (self.weight.to(x.dtype).T / 127) + self.up(self.down(x))

    network = Network()
    network.first = Quantised().double()
    network.scale.requires_grad_(False)
    network.last.requires_grad_(False)
    check(network, ())


def test_batches_that_a_module_cannot_be_cut_for_go_text_by_text():
    """A table [t, i] beside the hidden states looks like a batch where there are as many texts as tokens."""

    class Add(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.ones(4, dtype=torch.float64))

        def forward(self, hidden, table):
            return (hidden + table) * self.gain

    class Positions(nn.Module):
        outputs = 1

        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.words = nn.Embedding(9, 4)
            self.register_buffer("table", torch.randn(8, 4))
            self.add, self.last = Add(), nn.Linear(4, 1)
            self.double()

        def forward(self, batch):
            ids = batch["input_ids"]
            return self.last(torch.tanh(self.add(self.words(ids), self.table[: ids.shape[1]])).mean(1))

    model = Positions()
    texts = {"a": [EncodedText((1 + i, 2, 3, 7 - i), 0, None) for i in range(4)]}
    found = stream_kernels(
        KernelWork(model, texts, [("a", "a")], ["sgd"], dict(model.named_parameters()), 0),
        Settings(batch_size=4),
    )
    rows = []
    for text in texts["a"]:
        gradients = torch.autograd.grad(
            model({"input_ids": torch.tensor([text.ids])})[0, 0], list(model.parameters())
        )
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    jacobian = torch.stack(rows)
    torch.testing.assert_close(
        whole(found.kernels["a", "a"]["sgd"])[:, 0, :, 0], jacobian @ jacobian.T, rtol=1e-10, atol=1e-12
    )
    assert found.coverage.fallback == ("add.gain",)
