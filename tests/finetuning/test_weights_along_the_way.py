"""The weights along a training: kept while it goes, they are those of a training done once more."""

from __future__ import annotations

import pytest
import torch
from model_oracle import pad_id, random_texts
from model_table import TABLE

from lmntk.finetuning import replay as module
from lmntk.finetuning.grid import search
from lmntk.finetuning.method import FineTuningMethod
from lmntk.finetuning.replay import Keeper, replay
from lmntk.finetuning.settings import Checkpoints, Labelled, TrainingData, TrainingSettings
from lmntk.finetuning.subsets import Subset
from lmntk.finetuning.training import fine_tune

SETTINGS = TrainingSettings("sgd", 5e-2, batch_size=2, steps=10, eval_every=1, seed=7)


def case():
    row = TABLE["bert"]
    model = row.model(1, dtype=torch.float64)
    texts = random_texts(row, [6, 3, 8, 5, 4, 7], 1)
    data = TrainingData(Labelled(texts[:4], [0, 1, 0, 1]), Labelled(texts[2:], [0, 1, 1, 1]), pad_id(model))
    return model, row.parameters.select(model), data


def nobody(*arguments, **named):
    pytest.fail("trained once more")


def replayed(folder, settings=SETTINGS, best_step=None):
    model, trainable, data = case()
    return replay(model, trainable, data, settings, best_step, folder, lambda steps: None)


def same(one, other):
    assert (one.steps, one.best_step, one.dev) == (other.steps, other.best_step, other.dev)
    for (step, weights), (other_step, others) in zip(one.along(), other.along(), strict=True):
        assert step == other_step
        assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert all(torch.equal(one.best[name], other.best[name]) for name in one.best)


@pytest.mark.parametrize("eval_every", [1, 3, 10])
def test_kept_in_a_grid_they_are_those_of_a_replay(tmp_path, monkeypatch, eval_every):
    settings = TrainingSettings("sgd", 5e-2, batch_size=2, steps=10, eval_every=eval_every, seed=7)
    model, _, data = case()
    method = FineTuningMethod(settings, (5e-2,), (2,), Subset(), linearized=False)
    found = search(model, data, method, path=tmp_path / "kept")
    best = found.runs[0]["best_step"]
    again = replayed(tmp_path / "again", settings, best)
    monkeypatch.setattr(module, "fine_tune", nobody)
    same(replayed(tmp_path / "kept", settings, best), again)


def test_an_interrupted_training_keeps_all_of_them(tmp_path):
    whole = replayed(tmp_path / "whole")

    class StoppedError(Exception):
        pass

    def stopping():
        steps.append(None)
        if len(steps) == 8:
            raise StoppedError

    steps, checkpoints = [], Checkpoints(tmp_path / "checkpoints", 0.0)
    model, trainable, data = case()
    keeper = Keeper(tmp_path / "kept", trainable, SETTINGS)
    with pytest.raises(StoppedError):
        fine_tune(
            model, data, trainable, SETTINGS, checkpoints=checkpoints, on_evaluation=keeper, on_step=stopping
        )
    model, trainable, data = case()
    keeper = Keeper(tmp_path / "kept", trainable, SETTINGS)
    steps.clear()
    tuned = fine_tune(
        model, data, trainable, SETTINGS, checkpoints=checkpoints, on_evaluation=keeper,
        on_step=lambda: steps.append(None),
    )  # fmt: skip
    assert 0 < len(steps) < SETTINGS.steps  # it went on
    same(keeper.finish(tuned), whole)


def test_what_is_lost_is_trained_again(tmp_path):
    model, trainable, data = case()
    keeper = Keeper(tmp_path / "kept", trainable, SETTINGS)
    tuned = fine_tune(model, data, trainable, SETTINGS, on_evaluation=keeper)
    next((tmp_path / "kept").glob("step-*")).unlink()
    assert keeper.finish(tuned) is None
    same(
        replayed(tmp_path / "kept", best_step=tuned.best_step),
        replayed(tmp_path / "again", best_step=tuned.best_step),
    )


@pytest.mark.parametrize(("rates", "most"), [((5e-2, 1e-2), module.SMALL), ((5e-2,), 1000)])
def test_of_a_grid_or_of_large_weights_none_are_kept(tmp_path, monkeypatch, rates, most):
    monkeypatch.setattr(module, "SMALL", most)
    model, _, data = case()
    method = FineTuningMethod(SETTINGS, rates, (2,), Subset(), linearized=False)
    search(model, data, method, path=tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
