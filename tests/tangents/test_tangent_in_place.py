"""What a network does to a module's output, or a module to its gradient, changes no kernel: in place, sparse, subclassed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lmntk import module_kernels

CHANGES = {
    "the lookup's output, times a number": lambda net, h: h.mul_(2.0),
    "the lookup's output, plus a constant": lambda net, h: h.add_(torch.arange(4.0)),
    "the lookup's output, part of it": lambda net, h: (h[:, 1:].mul_(3.0), h)[1],
    "a layer's output, by an activation": lambda net, h: nn.functional.relu(net.layer(h), inplace=True),
    "a layer's output, by a residual": lambda net, h: net.layer(h).add_(h),
    "a layer's output, by a number": lambda net, h: net.layer(h).div_(7.0),
    "a layer's output, through a view": lambda net, h: (
        net.layer(h).view(*h.shape[:2], 2, 2).mul_(0.5).flatten(2)
    ),
    "a module's without a rule": lambda net, h: net.scale(h).mul_(0.5),
}


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.randn(4))

    def forward(self, x):
        return x * self.gain


class Changing(nn.Module):
    def __init__(self, change, **lookup):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.out = nn.Embedding(9, 4, **lookup), nn.Linear(4, 2)
        self.layer, self.scale = nn.Linear(4, 4), Scale()
        self.change = change
        self.double()

    def forward(self, batch):
        hidden = self.table(batch["x"])
        changed = self.change(self, hidden)
        return self.out(torch.tanh(hidden if changed is None else changed).mean(1))


class Grouped(nn.Linear):
    """A linear layer by its class, and by its weight's shape, which multiplies blocks of its input."""

    def forward(self, x):
        blocks = x.unflatten(-1, (2, 2))
        return torch.einsum("ntgi,goi->ntgo", blocks, self.weight.view(2, 2, 2)).flatten(2)


def batch():
    return {"x": torch.randint(0, 9, (3, 5), generator=torch.Generator().manual_seed(1))}


def expected_kernel(network, batch):
    parameters = list(network.parameters())
    rows = []
    for index in range(3):
        logits = network({"x": batch["x"][index : index + 1]})[0]
        for logit in logits:
            parts = torch.autograd.grad(logit, parameters, retain_graph=True, allow_unused=True)
            dense = [
                torch.zeros_like(p) if g is None else g.to_dense()
                for g, p in zip(parts, parameters, strict=True)
            ]
            rows.append(torch.cat([part.flatten() for part in dense]))
    jacobian = torch.stack(rows).reshape(3, 2, -1)
    return torch.einsum("ncp,mdp->ncmd", jacobian, jacobian)


def check(network):
    texts = batch()
    computed = module_kernels(network, [texts], [texts], ("sgd",))
    torch.testing.assert_close(
        torch.from_numpy(computed.kernels["sgd"].values),
        expected_kernel(network, texts),
        rtol=1e-10,
        atol=1e-12,
    )
    return computed.coverage


@pytest.mark.parametrize("what", CHANGES)
def test_changes_in_place(what):
    coverage = check(Changing(CHANGES[what]))
    assert coverage.batched
    assert {name for name in coverage.fallback if name not in coverage.unused} <= {"scale.gain"}
    assert not coverage.wrong


def test_a_sparse_lookup():
    network = Changing(lambda net, h: None, sparse=True)
    coverage = check(network)
    assert coverage.batched
    assert network.table.sparse  # as it was


def test_a_subclass_that_is_no_linear_layer_goes_by_autograd():
    network = Changing(lambda net, h: net.layer(h))
    network.layer = Grouped(2, 4, bias=False, dtype=torch.float64)
    coverage = check(network)
    assert coverage.batched
    assert coverage.wrong == ("layer.weight",)
