"""The regime and the forecast by hand: with numbers that tell norms, signs, weights and kinds of deviation apart."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from toys import Mlp, clusters

from lmntk.diagnosis.diagnosis import diagnose
from lmntk.diagnosis.examples import logits_of
from lmntk.diagnosis.forecast import NOT_CONVERGED, forecast_of
from lmntk.diagnosis.over_splits import over_splits, sentences
from lmntk.diagnosis.regime import DEV, EMULATED, LINEARIZED, TEST, regime_of
from lmntk.diagnosis.subject import FineTuning, LabelledExamples
from lmntk.diagnosis.uncertainty import error_over_splits
from lmntk.engine.compute import module_kernels
from lmntk.models.weights import at_weights
from lmntk.solvers.emulated_training import Training

TRUTH = [0, 1] * 50


def predicted(right, truth=TRUTH):
    """Classes of which the first ``right`` are so."""
    return [label if place < right else 1 - label for place, label in enumerate(truth)]


def split(
    kernel=80, fine_tuned=75, emulated=None, method="sgd fine-tuning", emulation=None, seed=13, **numbers
):
    """A split's record; accuracies in per cent of its hundred texts."""
    right = {"zero_shot": 50, "kernel": kernel, "fine_tuned": fine_tuned, "linearized": fine_tuned}
    right |= {} if emulated is None else {"emulated": emulated}
    known = {name: None if count is None else count / 100 for name, count in right.items()}
    tests = [{"name": "solves", "value": 1.88, "threshold": 0.9, "passed": True, "sentence": "s"}]
    return {
        "task": "films", "k": 4, "mode": "prompt", "metric": "accuracy", "method": method, "seed": seed, "formula": "sgd",
        "verdict": "kernel-like", "reason": "r", "tests": tests, "numbers": known | {"kernel_distance": 0.1} | numbers,
        "predictions": {name: None if count is None else predicted(count) for name, count in right.items()},
        "logits": {"labels": TRUTH}, "emulation": emulation,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (0.0, "holds"),
        (0.1, "holds"),
        (0.1000001, "rough"),
        (0.3, "rough"),
        (0.3000001, "leaves the kernel"),
        (7.0, "leaves the kernel"),
        (float("nan"), None),
        (None, None),
    ],
)
@pytest.mark.parametrize("method", ["sgd fine-tuning", "adamw fine-tuning"])
def test_words_at_their_edges(error, word, method):
    assert regime_of([split(method=method, logit_error=error)]).word == word


UNBOUNDED = {"emulated": [[[0.5]], [[None]]], "error": None, "move_error": None}
STILL = {"emulated": [[[0.5]], [[0.5]]], "error": None, "move_error": None}


@pytest.mark.parametrize(
    ("record", "error", "whose", "over"),
    [
        # what is recorded now: over the test texts
        ({"emulation_test_error": 0.2, "emulation_move_error": 0.5, "logit_error": 0.04}, 0.2, EMULATED, TEST),
        ({"emulation_test_error": None, "emulation_move_error": 0.5, "logit_error": 0.04}, np.inf, EMULATED, TEST),
        ({"emulation_test_error": None, "emulation_move_error": None, "logit_error": None}, None, "", ""),
        # what was recorded before
        ({"emulation_move_error": 0.5, "logit_error": 0.04}, 0.5, EMULATED, DEV),
        ({"emulation_move_error": None, "logit_error": 0.04, "emulation": UNBOUNDED}, np.inf, EMULATED, DEV),
        ({"emulation_move_error": None, "logit_error": 0.04, "emulation": STILL}, 0.04, LINEARIZED, TEST),
        ({"logit_error": 0.04}, 0.04, LINEARIZED, TEST),
        ({}, None, "", ""),
        # whose training nothing emulates, though one of SignGD may have had an emulation
        ({"emulation_move_error": 0.5, "logit_error": 0.04, "method": "signgd fine-tuning"}, 0.04, LINEARIZED, TEST),
        ({"emulation_move_error": None, "logit_error": 0.6, "method": "adamw fine-tuning"}, 0.6, LINEARIZED, TEST),
        ({"logit_error": 0.6, "method": "given fine-tuning (a/b, 01)"}, 0.6, LINEARIZED, TEST),
        # nothing ended
        ({"logit_error": 0.6, "fine_tuned": None}, None, "", ""),
    ],
)  # fmt: skip
def test_whose_error_it_is_and_over_which_texts(record, error, whose, over):
    found = regime_of([split(**record)])
    assert (found.error, found.whose, found.over) == (error, whose, over)
    assert (whose or "no logits") in found.sentence and over in found.about
    assert (found.as_dict()["error"] is None) == (error in (None, np.inf))
    assert found.as_dict()["regime"] == ("leaves the kernel" if error == np.inf else found.word)


def test_over_splits_it_is_the_mean_with_its_standard_error():
    """0.06, 0.09 and 0.18: their mean 0.11 is rough, their median is not; the sample deviation is 0.06245, the population's 0.05099."""
    errors = (0.06, 0.09, 0.18)
    found = regime_of([split(emulation_test_error=error) for error in errors])
    assert (found.error, found.splits, found.word) == (pytest.approx(0.11), 3, "rough")
    assert found.deviation == pytest.approx(0.0624500 / 3**0.5, rel=1e-5)
    assert found.phrase == "the kernel regime is rough, e = 0.110 ± 0.036"
    assert "mean over 3 splits" in found.about
    some = [split(emulation_test_error=error) for error in errors]
    diverged = split(fine_tuned=None, emulation_test_error=None, logit_error=None)
    assert regime_of([*some, diverged]) == found
    old = split(emulation_move_error=0.3)  # of before, beside three that are new
    mixed = regime_of([*some, old])
    assert mixed.over == f"{TEST} and {DEV}" and mixed.error == pytest.approx(0.1575)
    unbounded = regime_of([*some, split(emulation_test_error=None, logit_error=0.1)])
    assert unbounded.phrase == "training leaves the kernel, e = without bound" and unbounded.deviation is None


@pytest.mark.parametrize(
    ("kernel", "fine_tuned", "points", "side", "said"),
    [
        (69, 37, 32.0, "above", NOT_CONVERGED),
        (37, 69, -32.0, "below", "fine-tuning did better than its kernel"),
        (70, 75, -5.0, "below", "fine-tuning did better than its kernel"),
        (75, 73, 2.0, "within", "within twice the error"),
        (75, 75, 0.0, "within", "+0.0 ± "),
    ],
)
def test_the_miss_is_two_sided(kernel, fine_tuned, points, side, said):
    found = forecast_of([split(kernel, fine_tuned, emulated=fine_tuned - 1)])
    assert (found.kernel.points, found.kernel.side) == (pytest.approx(points), side)
    assert found.emulator.points == pytest.approx(-1.0)
    assert found.overshoots == (side == "above") and said in found.sentence
    assert (NOT_CONVERGED in found.sentence) == (side == "above")
    assert (
        f"the sgd kernel's accuracy of {kernel}.0 % missed fine-tuning's {fine_tuned}.0 % by"
        in found.sentence
    )


def test_the_error_of_one_split_is_that_of_paired_texts():
    """Of 100 texts the kernel alone is right on 5; two texts more are spread over the four cases. Unpaired it were 5.9 points."""
    found = forecast_of([split(kernel=80, fine_tuned=75)]).kernel
    assert found.error == pytest.approx(100 * ((6 / 102 - (5 / 102) ** 2) / 102) ** 0.5)
    assert found.figure == "+5.0 ± 2.4"


@pytest.mark.parametrize(("error", "side"), [(0.0099, "above"), (0.0101, "within")])
def test_twice_the_error_is_the_edge(monkeypatch, error, side):
    monkeypatch.setattr("lmntk.diagnosis.forecast.standard_error", lambda *_: error)
    found = forecast_of([split(kernel=77, fine_tuned=75)])
    assert found.kernel.side == side and found.overshoots == (side == "above")
    assert (NOT_CONVERGED in found.sentence) == (side == "above")


def test_over_splits_the_miss_has_the_error_of_splits_and_texts():
    """Misses of 10, 14 and 30 points: mean 18, sample deviation 10.583 (the population's 8.641)."""
    some = [split(kernel, tuned) for kernel, tuned in ((70, 60), (80, 66), (90, 60))]
    found = forecast_of(some)
    parts = [[(1.0, predicted(k)), (-1.0, predicted(t))] for k, t in ((70, 60), (80, 66), (90, 60))]
    error = error_over_splits("accuracy", np.array([0.10, 0.14, 0.30]), [TRUTH] * 3, parts)
    assert found.kernel.points == pytest.approx(18.0) and found.kernel.error == pytest.approx(100 * error)
    assert found.kernel.error > 10.583 / 3**0.5
    assert found.sentence.startswith(
        "the sgd kernel's mean accuracy of 80.0 % missed fine-tuning's 62.0 % by +18.0 ± "
    )
    assert found.emulator is None and "emulator" not in found.sentence
    some[1]["predictions"]["emulated"], some[1]["numbers"]["emulated"] = predicted(66), 0.66
    assert forecast_of(some).emulator is None  # of one split alone
    some[1]["formula"] = "asigngd"
    assert forecast_of(some).kernel is None


@pytest.mark.parametrize("lacking", ["predictions", "logits"])
def test_without_the_texts_the_miss_has_no_error_and_training_is_not_blamed(lacking):
    found = forecast_of([split(kernel=80, fine_tuned=75) | {lacking: None}])
    assert found.kernel.error is None and found.kernel.figure == "+5.0" and found.overshoots
    assert NOT_CONVERGED not in found.sentence and "+5.0 points" in found.sentence


@pytest.mark.parametrize("record", [{"fine_tuned": None}, {"kernel": None}])
def test_what_is_not_there_is_not_forecast(record):
    found = forecast_of([split(**record)])
    assert found.kernel is None and not found.overshoots and found.sentence == ""
    assert forecast_of([{"task": "films"}]).sentence == "" and regime_of([{"task": "films"}]).word is None


def test_verdicts_and_their_lines_say_the_same():
    some = [split(69, 37, emulated=38, emulation_test_error=0.04, seed=seed) for seed in (13, 21)]
    verdicts = over_splits(some, [], {})
    (verdict,), (line,) = verdicts["verdicts"], sentences(verdicts)
    regime, forecast = regime_of(some), forecast_of(some)
    assert verdict["regime"] == regime.as_dict() and verdict["forecast"] == forecast.as_dict()
    assert line.startswith(
        f"films, k = 4, prompt, sgd fine-tuning: **{regime.phrase}** ({regime.about}). The sgd kernel's"
    )
    assert forecast.sentence[1:] in line and f"The paper's three tests: {verdict['verdict']}: " in line


def test_e_of_sgd_is_that_of_the_test_texts_at_the_weights_reached():
    """Beside descent of the kernel by hand, three steps of six; AdamW at the same weights has the linearization's."""
    model = Mlp(16, 1)
    parts = {"train": clusters(8, 2, 1), "dev": clusters(6, 2, 2), "test": clusters(40, 2, 3)}
    examples, labels, inputs = ({side: part[i] for side, part in parts.items()} for i in range(3))
    rate, truth = 0.5, torch.tensor([float(label) for label in labels["train"]], dtype=torch.float64)
    tuned = copy.deepcopy(model)
    for _ in range(3):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            tuned({"x": inputs["train"]})[:, 0], truth
        )
        with torch.no_grad():
            for p, g in zip(
                tuned.parameters(), torch.autograd.grad(loss, list(tuned.parameters())), strict=True
            ):
                p -= rate * g
    weights = {name: p.detach() for name, p in tuned.named_parameters()}
    kernel = {
        side: module_kernels(model, [{"x": inputs["train"]}], [{"x": inputs[side]}], ["sgd"])
        .kernels["sgd"]
        .values[:, 0, :, 0]
        for side in ("train", "test")
    }
    start = logits_of(model, examples["test"])
    emulated, trained = start.copy(), logits_of(model, examples["train"])
    for _ in range(3):
        push = rate * (1 / (1 + np.exp(-trained[:, 0])) - truth.numpy()) / 8
        trained, emulated = (
            trained - (kernel["train"].T @ push)[:, None],
            emulated - (kernel["test"].T @ push)[:, None],
        )
    with at_weights(model, weights):
        real = logits_of(model, examples["test"])
    error = np.sqrt(((real - emulated) ** 2).sum() / ((real - start) ** 2).sum())
    found = {
        optimizer: diagnose(
            model,
            LabelledExamples(examples, labels),
            FineTuning(weights, training=Training(optimizer, rate, 6, decay="constant", best_step=3)),
        )
        for optimizer in ("sgd", "adamw")
    }
    assert found["sgd"].regime.error == pytest.approx(error, rel=1e-6) and error > 0.01
    assert (found["sgd"].regime.whose, found["sgd"].regime.over) == (EMULATED, TEST)
    right = ((emulated[:, 0] > 0) == np.array(labels["test"])).mean()
    assert found["sgd"].numbers["emulated"] == pytest.approx(right)
    assert found["sgd"].forecast.emulator.points == pytest.approx(
        100 * (right - found["sgd"].numbers["fine_tuned"])
    )
    adam = found["adamw"]
    assert adam.regime.whose == LINEARIZED and adam.regime.error == adam.numbers[
        "logit_error"
    ] != pytest.approx(error)
    assert adam.forecast.emulator is None
