"""The emulator against loops written by hand, against many tiny steps, and against real descent on linearized models."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from model_oracle import pad_id, random_texts
from model_table import TABLE
from toys import mean_loss

from lmntk.engine.kernel_work import KernelWork
from lmntk.engine.settings import Settings
from lmntk.engine.stream import stream_kernels, whole
from lmntk.errors import UserError
from lmntk.kernels.kernel import Kernel
from lmntk.prompts.batching import collate
from lmntk.solvers.emulated_training import Emulation, Training, emulate
from lmntk.solvers.emulator import (
    SquaredLossTraining,
    descend,
    emulated_logits,
    emulation_error,
    learning_rates,
    sign_descend,
)
from lmntk.tangents.linearized import LinearizedModel

N, M, P = 7, 4, 50


def problem(c, p=P):
    generator = np.random.default_rng(c)
    train, other = generator.normal(size=(N, c, p)), generator.normal(size=(M, c, p))
    labels = [i % max(c, 2) for i in range(N)]
    return train, other, labels, generator.normal(size=(N, c)), generator.normal(size=(M, c))


def gram(left, right):
    return np.einsum("ncp,mdp->ncmd", left, right)


def derivative(f, labels, loss):
    """By autograd, of the sum of the texts' own losses."""
    logits = torch.tensor(f, requires_grad=True)
    (found,) = torch.autograd.grad(len(labels) * mean_loss(logits, labels, loss), logits)
    return found.numpy()


def by_hand(train, other, labels, f0, g0, rates, loss, batches=None, clip=None):
    """Descent in the parameters themselves: theta moves by the gradients [n, c, p]."""
    theta, curve = np.zeros(train.shape[2]), [(f0, g0)]
    for step, rate in enumerate(rates):
        batch = list(range(N)) if batches is None else batches[step]
        f = f0 + train @ theta
        gradient = np.einsum(
            "nc,ncp->p", derivative(f[batch], [labels[i] for i in batch], loss) / len(batch), train[batch]
        )
        if clip is not None:
            gradient = gradient * min(1.0, clip / (np.linalg.norm(gradient) + 1e-6))
        theta = theta - rate * gradient
        curve.append((f0 + train @ theta, g0 + other @ theta))
    return curve


@pytest.mark.parametrize("c", [1, 2, 3])
@pytest.mark.parametrize("loss", ["squared", "cross-entropy"])
@pytest.mark.parametrize("decay", ["constant", "linear"])
@pytest.mark.parametrize("kind", ["full", "batches", "clipped"])
def test_descent_is_that_of_the_parameters(c, loss, decay, kind):
    train, other, labels, f0, g0 = problem(c)
    rates = learning_rates(0.05, 9, decay)
    batches = [[step % N, (step + 2) % N] for step in range(9)] if kind == "batches" else None
    clip = 0.7 if kind == "clipped" else None
    curve = by_hand(train, other, labels, f0, g0, rates, loss, batches, clip)
    found = descend(
        gram(train, train), labels, f0, rates, loss=loss, steps=[0, 3, 9], batches=batches, clip=clip
    )
    np.testing.assert_allclose(
        emulated_logits(found, gram(train, train), f0),
        [curve[s][0] for s in (0, 3, 9)],
        rtol=1e-10,
        atol=1e-10,
    )
    np.testing.assert_allclose(
        emulated_logits(found, gram(train, other), g0),
        [curve[s][1] for s in (0, 3, 9)],
        rtol=1e-10,
        atol=1e-10,
    )


@pytest.mark.parametrize("c", [1, 2, 3])
@pytest.mark.parametrize("p", [P, 4])  # 4: the kernel is singular
@pytest.mark.parametrize("decay", ["constant", "linear"])
def test_the_closed_form_is_descent(c, p, decay):
    train, other, labels, f0, g0 = problem(c, p)
    rates = learning_rates(0.05, 300, decay)
    closed = SquaredLossTraining.of_labels(gram(train, train), labels, f0)
    steps = [0, 1, 17, 300]
    curve = by_hand(train, other, labels, f0, g0, rates, "squared")
    found = emulated_logits(closed.descent_at(rates, steps), gram(train, other), g0)
    np.testing.assert_allclose(found, [curve[s][1] for s in steps], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(closed.descent(rates), closed.descent_at(rates, [300])[0])
    if decay == "constant":  # (1 - eta lambda)^s, as the formula has it
        left = (1 - 0.05 * closed.eigenvalues) ** 17
        fitted = emulated_logits(closed.descent(rates[:17]), gram(train, train), f0).ravel()
        targets = (f0 - (closed.vectors @ closed.residual).reshape(f0.shape)).ravel()
        np.testing.assert_allclose(fitted, targets + closed.vectors @ (left * closed.residual), atol=1e-9)


@pytest.mark.parametrize("p", [P, 4])
def test_gradient_flow_is_many_tiny_steps(p):
    train, other, labels, f0, g0 = problem(2, p)
    closed = SquaredLossTraining.of_labels(gram(train, train), labels, f0)
    coarse, fine = (
        emulated_logits(closed.descent(np.full(steps, 1.3 / steps)), gram(train, other), g0)
        for steps in (20_000, 40_000)
    )
    flow = emulated_logits(closed.flow(1.3), gram(train, other), g0)
    np.testing.assert_allclose(flow, 2 * fine - coarse, atol=1e-7)  # the error of a step is linear in it
    assert np.abs(closed.flow(0.0)).max() == 0


def test_gradient_flow_without_end_interpolates():
    train, other, labels, f0, g0 = problem(1)
    kernel = gram(train, train)
    closed = SquaredLossTraining.of_labels(kernel, labels, f0)
    targets = np.where(np.array(labels) == 1, 1.0, -1.0)[:, None]
    np.testing.assert_allclose(emulated_logits(closed.flow(np.inf), kernel, f0), targets, atol=1e-9)
    theta = np.linalg.lstsq(train[:, 0], (targets - f0)[:, 0], rcond=None)[0]  # the nearest solution
    np.testing.assert_allclose(
        emulated_logits(closed.flow(np.inf), gram(train, other), g0), g0 + other @ theta, atol=1e-9
    )


def test_sign_descent_is_that_of_the_parameters():
    train, other, labels, f0, g0 = problem(1)
    rates, order = learning_rates(0.01, 12, "linear"), [0, 3, 6, 2, 1, 5, 4, 0, 0, 2, 6, 1]
    theta = np.zeros(P)
    for rate, i in zip(rates, order, strict=True):
        gradient = derivative((f0 + train @ theta)[[i]], [labels[i]], "cross-entropy")[0, 0] * train[i, 0]
        theta = theta - rate * np.sign(gradient)
    found = sign_descend(gram(np.sign(train), train), labels, f0, rates, order)
    np.testing.assert_allclose(
        emulated_logits(found[0], gram(np.sign(train), other), g0), g0 + other @ theta, atol=1e-12
    )
    with pytest.raises(UserError, match="one logit and one text a step, not 2"):
        sign_descend(gram(*[problem(2)[0]] * 2), labels, np.zeros((N, 2)), rates, order)


ONE_A_STEP = ([2], [0], [2], [5])


@pytest.mark.parametrize(
    ("c", "training", "known"),
    [
        (1, Training("signgd", 0.1, 4, batches=ONE_A_STEP), True),
        (1, Training("signgd", 0.1, 4), False),  # in which order is not known
        (1, Training("signgd", 0.1, 4, batches=[[2, 1], *ONE_A_STEP[1:]]), False),
        (2, Training("signgd", 0.1, 4, batches=ONE_A_STEP), False),
        (2, Training("adamw", 0.1, 4, batches=ONE_A_STEP), False),
        (2, Training("sgd", 0.1, 4, batches=ONE_A_STEP), True),
        (2, Training("sgd", 0.1, 4, loss="squared"), True),
        (2, Training("sgd", 0.1, 4, loss="squared", clip=0.2), True),
        (2, Training("sgd", 0.1, 4, loss="squared", batches=ONE_A_STEP), True),
    ],
)
def test_a_training_is_emulated_where_its_kernel_describes_it(c, training, known):
    train, other, labels, f0, g0 = problem(c)
    kernels = {
        (side, formula): Kernel(formula, gram(sign(train), part))
        for side, part in (("train", train), ("dev", other))
        for formula, sign in (("sgd", np.array), ("asigngd", np.sign))
    }
    logits = {"train": f0, "dev": g0}
    found = emulate(training, kernels, labels, logits, [0, 2, 4])
    if not known:
        assert found is None
        return
    if training.optimizer == "sgd":
        rates = training.rates
        curve = by_hand(train, other, labels, f0, g0, rates, training.loss, training.batches, training.clip)
        expected = [curve[step][1] for step in (0, 2, 4)]
    else:
        order = [text for (text,) in ONE_A_STEP]
        steps = sign_descend(gram(np.sign(train), train), labels, f0, training.rates, order, steps=[0, 2, 4])
        expected = emulated_logits(steps, gram(np.sign(train), other), g0)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    lacking = {pair: kernel for pair, kernel in kernels.items() if pair[0] == "train"}
    assert emulate(training, lacking, labels, logits, [4]) is None


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5", "bert-head-mode", "gpt2-lora"])
@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("loss", ["squared", "cross-entropy"])
def test_real_descent_on_a_linearized_model(name, outputs, loss):
    row = TABLE[name]
    model = row.model(outputs)
    parameters = row.parameters.select(model)
    texts = {"train": random_texts(row, [5, 4, 6, 5, 3, 4], 1), "other": random_texts(row, [4, 6], 2)}
    labels = [i % max(outputs, 2) for i in range(6)]
    streamed = stream_kernels(
        KernelWork(
            model, texts, [("train", "train"), ("train", "other")], ["sgd"], parameters, pad_id(model)
        ),
        Settings(drop_noise=False),
    )
    kernels = {side: whole(streamed.kernels["train", side]["sgd"]).numpy() for side in texts}
    rate = 0.5 * 2 * 6 / float(np.linalg.eigvalsh(kernels["train"].reshape(6 * outputs, -1))[-1])
    linearized = LinearizedModel(model, {key: torch.zeros_like(p) for key, p in parameters.items()})
    optimizer = torch.optim.SGD(linearized.direction.parameters(), lr=rate)
    batch, other = (collate(part, pad_id(model)) for part in texts.values())
    for _ in range(4):
        optimizer.zero_grad()
        mean_loss(linearized(batch), labels, loss).backward()
        optimizer.step()
    with torch.no_grad():
        real = linearized(other).numpy()
    f0 = {side: value.numpy() for side, value in streamed.logits.items()}
    found = descend(kernels["train"], labels, f0["train"], np.full(4, rate), loss=loss)[0]
    tolerance = 1e-8 if row.tolerance < 1e-8 else 1e-5  # T5's norms are float32 inside
    np.testing.assert_allclose(
        emulated_logits(found, kernels["other"], f0["other"]), real, rtol=tolerance, atol=tolerance
    )
    assert np.abs(real - f0["other"]).max() > 1e-3


def test_a_rate_that_is_too_large_gives_numbers_without_bound_and_no_error():
    train, other, labels, f0, g0 = problem(1)
    closed = SquaredLossTraining.of_labels(gram(train, train), labels, f0)
    found = emulated_logits(closed.descent(np.full(2000, 50.0)), gram(train, other), g0)
    assert not np.isfinite(found).all()
    assert emulation_error(g0, found) == np.inf


def test_mistakes_are_said():
    train, _, labels, f0, _ = problem(1)
    kernel = gram(train, train)
    with pytest.raises(UserError, match="5 is not among 0 to 3"):
        descend(kernel, labels, f0, np.ones(3), steps=[5])
    with pytest.raises(UserError, match="1 batches for 3 steps"):
        descend(kernel, labels, f0, np.ones(3), batches=[[0]])
    with pytest.raises(UserError, match="before the start"):
        SquaredLossTraining.of_labels(kernel, labels, f0).flow(-1.0)
    with pytest.raises(UserError, match="not one of cross-entropy, squared"):
        descend(kernel, labels, f0, np.ones(3), loss="hinge")


def test_an_emulation_in_which_nothing_moves_is_not_flattered_by_how_far_apart_the_texts_are():
    f0 = np.array([[-50.0], [50.0]])
    real = np.stack([f0, f0 + 0.5, f0 + np.array([[0.6], [-0.8]])])
    still = Emulation.of((0, 1, 2), real, np.stack([f0] * 3))
    assert still.error < 0.01 and still.move_error == pytest.approx(1.0)
    half = Emulation.of((0, 1, 2), real, np.stack([f0, f0, f0 + np.array([[0.6], [-0.3]])]))
    assert half.move_error == pytest.approx(0.5) and half.as_dict(2)["move_error"] == half.move_error
    assert Emulation.of((0, 1, 2), real, real).move_error == 0
    assert Emulation.of((1, 2), real[1:], real[1:]).move_error is None
    assert np.isnan(Emulation.of((0, 1), np.stack([f0, f0]), np.stack([f0, f0])).move_error)
