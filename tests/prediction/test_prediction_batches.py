"""Decisions and logits of a model that mixes padding in: the same in batches of any size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from lmntk.finetuning.logits import logits_of
from lmntk.prediction.limits import PassLimits
from lmntk.prediction.predictor import Predictor
from lmntk.prompts.encoded_text import EncodedText
from lmntk.system.notices import kept
from lmntk.tangents.linearized import LinearizedModel

MIXED = [3, 7, 5, 9, 4]


class Averaging(torch.nn.Module):
    """Logits of the mean of all positions; one that mixes takes the padding for tokens, as FNet does."""

    outputs = 1

    def __init__(self, mixes: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mixes = mixes
        self.table, self.head = torch.nn.Embedding(9, 6), torch.nn.Linear(6, 1)
        self.double()

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        mask = batch["attention_mask"][..., None]
        weights = torch.ones_like(mask) if self.mixes else mask
        logits: torch.Tensor = self.head(
            torch.tanh((self.table(batch["input_ids"]) * weights).sum(1) / weights.sum(1))
        )
        return logits


def texts_of(lengths: Sequence[int]) -> list[EncodedText]:
    return [EncodedText(tuple(1 + (i + k) % 8 for k in range(n)), 0, None) for i, n in enumerate(lengths)]


def ensembles_of(pairs: Sequence[tuple[int, int]]) -> list[EncodedText]:
    return [EncodedText((1,) * n, 0, None, others=(EncodedText((2,) * m, 0, None),)) for n, m in pairs]


def direction_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return {name: torch.randn_like(parameter) for name, parameter in model.named_parameters()}


WINDOWS = {
    "mixed": [MIXED],
    "one-length-then-mixed": [[7, 7, 7], MIXED],
    "another-length-then-between": [[3, 3], [9, 9], [5, 7, 5]],
    "one-text-then-mixed": [[7], MIXED],
}


@pytest.mark.parametrize("windows", WINDOWS.values(), ids=WINDOWS)
def test_decisions_depend_on_no_window(windows: list[list[int]]) -> None:
    decisions = []
    for size in (1, 2, 3):
        model: Any = Averaging(mixes=True)
        predictor = Predictor(model, [direction_of(model)], 0, limits=PassLimits(batch_size=size))
        decisions.append(np.concatenate([predictor.evaluate(texts_of(lengths))[0] for lengths in windows]))
        assert predictor.apart.mixes
    for other in decisions[1:]:
        np.testing.assert_allclose(other, decisions[0], rtol=1e-12)


def test_a_model_that_keeps_texts_apart_goes_in_batches() -> None:
    model: Any = Averaging(mixes=False)
    predictor = Predictor(model, [direction_of(model)], 0, limits=PassLimits(batch_size=3))
    assert [predictor.texts_at_once(texts_of(lengths)) for lengths in ([7, 7], MIXED, [2, 8])] == [3, 3, 3]
    assert not predictor.apart.mixes


def test_templates_of_an_ensemble_are_padded_each_for_itself() -> None:
    """All texts are of one length as a whole."""
    model: Any = Averaging(mixes=True)
    predictor = Predictor(model, [direction_of(model)], 0)
    assert predictor.keeps_apart(ensembles_of([(4, 4), (4, 4)]))
    assert not predictor.keeps_apart(ensembles_of([(3, 5), (5, 3)]))


def test_weights_that_diverged_tell_nothing() -> None:
    model: Any = Averaging(mixes=False)
    weight = model.head.weight.detach().clone()
    predictor = Predictor(model, [direction_of(model)], 0)
    model.head.weight.data.fill_(torch.nan)
    predictor.keeps_apart(texts_of(MIXED))
    model.head.weight.data.copy_(weight)
    assert predictor.keeps_apart(texts_of(MIXED))


@pytest.mark.parametrize("linearized", [False, True])
def test_logits_depend_on_no_batch_which_is_said_once(linearized: bool) -> None:
    model = Averaging(mixes=True)
    asked = LinearizedModel(model, direction_of(model)) if linearized else model
    expected = logits_of(asked, texts_of(MIXED), 0, 1)
    with kept() as said:
        logits_of(asked, texts_of([7, 7, 7]), 0, 4)
        assert not said
        torch.testing.assert_close(logits_of(asked, texts_of(MIXED), 0, 4), expected, rtol=1e-12, atol=1e-12)
    assert len(said) == 1 and "one at a time, unpadded" in said[0]
    with kept() as said:
        logits_of(model, texts_of(MIXED), 0, 2)
    assert not said
