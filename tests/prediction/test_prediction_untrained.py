"""A predictor without a direction: its decisions are f0 / s + intercept, by a forward pass alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_prediction_batches import MIXED, texts_of

from lmntk.errors import UserError
from lmntk.prediction.files import DIRECTION, _directions, load_tensors, save_predictor
from lmntk.prediction.predictor import DecisionRule, Predictor
from lmntk.tangents.linearized import LinearizedModel


class Bags(torch.nn.Module):
    """Logits of the sum of a text's token vectors."""

    outputs = 3

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.drop = torch.nn.Embedding(9, self.outputs), torch.nn.Dropout(0.5)
        self.double()

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.drop((self.table(batch["input_ids"]) * batch["attention_mask"][..., None]).sum(1))


@pytest.mark.parametrize("directions", [[], [{}]], ids=["none", "one that is empty"])
@pytest.mark.parametrize("intercept", [0.25, (0.5, -1.0, 2.0)], ids=["a number", "one a logit"])
def test_decisions_are_those_of_the_model_itself(
    directions: list[Any], intercept: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LinearizedModel, "__init__", lambda *a: pytest.fail("a tangent pass"))
    model: Any = Bags()
    texts = texts_of(MIXED)
    expected = np.stack([model.table.weight[list(text.ids)].sum(0).detach().numpy() for text in texts])
    decisions, before = Predictor(model, directions, 0, DecisionRule(intercept, 2.0)).evaluate(texts)
    np.testing.assert_allclose(before, expected, rtol=1e-12)
    np.testing.assert_allclose(decisions, expected / 2.0 + np.asarray(intercept), rtol=1e-12)
    assert model.training


def test_an_intercept_a_logit_is_added_to_slopes_too() -> None:
    model: Any = Bags()
    direction = {name: torch.ones_like(parameter) for name, parameter in model.named_parameters()}
    texts, intercept = texts_of(MIXED), (0.5, -1.0, 2.0)
    without = Predictor(model, [direction], 0, DecisionRule(0.0, 2.0)).evaluate(texts)[0]
    decisions = Predictor(model, [direction], 0, DecisionRule(intercept, 2.0)).evaluate(texts)[0]
    np.testing.assert_allclose(decisions, without + np.asarray(intercept), rtol=1e-12)


@pytest.mark.parametrize(
    ("directions", "intercept", "words"),
    [(0, (1.0, 2.0), "2 intercepts for 3 logits"), (2, 0.0, "2 directions for 3 logits")],
)
def test_what_was_made_for_other_logits_is_refused(directions: int, intercept: Any, words: str) -> None:
    model: Any = Bags()
    direction = {name: torch.ones_like(parameter) for name, parameter in model.named_parameters()}
    with pytest.raises(UserError, match=words):
        Predictor(model, [direction] * directions, 0, DecisionRule(intercept))


def test_no_direction_is_kept_as_none(tmp_path: Path) -> None:
    model: Any = Bags()
    save_predictor(tmp_path, [{}], model, {})
    assert _directions(tmp_path, load_tensors(tmp_path / DIRECTION)[0], model) == []
