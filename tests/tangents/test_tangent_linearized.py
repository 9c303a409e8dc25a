"""The linearized model against plain autograd, in float64, and the directions of weighted gradients."""

from __future__ import annotations

import pytest
import torch
from model_oracle import pad_id, random_texts
from model_table import TABLE
from torch import nn

from lmntk.errors import ModelError
from lmntk.models.state import frozen
from lmntk.prompts.batching import collate
from lmntk.tangents.capture import capture
from lmntk.tangents.coverage import check_coverage
from lmntk.tangents.linearized import LinearizedModel
from lmntk.tangents.weighted_sum import weighted_sum

BY_BACKWARD = {
    "bloom",
    "mobilebert",
}  # a function of its own without a forward-mode rule; a weight used past its module


def jacobian(model, batch, parameters):
    """Returns the logits [n, c] and, by parameter, their gradients (n, c, *shape)."""
    with frozen(model, list(parameters.values())):
        logits = model(batch)
        rows = [
            [
                torch.autograd.grad(logit, list(parameters.values()), retain_graph=True, allow_unused=True)
                for logit in row
            ]
            for row in logits
        ]
    found = {}
    for index, (name, parameter) in enumerate(parameters.items()):
        zero = torch.zeros_like(parameter)
        found[name] = torch.stack(
            [torch.stack([zero if g[index] is None else g[index] for g in row]) for row in rows]
        )
    return logits.detach(), found


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", TABLE)
def test_slopes_are_those_of_autograd(name):
    row = TABLE[name]
    model = row.model(2)
    parameters = row.parameters.select(model)
    batch = collate(random_texts(row, [5, 4], 1), pad_id(model))
    torch.manual_seed(0)
    direction = {name: torch.randn_like(p) for name, p in parameters.items()}
    logits, gradients = jacobian(model, batch, parameters)
    expected = sum((gradients[name] * v).flatten(2).sum(2) for name, v in direction.items())
    flags = {n: (m.training) for n, m in model.named_modules()}
    linearized = LinearizedModel(model, direction)
    for training in (False, True):
        with torch.set_grad_enabled(training):
            found, slopes = linearized.taylor(batch)
        tolerance = 2e-6 * float(expected.abs().max())
        torch.testing.assert_close(found, logits, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(slopes.detach(), expected, rtol=0, atol=tolerance)
    assert linearized.backward == (name in BY_BACKWARD)
    assert flags == {n: (m.training) for n, m in model.named_modules()}
    with torch.no_grad():
        torch.testing.assert_close(linearized(batch), logits + expected, rtol=1e-6, atol=tolerance + 1e-6)


@pytest.mark.parametrize("name", ["bert", "gpt2-lora", "bloom"])
def test_the_direction_is_trained(name):
    """The gradient of a slope with respect to v is the model's own gradient: what training of the linearized model needs."""
    row = TABLE[name]
    model = row.model(2)
    parameters = row.parameters.select(model)
    batch = collate(random_texts(row, [5, 4], 1), pad_id(model))
    _, gradients = jacobian(model, batch, parameters)
    linearized = LinearizedModel(model, {name: torch.randn_like(p) for name, p in parameters.items()})
    linearized(batch)[1, 0].backward()
    for key, v in linearized.direction.items():
        expected = gradients[key.replace("/", ".")][1, 0]
        found = torch.zeros_like(expected) if v.grad is None else v.grad
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    "name",
    [
        "bert",
        "albert",
        "gpt2",
        "deberta-shared-keys",
        "mixtral",
        "t5",
        "llama-lora",
        "gpt2-ia3",
        "roberta-top-layer",
    ],
)
@pytest.mark.parametrize("signs", [False, True])
def test_weighted_sums_of_gradients(name, signs):
    row = TABLE[name]
    model = row.model(3)
    parameters = row.parameters.select(model)
    batch = collate(random_texts(row, [5, 4, 5], 1), pad_id(model))
    coverage = check_coverage(model, batch, parameters)
    tangents = capture(model, batch, parameters, coverage.fallback)
    torch.manual_seed(0)
    weights = torch.randn(tangents.logits.shape, dtype=torch.float64)
    found = weighted_sum(tangents, weights, parameters, signs)
    for key, factors in tangents.factors.items():
        gradients = factors.gradients(parameters[key].shape)  # (c, n, *shape)
        phi = gradients.sign() if signs else gradients
        expected = torch.einsum("nc,cnp->p", weights, phi.flatten(2).double()).reshape(parameters[key].shape)
        torch.testing.assert_close(found[key], expected, rtol=1e-9, atol=1e-9)


def test_a_direction_of_another_model_is_refused():
    model = nn.Linear(3, 2)
    with pytest.raises(ModelError, match="no parameter 'head'"):
        LinearizedModel(model, {"head": torch.zeros(2)})
    with pytest.raises(ModelError, match=r"\(3,\), not \(2,\)"):
        LinearizedModel(model, {"bias": torch.zeros(3)})
