"""Training in place: what it leaves behind, going on after an interruption, divergence, callbacks, and mistakes."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from model_oracle import alone, pad_id, random_texts
from model_table import TABLE

from lmntk.errors import UserError
from lmntk.finetuning.logits import logits_of
from lmntk.finetuning.optimizers import SignGD
from lmntk.finetuning.settings import Checkpoints, Labelled, TrainingData, TrainingSettings, batch_order
from lmntk.finetuning.trainer import last_checkpoint
from lmntk.finetuning.training import fine_tune, fine_tune_linearized
from lmntk.models.weights import at_weights

SETTINGS = TrainingSettings("sgd", 5e-2, batch_size=2, steps=10, eval_every=3, seed=7)


def case(name="bert", outputs=1, dtype=torch.float64):
    row = TABLE[name]
    model = row.model(outputs, dtype=dtype)
    texts = random_texts(row, [6, 3, 8, 5, 4, 7], 1)
    return (
        model,
        row.parameters.select(model),
        TrainingData(Labelled(texts[:4], [0, 1, 0, 1]), Labelled(texts[2:], [0, 1, 1, 1]), pad_id(model)),
    )


def same(a, b):
    """Everything but the time, to the bit."""
    assert (a.status, a.curve, a.best_step, a.dev, a.trained) == (
        b.status,
        b.curve,
        b.best_step,
        b.dev,
        b.trained,
    )
    assert a.weights.keys() == b.weights.keys()
    assert all(torch.equal(a.weights[name], b.weights[name]) for name in a.weights)
    assert torch.equal(a.dev_logits, b.dev_logits)


@pytest.mark.parametrize(
    "name",
    [
        "bert",
        "gpt2",
        "t5-gated-untied",
        "llama-tied",
        "bert-pooled",
        "mobilebert",
        "gpt2-lora",
        "roberta-top-layer",
    ],
)
@pytest.mark.parametrize("train_one", [fine_tune, fine_tune_linearized])
def test_afterwards_the_model_is_what_it_was(name, train_one):
    model, trainable, data = case(name, 2)
    model.train()
    next(iter(model.parameters())).requires_grad_(False)
    before = {key: (p, p.detach().clone(), p.requires_grad) for key, p in model.named_parameters()}
    flags = {module: module.training for module in model.modules()}
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    found = train_one(model, data, trainable, SETTINGS)
    assert found.status == "finished" and found.trained == sum(p.numel() for p in trainable.values())
    assert [look.step for look in found.curve] == [0, 3, 6, 9, 10]
    for key, p in model.named_parameters():
        kept, value, flag = before[key]
        assert p is kept and torch.equal(p, value) and p.requires_grad == flag and p.grad is None
    assert flags == {module: module.training for module in model.modules()}
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1] and random.getstate() == states[2]
    assert set(found.weights) == set(trainable)
    if train_one is fine_tune:
        with at_weights(model, found.weights):
            assert torch.equal(logits_of(model, data.dev.texts, pad_id(model)), found.dev_logits)


def test_only_the_chosen_parameters_move_and_dropout_is_on():
    model, trainable, data = case("roberta-top-layer")
    found = fine_tune(model, data, trainable, SETTINGS)
    moved = [
        name for name, value in found.weights.items() if not torch.equal(value, trainable[name].detach())
    ]
    assert moved and all(".layer.1." in name for name in moved)
    without = fine_tune(model, data, trainable, replace(SETTINGS, dropout=False))
    assert not torch.equal(found.dev_logits, without.dev_logits)
    assert without.curve[0] == found.curve[0]  # looks at dev are without dropout
    same(found, fine_tune(model, data, trainable, SETTINGS))


@pytest.mark.parametrize(("name", "optimizer"), [("bert", "sgd"), ("gpt2", "adamw"), ("t5", "signgd")])
@pytest.mark.parametrize("stop", [1, 5, 9])
def test_an_interrupted_training_goes_on_to_the_same_bits(tmp_path, name, optimizer, stop):
    model, trainable, data = case(name, dtype=torch.float32)
    settings = replace(SETTINGS, optimizer=optimizer)
    in_one_piece = fine_tune(model, data, trainable, settings)
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    steps = []

    def count():
        steps.append(1)
        if len(steps) == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fine_tune(
            model,
            data,
            trainable,
            settings,
            checkpoints=Checkpoints(tmp_path, 0),
            on_step=count,
        )
    assert all(torch.equal(p, before[key]) for key, p in model.named_parameters())
    found = fine_tune(
        model,
        data,
        trainable,
        settings,
        checkpoints=Checkpoints(tmp_path, 0),
        on_step=count,
    )
    same(found, in_one_piece)
    assert len(steps) == (stop + 10 - (stop - 1))  # one step is done twice
    assert len(list(tmp_path.glob("checkpoint-*"))) <= 1


def test_an_interrupted_training_of_the_linearized_model_goes_on(tmp_path):
    model, trainable, data = case()
    in_one_piece = fine_tune_linearized(model, data, trainable, SETTINGS)
    steps = iter([None] * 4)
    with pytest.raises(StopIteration):
        fine_tune_linearized(
            model,
            data,
            trainable,
            SETTINGS,
            checkpoints=Checkpoints(tmp_path, 0),
            on_step=lambda: next(steps),
        )
    assert last_checkpoint(tmp_path).name == "checkpoint-4"
    same(
        fine_tune_linearized(model, data, trainable, SETTINGS, checkpoints=Checkpoints(tmp_path)),
        in_one_piece,
    )


def test_a_checkpoint_that_was_cut_short_is_not_taken(tmp_path):
    model, trainable, data = case()
    steps = iter([None] * 6)
    with pytest.raises(StopIteration):
        fine_tune(
            model,
            data,
            trainable,
            SETTINGS,
            checkpoints=Checkpoints(tmp_path, 0),
            on_step=lambda: next(steps),
        )
    (tmp_path / "checkpoint-8").mkdir()
    (tmp_path / "checkpoint-8" / "trained.safetensors").write_bytes(b"half of")
    found = fine_tune(model, data, trainable, SETTINGS, checkpoints=Checkpoints(tmp_path, 0))
    same(found, fine_tune(model, data, trainable, SETTINGS))


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "another shape"])
def test_a_damaged_file_of_a_checkpoint_is_named_and_the_training_begins_anew(tmp_path, caplog, damage):
    """Whichever file of it, the Trainer's own too."""
    model, trainable, data = case()
    expected, steps = fine_tune(model, data, trainable, SETTINGS), iter([None] * 4)
    with pytest.raises(StopIteration):
        fine_tune(
            model,
            data,
            trainable,
            SETTINGS,
            checkpoints=Checkpoints(tmp_path / "whole", 0),
            on_step=lambda: next(steps),
        )
    names = sorted(path.name for path in last_checkpoint(tmp_path / "whole").iterdir())
    assert {"trained.safetensors", "record.json", "optimizer.pt", "trainer_state.json"} <= set(names)
    for name in names:
        shutil.copytree(tmp_path / "whole", tmp_path / name)
        path = last_checkpoint(tmp_path / name) / name
        content = path.read_bytes()
        flipped = bytearray(content)
        flipped[len(content) // 2] ^= 1
        path.write_bytes(
            {
                "cut": content[:-7],
                "flipped": bytes(flipped),
                "emptied": b"",
                "another shape": b'{"curve": 3}',
            }[damage]
        )
        assert last_checkpoint(tmp_path / name) is None, name
        assert name in caplog.text
    same(
        fine_tune(model, data, trainable, SETTINGS, checkpoints=Checkpoints(tmp_path / names[0], 0)), expected
    )


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_bits(tmp_path):
    script = f"""
import os, signal, sys
from pathlib import Path
sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[1])!r}]
import torch
torch.set_num_threads(1)
import test_finetuning_training as here
model, trainable, data = here.case("gpt2", dtype=torch.float32)
steps = []
def count():
    steps.append(1)
    if len(steps) == 8:
        os.kill(os.getpid(), signal.SIGKILL)
folder = Path({str(tmp_path)!r})
here.fine_tune(model, data, trainable, here.SETTINGS, checkpoints=here.Checkpoints(folder, 0), on_step=count)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert last_checkpoint(tmp_path) is not None
    model, trainable, data = case("gpt2", dtype=torch.float32)
    found = fine_tune(model, data, trainable, SETTINGS, checkpoints=Checkpoints(tmp_path, 0))
    same(found, fine_tune(model, data, trainable, SETTINGS))


@pytest.mark.parametrize("train_one", [fine_tune, fine_tune_linearized])
def test_a_diverging_training_is_stopped_at_once_and_says_so(train_one):
    model, trainable, data = case(dtype=torch.float32)
    steps = []
    settings = replace(SETTINGS, learning_rate=1e38, max_grad_norm=0.0)
    found = train_one(model, data, trainable, settings, on_step=lambda: steps.append(1))
    assert found.status == "diverged" and "not a number" in found.reason
    assert len(steps) < 4
    assert found.best_step is None and found.dev is None and found.weights == {}
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_a_training_that_diverges_late_keeps_the_best_from_before():
    model, trainable, data = case()

    def spoil(step, module):
        if step == 6:
            with torch.no_grad():
                next(iter(trainable.values())).fill_(float("nan"))

    found = fine_tune(model, data, trainable, SETTINGS, on_evaluation=spoil)
    assert found.status == "diverged" and found.reason == "the loss is not a number at step 7"
    assert (
        found.best_step in (3, 6)
        and found.dev is not None
        and [look.step for look in found.curve] == [0, 3, 6]
    )
    assert all(torch.isfinite(value).all() for value in found.weights.values())
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_the_callback_sees_each_look_and_changes_nothing(tmp_path):
    model, trainable, data = case()
    plain = fine_tune(model, data, trainable, SETTINGS)
    seen = {}

    def look(step, module):
        assert module is model and not any(part.training for part in module.modules())
        torch.rand(3), model.zero_grad()
        seen[step] = logits_of(module, data.dev.texts, pad_id(model))

    found = fine_tune(
        model,
        data,
        trainable,
        SETTINGS,
        on_evaluation=look,
        checkpoints=Checkpoints(tmp_path, 0),
    )
    same(found, plain)
    assert list(seen) == [0, 3, 6, 9, 10]
    assert torch.equal(seen[0], logits_of(model, data.dev.texts, pad_id(model)))
    assert torch.equal(seen[found.best_step], found.dev_logits)
    assert last_checkpoint(tmp_path) is None  # with a callback a training always begins anew


def test_the_first_of_equal_looks_is_the_best():
    model, trainable, data = case()
    found = fine_tune(model, data, trainable, replace(SETTINGS, learning_rate=1e-9))
    assert len({look.dev for look in found.curve}) == 1 and found.best_step == 3


def test_batches_walk_through_the_texts_again_and_again():
    order = batch_order(5, 2, 9, seed=3)
    assert [len(batch) for batch in order] == [2, 2, 1] * 3
    assert all(
        sorted(i for batch in order[start : start + 3] for i in batch) == [0, 1, 2, 3, 4]
        for start in (0, 3, 6)
    )
    assert order != batch_order(5, 2, 9, seed=4) and order == batch_order(5, 2, 9, seed=3)
    assert batch_order(3, 8, 2, seed=0)[0] != [] and len(batch_order(3, 8, 2, seed=0)[0]) == 3


def test_signgd_steps_by_signs():
    p = torch.nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
    p.grad = torch.tensor([0.5, -4.0, 0.0])
    SignGD([p], lr=0.25).step()
    assert p.tolist() == [0.75, 2.25, 3.0]


def test_logits_come_in_the_order_of_the_texts():
    row = TABLE["bert"]
    model, texts = row.model(3), random_texts(row, [9, 3, 7, 4, 3], 1)
    expected = torch.cat([model(batch) for batch in alone(model, texts)]).detach()
    torch.testing.assert_close(logits_of(model, texts, pad_id(model), batch_size=2), expected)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"optimizer": "lion"}, "'lion' is not one of sgd, adamw, signgd"),
        ({"steps": 0}, "steps 0 is less than 1"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"eval_every": 0}, "eval_every 0"),
        ({"loss": "hinge"}, "'hinge' is not one of cross-entropy, squared"),
        ({"schedule": "cosine"}, "'cosine' is not one of"),
        ({"learning_rate": float("nan")}, "not above 0"),
        ({"max_grad_norm": -1.0}, "negative"),
    ],
)
def test_mistakes_in_the_settings_are_told(change, words):
    with pytest.raises(UserError, match=words):
        replace(SETTINGS, **change)


def test_other_mistakes_are_told(monkeypatch):
    model, trainable, data = case()
    with pytest.raises(UserError, match="2 texts and 1 labels"):
        Labelled(data.train.texts[:2], [1])
    with pytest.raises(UserError, match="no parameter is left"):
        fine_tune(model, data, {}, SETTINGS)
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(UserError, match=r"lmntk\[finetune\]"):
        fine_tune(model, data, trainable, SETTINGS)
