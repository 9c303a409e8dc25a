"""Kept and streamed factors give the same moves, those of plain autograd; what is kept is not captured again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from model_oracle import alone, flat, oracle, pad_id, random_texts
from model_table import TABLE

from lmntk.diagnosis.examples import Examples, fitted
from lmntk.diagnosis.features import gradient_norms, sgd_kernel
from lmntk.diagnosis.moves import Moves
from lmntk.engine.settings import Settings
from lmntk.models.weights import at_weights
from lmntk.tangents.coverage import Coverage

LENGTHS = [5, 4, 6, 5, 3]
CHOSEN = [0, 2, 3]


def setting(name, outputs):
    row = TABLE[name]
    model = row.model(outputs)
    texts = random_texts(row, LENGTHS, 1)
    parameters = row.parameters.select(model)
    generator = torch.Generator().manual_seed(7)
    weights = [
        {
            key: p.detach() + size * torch.randn(p.shape, generator=generator, dtype=p.dtype)
            for key, p in parameters.items()
        }
        for size in (0.05, 0.02)
    ]
    return row, model, parameters, texts, Examples.of_texts(texts, pad_id(model), 3), weights


def moves_of(model, examples, parameters, settings=None):
    settings = settings or Settings(batch_size=3)
    kernel = sgd_kernel(model, examples, parameters, settings)["all"]
    return Moves(model, examples, parameters, kernel, settings, fitted(model, examples, parameters)[1])


@pytest.mark.parametrize("fits", [True, False])
@pytest.mark.parametrize(
    "name", ["bert", "gpt2", "t5", "bert-head-mode", "gpt2-lora", "bert-lora-at-start", "mixtral", "albert"]
)
def test_a_move_is_that_of_plain_autograd(name, fits, monkeypatch):
    if not fits:
        monkeypatch.setattr("lmntk.diagnosis.moves.HELD", 0.0)
    row, model, parameters, texts, examples, weights = setting(name, 2)
    moves = moves_of(model, examples, parameters)
    inputs = alone(model, [texts[i] for i in CHOSEN])
    before = flat(oracle(model, inputs, parameters)).numpy()
    tolerance = max(1e-8, row.tolerance)
    for there in (*weights, weights[0]):
        with at_weights(model, there):
            after = flat(oracle(model, inputs, parameters)).numpy()
        move = moves.to(there, CHOSEN)
        for kernel, gradients in ((move.before, before), (move.after, after)):
            exact = np.einsum("ncp,mdp->ncmd", gradients, gradients)
            np.testing.assert_allclose(kernel, exact, rtol=tolerance, atol=tolerance * np.abs(exact).max())
        relative = np.linalg.norm(after - before, axis=2) / np.linalg.norm(before, axis=2)
        np.testing.assert_allclose(move.gradients.relative, relative, rtol=max(1e-7, 100 * row.tolerance))
        cosine = (after * before).sum(2) / np.linalg.norm(after, axis=2) / np.linalg.norm(before, axis=2)
        np.testing.assert_allclose(move.gradients.cosine, cosine, rtol=max(1e-8, 10 * row.tolerance))


def counted(monkeypatch):
    captured = []
    plain = Coverage.capture

    def capture(self, model, batch, *rest):
        tangents = plain(self, model, batch, *rest)
        captured.append(len(tangents))
        return tangents

    monkeypatch.setattr(Coverage, "capture", capture)
    return captured


def test_each_text_is_captured_once_at_each_weights(monkeypatch):
    _, model, parameters, _, examples, weights = setting("bert", 2)
    moves = moves_of(model, examples, parameters)
    moves.to(weights[0], CHOSEN)
    captured = counted(monkeypatch)
    moves.to(weights[1], CHOSEN)
    assert sum(captured) == len(CHOSEN)  # after alone
    captured.clear()
    moves.to(weights[1], [1, 4])
    assert sum(captured) == 2 * 2
    captured.clear()
    moves.norms([1, 4], lambda name: name)
    assert not captured


def test_norms_are_the_same_kept_or_not():
    _, model, parameters, _, examples, weights = setting("bert", 2)
    moves = moves_of(model, examples, parameters)
    plain = gradient_norms(model, examples.choose(CHOSEN), parameters, lambda name: name)
    assert moves.norms(CHOSEN, lambda name: name) == pytest.approx(plain, rel=1e-12)
    moves.to(weights[0], CHOSEN)
    assert moves.norms(CHOSEN, lambda name: name) == pytest.approx(plain, rel=1e-10)


def test_what_does_not_fit_is_not_kept(monkeypatch):
    _, model, parameters, _, examples, _ = setting("bert", 2)
    moves = moves_of(model, examples, parameters)
    moves.settings = replace(moves.settings, memory=2**14)
    assert moves._factors((0, 1, 2), examples.choose([0, 1, 2]), moves._coverage) is None
    assert moves._kept is None
    captured = counted(monkeypatch)
    assert moves._factors((0, 1, 2), examples, moves._coverage) is None
    assert not captured  # it is not tried again


def test_nothing_is_kept_in_lower_precision():
    _, model, parameters, _, examples, weights = setting("bert", 2)
    settings = Settings(batch_size=3, precision="bfloat16")
    moves = moves_of(model, examples, parameters, settings)
    moves.to(weights[0], CHOSEN)
    assert moves._kept is None


@pytest.mark.parametrize(("name", "looks"), [("bert-lora-at-start", 1), ("llama", 0)])
def test_what_could_be_compared_before_is_not_looked_at_again(name, looks, monkeypatch):
    """LoRA's A has no gradient at the start that could be compared; Llama has no such parameter."""
    _, model, parameters, _, examples, weights = setting(name, 2)
    moves = moves_of(model, examples, parameters)
    looked = []
    monkeypatch.setattr("lmntk.diagnosis.moves.fitted", lambda *given: looked.append(given) or fitted(*given))
    for there in weights:
        moves.to(there, CHOSEN)
    assert len(looked) == looks
