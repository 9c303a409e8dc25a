"""Solutions' directions and predictions in bounded memory: the same numbers in any number of rounds, and no more held than was said."""

from __future__ import annotations

import gc
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from typing import Any

import numpy as np
import pytest
import torch
from model_oracle import pad_id, random_texts
from model_table import TABLE

from lmntk.engine.batches import Capturer
from lmntk.engine.budget import Budget
from lmntk.engine.phases import MARGIN, Trial
from lmntk.errors import UserError
from lmntk.prediction import directions
from lmntk.prediction.directions import cut_directions, directions_of
from lmntk.prediction.limits import PassLimits
from lmntk.prediction.predictor import Predictor
from lmntk.prompts.encoding import EncodedText
from lmntk.solvers.linear_form import LinearForm
from lmntk.system.memory import peak_of, resident, return_freed
from lmntk.tangents.noise import noise_coordinates, silence
from lmntk.tangents.weighted_sum import weighted_sum

LINUX = pytest.mark.skipif(
    not os.path.exists("/proc/self/clear_refs"), reason="only Linux starts its count of memory anew"
)
TEXTS = [EncodedText((1 + i, 2, 8 - i), 0, None) for i in range(6)]


class Wide(torch.nn.Module):
    """Few layers and many weights, so that v is what memory goes to."""

    outputs = 3

    def __init__(self, width: int = 2048) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.middle, self.last = (
            torch.nn.Embedding(9, width),
            torch.nn.Linear(width, width),
            torch.nn.Linear(width, width),
        )
        self.head = torch.nn.Linear(width, self.outputs)

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        hidden = self.table(batch["input_ids"]) * batch["attention_mask"][..., None]
        found: torch.Tensor = self.head(torch.tanh(self.last(torch.tanh(self.middle(hidden)))).mean(1))
        return found


def capturer_of(model: Any, texts: Any = TEXTS, size: int = 4) -> Capturer:
    return Capturer(model, dict(model.named_parameters()), 0, texts, size)


def form(n: int, c: int, each_class: bool = True) -> LinearForm:
    return LinearForm(np.random.default_rng(0).normal(size=(n, c)), each_class)


@pytest.mark.parametrize("formula", ["sgd", "asigngd"])
@pytest.mark.parametrize("each_class", [False, True])
@pytest.mark.parametrize("drop_noise", [False, True])
def test_directions_in_any_number_of_rounds_are_sums_over_all_texts_at_once(formula, each_class, drop_noise):
    row = TABLE["bert"]
    model = row.model(3).float()
    texts, trainable = random_texts(row, [5, 4, 6, 3, 7], 0), row.parameters.select(model)
    capturer = Capturer(model, trainable, pad_id(model), texts, 2)
    solution = form(5, 3, each_class)
    batches = [
        (chosen, batch)
        for chosen in capturer.batches(texts)
        for batch in capturer.of_batch([texts[i] for i in chosen])
    ]
    masks = noise_coordinates([batch for _, batch in batches]) if drop_noise else {}
    assert bool(masks) == drop_noise  # the key biases
    expected = []
    for index in range(3 if each_class else 1):
        weights = torch.as_tensor(solution.coefficients) * (torch.arange(3) == index if each_class else 1)
        parts = [
            weighted_sum(silence(batch, masks), weights[chosen], trainable, formula == "asigngd")
            for chosen, batch in batches
        ]
        expected.append({name: sum(part.get(name, torch.zeros(1)) for part in parts) for name in parts[0]})
    for at_once in (None, 1, 2):
        found = directions_of(capturer, texts, solution, formula, drop_noise=drop_noise, at_once=at_once)
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            for name, values in other.items():
                torch.testing.assert_close(one[name].double(), values.double(), rtol=1e-6, atol=1e-6)


def held(formula: str, at_once: int) -> tuple[int, int, int]:
    """Returns what a process of its own holds before directions are summed, by how much it grows, and what was said of both."""
    torch.set_num_threads(1)
    return_freed()
    capturer = capturer_of(Wide())
    trial = capturer.try_out()
    cut = cut_directions(trial, capturer.trainable, 3, 4, Budget(2**40), formula == "asigngd")
    while cut.at_once > at_once:
        cut = cut_directions(trial, capturer.trainable, 3, 4, Budget(cut.peak - 1), formula == "asigngd")
    before = resident()
    grown, _ = peak_of(lambda: directions_of(capturer, TEXTS, form(6, 3), formula, at_once=cut.at_once))
    assert grown >= 0.5 * (cut.peak - trial.resident - MARGIN)  # what is said is not far above it either
    return before, grown, cut.peak


@LINUX
@pytest.mark.parametrize(
    ("formula", "at_once"),
    [
        ("sgd", 1),
        ("asigngd", 3),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("sgd", 3), ("asigngd", 1))),
    ],
)
def test_no_more_is_held_than_is_said(formula, at_once):
    """In a process of its own: what other tests have left to this one's allocator comes and goes."""
    with ProcessPoolExecutor(1, get_context("spawn")) as alone:
        before, grown, said = alone.submit(held, formula, at_once).result()
    assert before + grown <= said


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_a_round_holds_no_more_sums_than_it_makes_at_once(at_once, monkeypatch):
    """Sums in float64 are counted, not bytes: what a process holds moves by more than one of them."""
    capturer, most, add = capturer_of(Wide(8)), [], directions.add_weighted_sum

    def counted(*arguments):
        add(*arguments)
        gc.collect()
        doubles = [
            one for one in gc.get_objects() if type(one) is torch.Tensor and one.dtype == torch.float64
        ]
        shape = capturer.trainable["middle.weight"].shape
        most.append(len({one.untyped_storage().data_ptr() for one in doubles if one.shape == shape}))

    monkeypatch.setattr(directions, "add_weighted_sum", counted)
    directions_of(capturer, TEXTS, form(6, 3), "sgd", at_once=at_once)
    assert max(most) == 2 * at_once  # two layers are of that shape


def test_noise_is_found_without_keeping_factors(monkeypatch):
    """In one pass, and the texts once more in a second; no batch outlives the next."""
    capturer, alive = capturer_of(Wide(8)), []
    of_batch = Capturer.of_batch
    monkeypatch.setattr(
        Capturer, "of_batch", lambda self, texts: alive.append(len(texts)) or of_batch(self, texts)
    )
    directions_of(capturer, TEXTS, form(6, 3), "asigngd")
    assert alive == [4, 2, 4, 2]
    alive.clear()
    directions_of(capturer, TEXTS, form(6, 3), "sgd", at_once=2)
    assert alive == [4, 2, 4, 2]


def test_too_little_memory_for_a_direction_is_refused_with_the_least_that_works():
    trainable = {"w": torch.nn.Parameter(torch.zeros(2**20))}
    trial = Trial(
        tokens=40, longest=10, factors=2**20, largest=2**20, working=2**22, resident=2**28, outputs=2
    )
    with pytest.raises(
        UserError, match=r"too little for a solution's direction in float64; the least is (\d+)MiB$"
    ) as caught:
        cut_directions(trial, trainable, 3, 32, Budget(2**28))
    least = int(str(caught.value).split()[-1].removesuffix("MiB")) * 2**20
    assert (
        cut_directions(trial, trainable, 3, 32, Budget(least)).at_once,
        cut_directions(trial, trainable, 3, 32, Budget(least)).batch_size,
    ) == (1, 1)
    with pytest.raises(UserError):
        cut_directions(trial, trainable, 3, 32, Budget(least - 2**21))
    assert cut_directions(trial, trainable, 3, 32, Budget(2**40)).at_once == 3


@LINUX
def test_predictions_in_little_memory_are_the_same():
    model: Any = Wide(256)
    direction = {name: torch.randn_like(parameter) for name, parameter in model.named_parameters()}
    texts = [EncodedText(tuple(1 + (i + j) % 8 for j in range(400)), 0, None) for i in range(24)]
    free = Predictor(model, [direction], 0, limits=PassLimits(batch_size=24))
    expected, _ = free.evaluate(texts)
    assert free.texts_at_once(texts) == 24
    tight = Predictor(model, [direction], 0, limits=PassLimits(batch_size=24, memory=2**40))
    with torch.no_grad():
        assert tight.texts_at_once(texts) == 24
        assert tight.token_bytes is not None
        tight.token_bytes = max(tight.token_bytes, 2**14)
        memory = int(resident() + MARGIN + 4.5 * 400 * tight.token_bytes)
        tight.limits = replace(tight.limits, memory=memory)
        assert tight.texts_at_once(texts) in (1, 3)
    np.testing.assert_allclose(tight.evaluate(texts)[0], expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match=r"is too little for one text and v; the least is \d+MiB"):
        Predictor(model, [direction], 0, limits=PassLimits(memory=2**20)).evaluate(texts)


class Attending(torch.nn.Module):
    """Every token looks at every other, which takes memory by the square of the length."""

    outputs = 1

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head = torch.nn.Embedding(9, 16), torch.nn.Linear(16, 1)

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        hidden = self.table(batch["input_ids"])
        weights = torch.softmax(hidden @ hidden.transpose(1, 2), -1)
        found: torch.Tensor = self.head((weights @ hidden).mean(1))
        return found


@LINUX
def test_longer_texts_that_come_later_stay_within_the_memory():
    """A window of short texts says nothing of what long ones take; two long ones say nothing new."""
    return_freed()
    model: Any = Attending()
    direction = {name: torch.randn_like(parameter) for name, parameter in model.named_parameters()}

    def window(length: int) -> list[EncodedText]:
        return [EncodedText(tuple(1 + (i + j) % 8 for j in range(length)), 0, None) for i in range(16)]

    expected, _ = Predictor(model, [direction], 0, limits=PassLimits(batch_size=2)).evaluate(window(1500))
    bounded = Predictor(
        model, [direction], 0, limits=PassLimits(batch_size=16, memory=resident() + MARGIN + 400 * 2**20)
    )
    bounded.evaluate(window(50))
    with torch.no_grad():
        assert bounded.texts_at_once(window(50)) == 16
        for _ in range(2):
            assert 1 <= bounded.texts_at_once(window(1500)) < 16
        assert bounded.looked_at == 1500
        known = bounded.token_bytes
        bounded.texts_at_once(window(700))  # what is known of longer texts is enough
        assert bounded.token_bytes == known
    before = resident()
    grown, found = peak_of(lambda: bounded.evaluate(window(1500))[0])
    assert bounded.limits.memory is not None
    assert before + grown <= bounded.limits.memory
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_global_setting_changes_no_prediction():
    """``set_float32_matmul_precision`` of some other library lets float32 products round, on some processors too."""
    model: Any = Wide(256)
    torch.manual_seed(1)
    direction = {name: torch.randn_like(parameter) for name, parameter in model.named_parameters()}
    seen = []
    before = torch.get_float32_matmul_precision()
    for setting in ("highest", "medium"):
        torch.set_float32_matmul_precision(setting)
        inside: list[str] = []
        hook = model.middle.register_forward_hook(
            lambda *_, inside=inside: inside.append(torch.backends.mkldnn.matmul.fp32_precision)
        )
        try:
            seen.append(Predictor(model, [direction], 0).evaluate(TEXTS)[0])
            assert torch.get_float32_matmul_precision() == setting
        finally:
            torch.set_float32_matmul_precision(before)
            hook.remove()
        assert set(inside) == {"ieee"}
    np.testing.assert_array_equal(*seen)
