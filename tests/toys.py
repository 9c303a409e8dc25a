"""Small networks of vectors for the tests of the analysis: wide in NTK parametrisation, or narrow, on batches of their own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lmntk.diagnosis.examples import Examples

INPUTS = 6


class Mlp(nn.Module):
    """Hidden layers of one width; each linear map is W x / sqrt(inputs) with W ~ N(0, 1): the NTK parametrisation."""

    def __init__(self, width: int, outputs: int, seed: int = 0, hidden: int = 1) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        shapes = [(width, INPUTS), *[(width, width)] * (hidden - 1), (outputs, width)]
        self.layers = nn.ModuleList([nn.Linear(i, o, bias=False) for o, i in shapes])
        with torch.no_grad():
            for layer in self.layers:
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator))
        self.double()

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        hidden = batch["x"]
        for index, layer in enumerate(self.layers):
            hidden = layer(hidden if index == 0 else torch.relu(hidden) * 2**0.5) / layer.in_features**0.5
        return hidden


def clusters(count: int, classes: int, seed: int, spread: float = 0.5) -> tuple[Examples, list[int], Tensor]:
    """Returns vectors around one centre a class, in two batches, with their labels and as one tensor."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, INPUTS, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    labels = [i % classes for i in range(count)]
    x = centres[labels] + spread * torch.randn(count, INPUTS, generator=generator, dtype=torch.float64)
    return Examples.of_batches([{"x": x[: count // 2]}, {"x": x[count // 2 :]}]), labels, x


def mean_loss(logits: Tensor, labels: list[int], loss: str) -> Tensor:
    """The losses as torch has them."""
    outputs = logits.shape[1]
    truth = torch.tensor(labels)
    if loss == "squared":
        targets = (
            (2.0 * truth[:, None] - 1).to(logits)
            if outputs == 1
            else nn.functional.one_hot(truth, outputs).to(logits)
        )
        return 0.5 * ((logits - targets) ** 2).sum(1).mean()
    if outputs == 1:
        return nn.functional.binary_cross_entropy_with_logits(logits[:, 0], truth.to(logits))
    return nn.functional.cross_entropy(logits, truth)


def train(
    model: nn.Module,
    x: Tensor,
    labels: list[int],
    rate: float,
    steps: int,
    loss: str,
    watch: Tensor | None = None,
) -> list[Tensor]:
    """Full-batch gradient descent in place; returns the logits of ``watch`` before each step and after the last."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    curve = []
    for _ in range(steps):
        if watch is not None:
            curve.append(model({"x": watch}).detach())
        gradients = torch.autograd.grad(mean_loss(model({"x": x}), labels, loss), parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= rate * gradient
    if watch is not None:
        curve.append(model({"x": watch}).detach())
    return curve
