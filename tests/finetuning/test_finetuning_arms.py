"""What trains in an arm is its target and nothing else, and its first steps are those that its kernel foretells."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from model_oracle import alone, pad_id, random_texts
from model_table import TABLE

from lmntk.engine.kernel_work import KernelWork
from lmntk.engine.settings import Settings
from lmntk.engine.stream import stream_kernels
from lmntk.errors import UserError
from lmntk.finetuning import intrinsic
from lmntk.finetuning.grid import search
from lmntk.finetuning.logits import logits_of
from lmntk.finetuning.method import FineTuningMethod
from lmntk.finetuning.settings import Labelled, TrainingData, TrainingSettings
from lmntk.finetuning.subsets import Subset
from lmntk.finetuning.training import fine_tune
from lmntk.kernels.lora import LoraStart
from lmntk.kernels.subspaces import Candidate, Subspaces
from lmntk.models.parts import parts_of
from lmntk.models.targets import parameters_of
from lmntk.models.weights import at_weights
from lmntk.solvers.emulator import descend, emulated_logits, logit_error
from lmntk.tangents.linearized import LinearizedModel

still = partial(
    TrainingSettings, schedule="constant", max_grad_norm=0.0, dropout=False, optimizer="sgd", eval_every=1
)
FAMILIES = ["bert", "gpt2", "llama", "t5", "bert-head-mode"]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("target", ["query+value", "mlp", "all-linear&top-1"])
def test_lora_adapts_the_target_and_nothing_else(name, target):
    model = TABLE[name].model(1)
    expected = parameters_of(target, parts_of(model), low_rank=True)
    with Subset(lora_rank=2, lora_targets=target).chosen(model) as trained:
        first, second = (
            {key.partition(".lora_")[0] + ".weight" for key in trained.parameters if f"lora_{part}" in key}
            for part in "AB"
        )
        others = [key for key in trained.parameters if ".lora_" not in key]
        own = trained.own({key: torch.ones_like(p).detach() for key, p in trained.parameters.items()})
    assert first == second == set(expected)
    assert all(key.startswith("head.") for key in others) and bool(others) == ("head-mode" in name)
    assert set(own) == {*expected, *others}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("target", ["biases", "norms", "top-1", "attention"])
def test_a_target_trains_alone(name, target):
    row = TABLE[name]
    model, pad = row.model(2), pad_id(row.model(2))
    if (name, target) in {("llama", "biases"), ("t5", "biases")}:
        with (
            pytest.raises(UserError, match="'biases' matches nothing"),
            Subset(train_only=target).chosen(model),
        ):
            pass
        return
    data = Labelled(random_texts(row, [6, 3, 8], 1), [0, 1, 0])
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    head = {key for key in before if not key.startswith("network.")}
    with Subset(train_only=target).chosen(model) as trained:
        found = fine_tune(
            model, TrainingData(data, data, pad), trained.parameters, still(learning_rate=1e-2, steps=1)
        )
    assert set(found.weights) == {*parameters_of(target, parts_of(model)), *head}
    moved = {key for key, value in found.weights.items() if not torch.equal(value, before[key])}
    assert moved and all(torch.equal(p, before[key]) for key, p in model.named_parameters())


def kernel_of(model, row, train, candidate):
    """The library's kernel [n, c, n, c] of a candidate."""
    work = KernelWork(
        model, {"train": train}, [("train", "train")], ["sgd"], row.parameters.select(model), pad_id(model),
        Subspaces((candidate,)),
    )  # fmt: skip
    found = stream_kernels(work, Settings()).subspaces["train", "train"]
    return found[candidate.name]["sgd"].numpy()


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
def test_sgd_on_lora_begins_as_its_kernel_of_the_same_draw_says(name):
    """The kernel is made of the base model and the seed alone; the error of its emulation falls like the rate, its share too."""
    row, rank, seed, steps = TABLE[name], 2, 3, 4
    model, train, labels = row.model(2), random_texts(row, [6, 4, 7], 1), [1, 0, 1]
    names = parameters_of("query+value", parts_of(model), low_rank=True)
    kernel = kernel_of(
        model, row, train, Candidate("lora", names, rank, seed, LoraStart("kaiming", "alpha/r", 16.0))
    )
    before = logits_of(model, train, pad_id(model)).numpy()
    data = Labelled(train, labels)
    errors = []
    for rate in (1e-5, 5e-6):
        rate = rate if row.tolerance < 1e-9 else 30 * rate
        with Subset(lora_rank=rank, lora_targets="query+value", seed=seed).chosen(model) as trained:
            found = fine_tune(
                model,
                TrainingData(data, data, pad_id(model)),
                trained.parameters,
                still(learning_rate=rate, batch_size=3, steps=steps, eval_every=steps),
            )
            own = trained.own(found.weights)
        with at_weights(model, own):
            real = logits_of(model, train, pad_id(model)).numpy()
        coefficients = descend(kernel, labels, before, [rate] * steps)[0]
        errors.append(logit_error(before, real, emulated_logits(coefficients, kernel, before)))
    assert errors[0] < 0.05 and 1.5 < errors[0] / errors[1] < 2.5


def dense_pi(seed, shapes, dimension):
    """Pi [P, d] written out, from its blocks' coordinates and signs alone."""
    rows = []
    for name, parameter in shapes.items():
        part = torch.zeros(parameter.numel(), dimension, dtype=torch.float64)
        for place, coordinate, sign in intrinsic.blocks(seed, name, parameter.numel(), dimension):
            part[torch.arange(place.start, place.stop), coordinate] = sign.double()
        rows.append(part)
    return torch.cat(rows)


@pytest.mark.parametrize("name", ["bert", "gpt2", "bert-head-mode"])
def test_a_random_subspace_is_the_dense_projection_written_out(name, monkeypatch):
    monkeypatch.setattr(intrinsic, "BLOCK", 37)  # many blocks, also within a parameter
    row, dimension, seed = TABLE[name], 24, 5
    model, texts = row.model(2), random_texts(row, [6, 3, 8], 1)
    pad, labels = pad_id(model), [0, 1, 0]
    every = dict(model.named_parameters())
    before = {key: p.detach().clone() for key, p in every.items()}
    with Subset(dimension=dimension, seed=seed).chosen(model) as trained:
        shapes = {key: every[key] for key in trained.module.names}
        assert set(shapes) == {key for key in every if key.startswith("network.")}
        assert {"coordinates"} | {f"model.{key}" for key in every if key not in shapes} == set(
            trained.parameters
        )
        pi = dense_pi(seed, shapes, dimension)
        assert torch.equal((pi != 0).sum(1), torch.ones(len(pi), dtype=torch.long))
        z = torch.randn(dimension, generator=torch.Generator().manual_seed(1), dtype=torch.float64) / 30
        values = {key: p.detach() for key, p in trained.parameters.items()} | {
            "coordinates": z.to(next(iter(every.values())).dtype)
        }
        own = trained.own(values)
        flat = torch.cat([(own[key] - before[key]).double().flatten() for key in shapes])
        precise = row.tolerance < 1e-9
        torch.testing.assert_close(flat, pi @ z, rtol=1e-5, atol=1e-12 if precise else 1e-6)
        # the gradient in z is Pi^T of the parameters' own, and the linearization goes along Pi z
        for batch in alone(model, texts[:1]):
            (of_z,) = torch.autograd.grad(trained.module(batch)[0, 0], trained.parameters["coordinates"])
            gradients = torch.autograd.grad(model(batch)[0, 0], list(shapes.values()), allow_unused=True)
            g = torch.cat([
                torch.zeros_like(p).flatten() if each is None else each.flatten()
                for each, p in zip(gradients, shapes.values(), strict=True)
            ]).double()  # fmt: skip
            torch.testing.assert_close(of_z.double(), pi.T @ g, rtol=1e-4, atol=1e-9 if precise else 1e-4)
            _, along = LinearizedModel(trained.module, {"coordinates": values["coordinates"]}).taylor(batch)
            torch.testing.assert_close(
                along[0, 0].detach().double(), g @ (pi @ z), rtol=1e-4, atol=1e-9 if precise else 1e-4
            )
        data = TrainingData(Labelled(texts, labels), Labelled(texts, labels), pad)
        found = fine_tune(trained.module, data, trained.parameters, still(learning_rate=1e-3, steps=2))
        moved = trained.own(found.weights)
    assert all(torch.equal(p, before[key]) for key, p in model.named_parameters())
    with at_weights(model, moved):
        torch.testing.assert_close(logits_of(model, texts, pad), found.dev_logits, rtol=1e-5, atol=1e-6)


def test_the_kernel_in_a_random_subspace_is_the_whole_one_on_average():
    generator = torch.Generator().manual_seed(0)
    g, other = torch.randn(2, 500, generator=generator, dtype=torch.float64)
    dimension = 50
    draws = []
    for seed in range(400):
        pi = dense_pi(seed, {"w": g}, dimension)
        draws.append(float((pi.T @ g) @ (pi.T @ other)))
    bound = (2 / dimension) ** 0.5 * float(g.norm() * other.norm())
    mean, spread = sum(draws) / len(draws), float(torch.tensor(draws).std())
    assert abs(mean - float(g @ other)) < 4 * bound / len(draws) ** 0.5
    assert 0.5 * bound < spread < 1.1 * bound


@pytest.mark.parametrize(
    "subset", [Subset(dimension=20), Subset(train_only="biases"), Subset(lora_rank=1, lora_targets="mlp")]
)
def test_a_grid_of_an_arm_finds_the_logits_of_its_own_weights(subset, tmp_path):
    row = TABLE["bert"]
    model, texts = row.model(2), random_texts(row, [6, 3, 8, 5], 1)
    data = Labelled(texts, [0, 1, 0, 1])
    method = FineTuningMethod(still(steps=2, learning_rate=1e-3), (1e-3, 1e-2), ("all",), subset, False)
    found = search(model, TrainingData(data, data, pad_id(model), test=data), method, folder=tmp_path)
    assert [run["batch_size"] for run in found.runs] == [4, 4] and found.chosen is not None
    torch.testing.assert_close(found.logits["test"], found.logits["dev"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("subset", "words"),
    [
        (Subset(lora_targets="mlp"), "give the rank too"),
        (Subset(lora_rank=2, train_only="mlp"), "give one of train-only and lora-rank"),
        (Subset(lora_rank=2, dimension=9), "give one of intrinsic-dimension and lora-rank"),
        (Subset(lora_rank=2, lora_targets="norms"), "no linear map for LoRA"),
        (Subset(lora_rank=99, lora_targets="mlp"), "rank: 99 is more than"),
        (Subset(train_only="nothing"), "no 'nothing' is known"),
        (Subset(dimension=10**9), "intrinsic-dimension: 1000000000 of"),
    ],
)
def test_mistakes_are_told(subset, words):
    with pytest.raises(UserError, match=words), subset.chosen(TABLE["bert"].model(1)):
        pass
