"""Grids of trainings: what is chosen, and what an interruption leaves."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from model_oracle import pad_id, random_texts
from model_table import TABLE

from lmntk.finetuning import grid
from lmntk.finetuning.grid import best_of, cut_batch_sizes, search
from lmntk.finetuning.logits import logits_of
from lmntk.finetuning.method import FineTuningMethod
from lmntk.finetuning.settings import Labelled, TrainingData, TrainingSettings
from lmntk.finetuning.subsets import Subset
from lmntk.finetuning.training import fine_tune
from lmntk.models.weights import at_weights
from lmntk.system.kept import write_record

SETTINGS = TrainingSettings("sgd", steps=6, eval_every=3, seed=1)


def case(dtype=torch.float64):
    row = TABLE["bert"]
    model, texts = row.model(1, dtype=dtype), random_texts(row, [6, 3, 8, 5, 4, 7, 5, 6], 1)
    sides = (
        Labelled(texts[:4], [0, 1, 0, 1]),
        Labelled(texts[3:], [0, 1, 1, 0, 1]),
        Labelled(texts[1:5], [1, 1, 0, 0]),
    )
    return model, *sides, Subset()


def run(parts, rates=(1e-2, 3e-1, 1e38), sizes=(2, 4), linearized=False, **more):
    model, train, dev, test, subset = parts
    data = TrainingData(train, dev, pad_id(model), test=test)
    method = FineTuningMethod(replace(SETTINGS, max_grad_norm=0.0), rates, sizes, subset, linearized)
    return search(model, data, method, **more)


def plain(found):
    return (
        [{key: value for key, value in run.items() if key != "seconds"} for run in found.runs],
        found.chosen,
        found.dev,
        found.trained,
    )


def test_every_point_is_trained_and_the_first_best_on_dev_is_chosen():
    parts = case(torch.float32)
    model, train, dev, test, _ = parts
    found = run(parts)
    points = [(one["learning_rate"], one["batch_size"]) for one in found.runs]
    assert points == [(1e-2, 2), (1e-2, 4), (3e-1, 2), (3e-1, 4), (1e38, 2), (1e38, 4)]
    assert [one["status"] for one in found.runs] == ["finished"] * 4 + ["diverged"] * 2
    finished = [one["dev"] for one in found.runs[:4]]
    assert found.chosen == finished.index(max(finished)) and found.dev == max(finished)
    rate, size = points[found.chosen]
    alone = fine_tune(
        model,
        TrainingData(train, dev, 0),
        dict(model.named_parameters()),
        replace(SETTINGS, learning_rate=rate, batch_size=size, max_grad_norm=0.0),
    )
    assert all(torch.equal(alone.weights[key], found.weights[key]) for key in alone.weights)
    with at_weights(model, found.weights):
        for side, data in (("dev", dev), ("test", test)):
            assert torch.equal(found.logits[side], logits_of(model, data.texts, pad_id(model)))


def test_where_all_diverge_none_is_chosen(tmp_path):
    found = run(case(torch.float32), rates=(1e38,), folder=tmp_path)
    assert (
        found.chosen is None
        and found.dev is None
        and found.weights == {}
        and found.logits == {}
        and found.trained > 0
    )
    assert plain(run(case(torch.float32), rates=(1e38,), folder=tmp_path)) == plain(
        found
    )  # from what the folder holds


def test_ties_go_to_the_first():
    runs = [{"status": "finished", "dev": dev} for dev in (0.5, 0.75, 0.75)]
    assert best_of(runs) == 1 and best_of([{"status": "diverged", "dev": 1.0}, *runs]) == 2
    assert best_of([]) is None and best_of([{"status": "diverged", "dev": 0.5}]) is None


def test_batches_are_never_larger_than_the_train_set():
    assert (
        cut_batch_sizes([2, 4, 8], 4) == [2, 4]
        and cut_batch_sizes([8], 3) == [3]
        and cut_batch_sizes([8, 2], 8) == [8, 2]
    )


@pytest.mark.one_in(3)
@pytest.mark.parametrize("linearized", [False, True])
@pytest.mark.parametrize("stop", [1, 8, 13, 20])
def test_an_interrupted_grid_goes_on_to_the_same_bits(tmp_path, stop, linearized):
    parts = case(torch.float32)
    rates = (1e-2, 3e-1)
    in_one_piece = run(parts, rates, linearized=linearized)
    steps = []

    def count(done):
        steps.append(done)
        if len(steps) == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(parts, rates, folder=tmp_path, checkpoint_seconds=0, on_step=count, linearized=linearized)
    after = []
    found = run(
        parts, rates, folder=tmp_path, checkpoint_seconds=0, on_step=after.append, linearized=linearized
    )
    assert plain(found) == plain(in_one_piece)
    assert all(torch.equal(found.weights[key], in_one_piece.weights[key]) for key in found.weights)
    assert all(torch.equal(found.logits[side], in_one_piece.logits[side]) for side in ("dev", "test"))
    begun = (stop - 1) // 6
    assert sum(after[1:] if begun else after) <= 24 - 6 * begun
    again = []
    assert plain(run(parts, rates, folder=tmp_path, on_step=again.append, linearized=linearized)) == plain(
        found
    )
    assert again == [24]  # nothing was trained


def test_lost_best_weights_are_trained_again(tmp_path):
    parts = case(torch.float32)
    found = run(parts, (1e-2, 3e-1), folder=tmp_path)
    (tmp_path / grid.BEST).write_bytes(b"no weights")
    steps = []
    assert plain(run(parts, (1e-2, 3e-1), folder=tmp_path, on_step=steps.append)) == plain(found)
    assert sum(steps) == 24


def test_best_weights_of_another_training_are_not_taken(tmp_path):
    parts = case(torch.float32)
    found = run(parts, (1e-2, 3e-1), folder=tmp_path)
    other = {**found.runs[found.chosen], "dev": -1.0}  # as if that file had been of a worse one
    write_record(tmp_path / f"run-{found.chosen}.json", other)
    assert plain(run(parts, (1e-2, 3e-1), folder=tmp_path)) == plain(found)
