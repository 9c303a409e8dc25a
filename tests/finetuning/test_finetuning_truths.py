"""Real training against the kernels that describe it, and against loops written out, in float64 and without dropout."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from model_oracle import alone, pad_id, random_texts
from model_table import TABLE
from torch import nn

from lmntk.engine.kernel_work import KernelWork
from lmntk.engine.settings import Settings
from lmntk.engine.stream import stream_kernels, whole
from lmntk.finetuning.logits import logits_of
from lmntk.finetuning.losses import mean_loss
from lmntk.finetuning.settings import Labelled, TrainingData, TrainingSettings, batch_order
from lmntk.finetuning.training import fine_tune, fine_tune_linearized
from lmntk.kernels.formulas import FORMULAS
from lmntk.models.weights import at_weights
from lmntk.prompts.batching import collate
from lmntk.solvers.chi import output_derivative

MODELS = ["bert", "gpt2", "llama", "t5", "bert-head-mode"]
still = partial(TrainingSettings, schedule="constant", max_grad_norm=0.0, dropout=False)


def chi_of(loss, found, labels):
    """Chi [n, c] as the analysis has it; a test below holds it against the gradient of the loss that is trained on."""
    return torch.from_numpy(output_derivative(found.numpy(), labels, loss))


def kernels(model, row, train, evaluated):
    """The library's kernels [n, c, m, d] of train texts against others."""
    groups, pair = {"train": train, "eval": evaluated}, ("train", "eval")
    found = stream_kernels(
        KernelWork(model, groups, [pair], FORMULAS, row.parameters.select(model), pad_id(model)), Settings()
    ).kernels[pair]
    return {name: whole(groups) for name, groups in found.items()}


def logits(model, texts):
    with torch.no_grad():
        return torch.cat([model(batch) for batch in alone(model, texts)])


def after_one_step(model, row, train, labels, evaluated, settings):
    """The logits after one step of ``fine_tune``."""
    labelled = Labelled(train, labels)
    data = TrainingData(labelled, labelled, pad_id(model))
    found = fine_tune(model, data, row.parameters.select(model), settings)
    assert found.best_step == 1
    with at_weights(model, found.weights):
        return logits(model, evaluated)


def scale_of(row, optimizer):
    """Where transformers computes in float32 inside, differences carry 1e-7: larger steps stand out of it."""
    eta = 3e-5 if optimizer == "sgd" else 1e-6
    return eta * (1 if row.tolerance < 1e-9 else 10 if optimizer == "sgd" else 300)


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("optimizer", "loss", "outputs", "count"),
    [
        ("sgd", "cross-entropy", 3, 1),
        ("sgd", "cross-entropy", 1, 1),
        ("sgd", "squared", 3, 1),
        ("sgd", "squared", 1, 1),
        ("sgd", "cross-entropy", 3, 3),
        ("sgd", "squared", 1, 3),
        ("signgd", "cross-entropy", 1, 1),
        ("signgd", "squared", 1, 1),
    ],
)
@pytest.mark.parametrize("name", MODELS)
def test_one_step_moves_the_logits_as_the_kernel_says(name, optimizer, loss, outputs, count):
    """One step: df = -eta/n sum_i chi_i K_sgd(x_i, .); of SignGD at batch 1 -eta sign(chi) K_asigngd. The error falls like eta squared."""
    row = TABLE[name]
    train, evaluated = random_texts(row, [6, 4, 7][:count], 1), random_texts(row, [5, 8], 2)
    labels = torch.tensor([1, 0, 1][:count])
    model = row.model(outputs)
    tangent = kernels(model, row, train, evaluated)["sgd" if optimizer == "sgd" else "asigngd"]
    chi = chi_of(loss, logits(model, train), labels)
    chi = chi / count if optimizer == "sgd" else chi.sign()
    before, errors = logits(model, evaluated), []
    for eta in (scale_of(row, optimizer), scale_of(row, optimizer) / 2):
        settings = still(optimizer=optimizer, loss=loss, learning_rate=eta, batch_size=count, steps=1)
        after = after_one_step(model, row, train, labels.tolist(), evaluated, settings)
        predicted = -eta * torch.einsum("nc,ncmd->md", chi, tangent)
        errors.append(float((after - before - predicted).norm()))
        assert errors[-1] < 0.05 * float(predicted.norm())
    assert 3.0 < errors[0] / errors[1] < 5.0


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_the_first_step_of_adam_is_that_of_signgd(name):
    row = TABLE[name]
    model, eta = row.model(1), 1e-3
    train = random_texts(row, [6], 1)
    parameters = row.parameters.select(model)
    loss = mean_loss("cross-entropy", model(collate(train, pad_id(model))), torch.tensor([1]))
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    labelled, moved = Labelled(train, [1]), {}
    data = TrainingData(labelled, labelled, pad_id(model))
    for optimizer in ("adamw", "signgd"):
        found = fine_tune(
            model, data, parameters, still(optimizer=optimizer, learning_rate=eta, batch_size=1, steps=1)
        )
        moved[optimizer] = {key: found.weights[key] - parameters[key].detach() for key in parameters}
    for key, gradient in zip(parameters, gradients, strict=True):
        g = torch.zeros_like(parameters[key]) if gradient is None else gradient
        torch.testing.assert_close(moved["signgd"][key], -eta * g.sign(), rtol=0, atol=1e-15)
        torch.testing.assert_close(moved["adamw"][key], -eta * g / (g.abs() + 1e-8), rtol=0, atol=1e-12)


def written_out(model, row, texts, labels, settings):
    """A loop without the Trainer: the order of batches is the only thing it shares with ours."""
    parameters = list(row.parameters.select(model).values())
    optimizer = {"sgd": torch.optim.SGD, "adamw": partial(torch.optim.AdamW, weight_decay=0.0)}[
        settings.optimizer
    ](parameters, lr=settings.learning_rate)
    for step, chosen in enumerate(
        batch_order(len(texts), settings.batch_size, settings.steps, settings.seed)
    ):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * (1 - step / settings.steps)
        optimizer.zero_grad()
        found = model(collate([texts[i] for i in chosen], pad_id(model)))
        truth = torch.tensor([labels[i] for i in chosen])
        if found.shape[1] == 1:
            loss = nn.functional.cross_entropy(torch.cat([torch.zeros_like(found), found], 1), truth)
        else:
            loss = nn.functional.cross_entropy(found, truth)
        loss.backward()
        norm = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]).norm()
        for p in parameters:
            if p.grad is not None and norm > settings.max_grad_norm:
                p.grad *= settings.max_grad_norm / (norm + 1e-6)
        optimizer.step()
    return logits(model, texts)


@pytest.mark.parametrize(
    "name", ["bert", "gpt2", "llama", "t5", "bert-classifier", "gpt2-lora", "bert-biases"]
)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_trainer_does_what_a_loop_written_out_does(name, optimizer):
    row = TABLE[name]
    texts, labels = random_texts(row, [6, 3, 8, 5, 4], 1), [1, 0, 1, 0, 0]
    settings = TrainingSettings(
        optimizer, 3e-2, batch_size=2, steps=9, eval_every=9, max_grad_norm=0.5, dropout=False, seed=5
    )
    for outputs in (1, 2):
        model, labelled = row.model(outputs), Labelled(texts, labels)
        data = TrainingData(labelled, labelled, pad_id(model))
        found = fine_tune(model, data, row.parameters.select(model), settings)
        with at_weights(model, found.weights):
            ours = logits(model, texts)
        assert float((ours - logits(model, texts)).abs().max()) > 1e-3
        expected = written_out(model, row, texts, labels, settings)
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-10 if row.tolerance < 1e-9 else 1e-6)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", ["bert", "gpt2", "albert", "gpt2-lora", "bert-head-mode"])
@pytest.mark.parametrize("outputs", [1, 3])
def test_training_of_the_linearized_model_is_gradient_descent_on_the_kernel(name, outputs):
    """Each step: f <- f - eta/n K (f_train - y), all texts in every step, for the squared loss."""
    row = TABLE[name]
    model = row.model(outputs)
    train, evaluated, labels = (
        random_texts(row, [6, 3, 8, 5], 1),
        random_texts(row, [5, 4, 7], 2),
        [1, 0, 1, 0],
    )
    rate, steps, seen = 1e-2, 6, {}
    settings = still(loss="squared", learning_rate=rate, batch_size=4, steps=steps, eval_every=1)
    data = TrainingData(Labelled(train, labels), Labelled(evaluated, [0, 1, 0]), pad_id(model))
    found = fine_tune_linearized(
        model, data, row.parameters.select(model), settings,
        on_evaluation=lambda step, linearized: seen.update({step: logits_of(linearized, evaluated, pad_id(model), 1)}),
    )  # fmt: skip
    to_train, to_eval = kernels(model, row, train, train)["sgd"], kernels(model, row, train, evaluated)["sgd"]
    f, g = logits(model, train), logits(model, evaluated)
    for step in range(steps + 1):
        torch.testing.assert_close(seen[step], g, rtol=0, atol=1e-8)
        chi = chi_of("squared", f, labels)
        f, g = (
            values - rate / 4 * torch.einsum("nc,ncmd->md", chi, kernel)
            for values, kernel in ((f, to_train), (g, to_eval))
        )
    assert float((seen[steps] - seen[0]).abs().max()) > 1e-3
    assert found.status == "finished"


@pytest.mark.parametrize("outputs", [1, 2, 3])
def test_losses_are_what_their_table_says(outputs):
    torch.manual_seed(0)
    found = torch.randn(5, outputs, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 1, 0, 1])
    both = torch.cat([torch.zeros(5, 1), found], 1) if outputs == 1 else found
    torch.testing.assert_close(
        mean_loss("cross-entropy", found, labels), -both.log_softmax(1)[range(5), labels].mean()
    )
    y = (2.0 * labels - 1)[:, None] if outputs == 1 else torch.eye(outputs)[labels]
    torch.testing.assert_close(mean_loss("squared", found, labels), ((found - y) ** 2).sum() / 10)
    for loss in ("cross-entropy", "squared"):
        (gradient,) = torch.autograd.grad(5 * mean_loss(loss, found, labels), found)
        torch.testing.assert_close(chi_of(loss, found.detach(), labels), gradient)
