"""Small networks whose layers are what the start-up check is there for."""

from __future__ import annotations

import torch
from torch import nn

BATCH = {"input_ids": torch.tensor([[1, 2, 3, 1], [4, 1, 0, 2], [5, 5, 1, 3]])}


class Toy(nn.Module):
    """Embedding, a layer, mean over tokens, two logits."""

    def __init__(self, middle=None):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(6, 4)
        self.middle = middle or nn.Linear(4, 4)
        self.out = nn.Linear(4, 2)
        self.double()

    def forward(self, batch):
        return self.out(torch.tanh(self.middle(self.table(batch["input_ids"]))).mean(1))


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.randn(4))

    def forward(self, x):
        return x * self.gain


class Twice(nn.Linear):
    """A module applied twice in one pass."""


class Around(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(torch.tanh(self.inner(x)))


class WithSpare(nn.Linear):
    """One module that is never applied, and one whose output is thrown away."""

    def __init__(self):
        super().__init__(4, 4)
        self.spare = nn.Linear(4, 4)
        self.ignored = nn.Linear(4, 4)

    def forward(self, x):
        self.ignored(x)
        return super().forward(x)


class Coupled(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        return self.linear(x - x.mean(0, keepdim=True) / 2)


class SharedTable(nn.Module):
    """A layer on positions that knows no batch, as T5's or DeBERTa's relative positions."""

    def __init__(self):
        super().__init__()
        self.positions = nn.Embedding(4, 4)
        self.project = nn.Linear(4, 4)

    def forward(self, x):
        return x + self.project(self.positions(torch.arange(4)))


class BroadcastTable(nn.Module):
    """A lookup at batch 1, as BERT's positions."""

    def __init__(self):
        super().__init__()
        self.positions = nn.Embedding(4, 4)

    def forward(self, x):
        return x + self.positions(torch.arange(4)[None])
