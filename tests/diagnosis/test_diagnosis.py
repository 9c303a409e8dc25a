"""Diagnoses of language models' fine-tuning: a split of a run, whose parts are those of the modules below, and the JSON that is written."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from kept import kept_at
from model_oracle import pad_id, random_texts
from model_table import TABLE
from tiny import films, write_model
from toys import Mlp, clusters, train

from lmntk.diagnosis.before import look_before
from lmntk.diagnosis.diagnosis import diagnose
from lmntk.diagnosis.examples import Examples, logits_of
from lmntk.diagnosis.features import gradient_distance, kernel_distance, sgd_kernel
from lmntk.diagnosis.linearization import linearized_logits
from lmntk.diagnosis.spectrum import group_shares
from lmntk.diagnosis.subject import FineTuning, KernelSolution, LabelledExamples
from lmntk.errors import UserError
from lmntk.experiment.configuration import make_experiment
from lmntk.experiment.run import run
from lmntk.experiment.session import GivenCheckpoint
from lmntk.experiment.shared_model import shared_model_of
from lmntk.experiment.start import open_session
from lmntk.experiment.steps.base import Job
from lmntk.experiment.steps.diagnose import diagnose_split
from lmntk.kernels.kernel import Kernel
from lmntk.models.filters import ParameterFilter
from lmntk.models.weights import at_weights
from lmntk.prompts.batching import collate
from lmntk.solvers.emulated_training import Training
from lmntk.solvers.emulator import logit_error
from lmntk.system.progress import Silent

TOP = {
    "format",
    "key",
    "split",
    "task",
    "k",
    "seed",
    "mode",
    "metric",
    "method",
    "verdict",
    "reason",
    "tests",
    "numbers",
    "trajectory",
    "logits",
}
TOP |= {"formula", "predictions", "emulation", "spectrum", "groups", "kernels", "versions"}


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """A run of a tiny model in both modes, its kernels kept."""
    folder = tmp_path_factory.mktemp("run")
    own = films(folder, 40, 30)
    values = {
        "model": str(write_model(folder / "model")),
        "own_tasks": [own],
        "k": [4],
        "seeds": [13],
        "modes": ["prompt", "head"],
        "out": folder / "out",
        "dtype": "float64",
        "keep_kernels": True,
    }
    experiment = make_experiment(values)
    run(experiment)
    session = open_session(experiment, Silent())
    return folder / "out", session, *session.tasks


def start_of(session, task, split):
    return shared_model_of(session, task, split, split.mode)


def diagnosed(shared, weights, training=None, trajectory=(), diverged="", kernels=None, trainable=None):
    """Returns the diagnosis of weights of a split's own model."""
    (split,) = shared.splits
    chosen = ParameterFilter().select(shared.model) if trainable is None else trainable
    job = Job(split, GivenCheckpoint(Path("given"), "0" * 64))
    return diagnose_split(shared, job, FineTuning(weights, chosen, training, trajectory, diverged), kernels)


def fine_tune(start, pad, rate, steps):
    """SGD, one text a step, no clipping; returns weights along the way and the order of the texts. The model is left as it was."""
    model = copy.deepcopy(start.model).eval()
    order, trajectory = [], []
    labels = torch.tensor(start.labels(start.splits[0])["train"]).double()
    for step in range(steps):
        i = (3 * step) % len(labels)
        order.append([i])
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            model(collate([start.texts(start.splits[0])["train"][i]], pad))[:, 0], labels[[i]]
        )
        parameters = list(model.parameters())
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    parameter -= rate * (1 - step / steps) * gradient
        if step + 1 in (steps // 2, steps):
            trajectory.append((step + 1, {name: p.detach().clone() for name, p in model.named_parameters()}))
    return trajectory, order


@pytest.mark.parametrize("mode", ["prompt", "head"])
def test_a_cell(setting, mode):
    out, session, task = setting
    split = next(split for split in task.splits if split.mode == mode)
    start = start_of(session, task, split)
    trajectory, order = fine_tune(start, session.pretrained.pad_id, 1e-3, 8)
    weights = trajectory[-1][1]
    training = Training("sgd", 1e-3, 8, batch_size=1, batches=order)
    folder = kept_at(out / "kernels" / split.name)
    kept = {
        (side, formula): Kernel.load(folder / f"{side}-{formula}.safetensors")
        for side in ("train", "dev", "test")
        for formula in ("sgd", "asigngd")
    }
    found = diagnosed(start, weights, training, trajectory, kernels=kept)
    plain = json.loads(json.dumps(found.as_dict("abc"), allow_nan=False))
    assert set(plain) == TOP
    assert (plain["format"], plain["key"], plain["split"], plain["mode"]) == (
        "lmntk diagnosis 3",
        "abc",
        split.name,
        mode,
    )
    row = next(
        row
        for row in json.loads(kept_at(out / "splits" / f"{split.name}.json").read_text())["rows"]
        if row["method"] == "sgd ridge"
    )
    assert plain["numbers"]["kernel"] == pytest.approx(row["test"])
    with at_weights(start.model, weights):
        test = Examples.of_texts(start.texts(start.splits[0])["test"], session.pretrained.pad_id, 1)
        np.testing.assert_allclose(plain["logits"]["fine_tuned"], logits_of(start.model, test), rtol=1e-9)
    lines = linearized_logits(start.model, test, weights)
    np.testing.assert_allclose(plain["logits"]["linearized"], lines.after, rtol=1e-9)
    assert plain["numbers"]["logit_error"] == pytest.approx(
        logit_error(lines.before, np.array(plain["logits"]["fine_tuned"]), lines.after)
    )
    # a rate this small is lazy, whatever the model, and the emulator knows the order of the texts
    assert plain["emulation"]["steps"] == [0, 4, 8]
    assert plain["emulation"]["error"] < 0.01
    assert [point["step"] for point in plain["trajectory"]] == [4, 8]
    assert all(0 < point["gradient_distance"] < 0.2 for point in plain["trajectory"])
    train_texts = Examples.of_texts(start.texts(start.splits[0])["train"], session.pretrained.pad_id)
    parameters = ParameterFilter().select(start.model)
    assert plain["trajectory"][1]["gradient_distance"] == pytest.approx(
        gradient_distance(start.model, train_texts, weights, parameters).mean
    )
    after = sgd_kernel(start.model, train_texts, parameters, None, weights)["all"]
    moved = kernel_distance(kept["train", "sgd"].values, after)
    assert plain["numbers"]["kernel_distance"] == pytest.approx(moved.elementwise, rel=1e-6)
    assert plain["numbers"]["gradient_distance"] == pytest.approx(plain["trajectory"][1]["gradient_distance"])
    labels = plain["kernels"]["labels"]
    train_labels = start.labels(start.splits[0])["train"]
    by_class = np.argsort(train_labels, kind="stable")
    assert labels == sorted(train_labels)
    pictures = {name: np.array(plain["kernels"][name]) for name in ("before", "after")}
    for name, kernel in (("before", kept["train", "sgd"].values), ("after", after)):
        summed = np.trace(kernel, axis1=1, axis2=3)[by_class][:, by_class]
        np.testing.assert_allclose(pictures[name], summed, rtol=1e-9)
    assert (np.abs(pictures["after"] - pictures["before"]) > 1e-6 * np.abs(pictures["before"])).any()
    chi = plain["numbers"]["chi_with_prompt"], plain["numbers"]["chi_without_prompt"]
    assert all(0 < each < 1 for each in chi) and chi[0] != chi[1]
    assert sum(plain["spectrum"]["alignment"]) == pytest.approx(1)
    again = look_before(
        start.model,
        {
            side: Examples.of_texts(part, session.pretrained.pad_id)
            for side, part in start.texts(split).items()
        },
        parameters,
    )
    assert plain["groups"] == pytest.approx(
        group_shares(again.kernels["train", "sgd"].groups)
    )  # the run kept none


def test_a_cell_whose_kernels_are_not_there(setting):
    _, session, task = setting
    split = task.splits[0]
    start = start_of(session, task, split)
    trajectory, _ = fine_tune(start, session.pretrained.pad_id, 1e-3, 4)
    found = diagnosed(start, trajectory[-1][1]).as_dict()
    assert sum(found["groups"].values()) == pytest.approx(1)
    assert set(found["groups"]) == {"embeddings", "layer 0", "layer 1", "head"}
    assert found["emulation"] is None and found["trajectory"] is None and found["numbers"]["rate"] is None


def test_the_order_of_the_two_modes_agrees_about_chi(setting):
    _, session, task = setting
    found = {
        split.mode: diagnosed(start_of(session, task, split), None, diverged="nan").as_dict()["numbers"]
        for split in task.splits
    }
    for name in ("chi_with_prompt", "chi_without_prompt"):
        assert found["prompt"][name] == pytest.approx(found["head"][name])


@pytest.mark.parametrize("how", ["said", "nan weights", "infinite logits"])
def test_training_that_diverged(setting, how):
    _, session, task = setting
    split = task.splits[0]
    start = start_of(session, task, split)
    weights = {name: p.detach().clone() for name, p in start.model.named_parameters()}
    name = "network.bert.encoder.layer.1.output.dense.bias"
    weights[name] = weights[name] * (math.nan if how == "nan weights" else 1e308)
    training = Training("sgd", 1.0, 10)
    given = (None, "the loss was nan at step 3") if how == "said" else (weights, "")
    bad = weights if how == "nan weights" else {**weights, name: weights[name] * math.inf}
    found = diagnosed(start, given[0], training, [(5, bad)], given[1]).as_dict()
    assert found["verdict"] == "undecided" and found["reason"].startswith("fine-tuning diverged")
    assert found["numbers"]["fine_tuned"] is None and found["numbers"]["kernel"] is not None
    assert (
        found["logits"]["fine_tuned"] is None and found["trajectory"] is None and found["emulation"] is None
    )
    json.dumps(found, allow_nan=False)
    if how == "nan weights":
        assert name in found["reason"]


def test_part_of_the_parameters(setting):
    """A filter's weights alone, as BitFit leaves them."""
    _, session, task = setting
    split = task.splits[0]
    start = start_of(session, task, split)
    chosen = ParameterFilter(biases_only=True)
    weights = {name: p.detach() + 0.01 for name, p in chosen.select(start.model).items()}
    found = diagnosed(start, weights, trainable=chosen.select(start.model))
    texts = Examples.of_texts(start.texts(start.splits[0])["train"], session.pretrained.pad_id)
    assert found.numbers["gradient_distance"] == pytest.approx(
        gradient_distance(start.model, texts, weights, chosen.select(start.model)).mean
    )


def test_sign_descent_is_emulated():
    """One logit, one text a step, signs: the wide network follows its asymmetric kernel."""
    from lmntk.engine.compute import module_kernels

    model = Mlp(4096, 1)
    parts = {"train": clusters(8, 2, 1), "dev": clusters(6, 2, 2), "test": clusters(40, 2, 3)}
    examples, labels = ({side: part[i] for side, part in parts.items()} for i in (0, 1))
    batches = {side: [{"x": part[2]}] for side, part in parts.items()}
    kernels = {}
    for side in parts:
        for formula, kernel in module_kernels(
            model, batches["train"], batches[side], ["sgd", "asigngd"]
        ).kernels.items():
            kernels[side, formula] = kernel
    rate, steps, order = 2e-4, 12, [[i % 8] for i in range(12)]
    tuned = copy.deepcopy(model)
    for (i,) in order:
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            tuned({"x": parts["train"][2][[i]]})[:, 0],
            torch.tensor([float(labels["train"][i])], dtype=torch.float64),
        )
        with torch.no_grad():
            for p, g in zip(
                tuned.parameters(), torch.autograd.grad(loss, list(tuned.parameters())), strict=True
            ):
                p -= rate * g.sign()
    weights = {name: p.detach() for name, p in tuned.named_parameters()}
    training = Training("signgd", rate, steps, decay="constant", batch_size=1, batches=order)
    texts, solution = LabelledExamples(examples, labels), KernelSolution(kernels)
    found = diagnose(model, texts, FineTuning(weights, training=training), solution=solution)
    assert found.numbers["emulation_error"] < 0.02
    assert np.ptp(np.array(found.emulation["real"])[:, 0]) > 0.01
    adam = FineTuning(weights, training=Training("adamw", rate, steps))
    unknown = diagnose(model, texts, adam, solution=solution)
    assert unknown.emulation is None


def test_features_are_those_of_64_train_texts_of_all_classes():
    parts = {"train": clusters(70, 2, 1), "dev": clusters(6, 2, 2), "test": clusters(6, 2, 3)}
    examples, labels = ({side: part[i] for side, part in parts.items()} for i in (0, 1))
    model = Mlp(8, 1)
    weights = {name: p.detach() * 1.01 for name, p in model.named_parameters()}
    found = diagnose(model, LabelledExamples(examples, labels), FineTuning(weights))
    assert found.numbers["feature_texts"] == 64
    assert found.kernels["labels"] == [0] * 32 + [1] * 32


def test_kernels_of_batches_and_of_texts_are_the_same():
    row = TABLE["bert"]
    model = row.model(2)
    texts = {
        side: random_texts(row, [5, 4, 6, 5], seed) for seed, side in enumerate(("train", "dev", "test"))
    }
    parameters = dict(model.named_parameters())
    by_texts = look_before(
        model, {side: Examples.of_texts(part, pad_id(model), 2) for side, part in texts.items()}, parameters
    )
    ready = {side: Examples.of_batches([collate(part, pad_id(model))]) for side, part in texts.items()}
    by_batches = look_before(model, ready, parameters)
    for side in texts:
        first, second = by_texts.kernels[side, "sgd"], by_batches.kernels[side, "sgd"]
        np.testing.assert_allclose(
            first.values, second.values, rtol=1e-8, atol=1e-8 * np.abs(first.values).max()
        )
        assert set(first.groups) == set(second.groups)
        np.testing.assert_allclose(sum(first.groups.values()), first.values, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(by_texts.logits[side], by_batches.logits[side], rtol=1e-9)


def test_mistakes_are_said():
    model = Mlp(8, 2)
    some, labels, x = clusters(6, 2, 1)
    train(model, x, labels, 0.0, 1, "squared")
    with pytest.raises(UserError, match="no dev texts"):
        diagnose(model, LabelledExamples({"train": some}, {"train": labels}), FineTuning(None))
    every, truth = (dict.fromkeys(("train", "dev", "test"), part) for part in (some, labels))
    with pytest.raises(UserError, match="no parameter requires a gradient"):
        diagnose(model.requires_grad_(False), LabelledExamples(every, truth), FineTuning(None))
    with pytest.raises(UserError, match="there is no batch"):
        Examples.of_batches([])
