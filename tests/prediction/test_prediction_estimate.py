"""What a plan says of prediction in one pass: the training texts once more, and every test text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import films, write_model

from lmntk.engine import rates as calibration
from lmntk.experiment import shared_model
from lmntk.experiment.configuration import make_experiment
from lmntk.experiment.plan import plan
from lmntk.experiment.run import run
from lmntk.prediction import estimate as prediction
from lmntk.system.memory import resident
from lmntk.tangents.linearized import LinearizedModel


@pytest.fixture
def values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(
        calibration,
        "measure_rates",
        lambda device: calibration.Rates(1e9, 1e9, 1e9, 1e9, 1e9, "some machine"),
    )
    write_model(tmp_path / "bert")
    own = films(tmp_path, 40, 20)
    made = {
        "model": str(tmp_path / "bert"),
        "own_tasks": [own],
        "k": [8],
        "seeds": [13],
        "out": tmp_path / "out",
        "batch_size": 4,
    }
    return made | {"formulas": ["sgd"], "solvers": ["ridge"]}


def test_test_texts_are_planned_whichever_way_they_are_classified(values):
    ((_, by_kernel),) = plan(make_experiment(values))
    ((_, in_one_pass),) = plan(make_experiment(values | {"keep_kernels": False}))
    train, dev, test = 16, 16, 20
    assert (by_kernel.texts, by_kernel.pairs) == (train + dev + test, train * (train + dev + test))
    assert (in_one_pass.texts, in_one_pass.pairs) == (train + dev + test, train * (train + dev))
    assert in_one_pass.peak >= resident() / 2


def test_what_is_timed_is_what_is_done(values, monkeypatch):
    """A second a text and capture, and ten a text and pass: every one of them is in the plan."""
    clock = [0.0]
    of_batch, taylor = shared_model.Capturer.of_batch, LinearizedModel.taylor

    def ticking(seconds: float, what: Any, size: Any) -> Any:
        def called(self: Any, batch: Any) -> Any:
            clock[0] += seconds * size(batch)
            return what(self, batch)

        return called

    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    monkeypatch.setattr(shared_model.Capturer, "of_batch", ticking(1.0, of_batch, len))
    monkeypatch.setattr(
        LinearizedModel, "taylor", ticking(10.0, taylor, lambda batch: len(batch["input_ids"]))
    )
    values |= {"keep_kernels": False}
    ((_, planned),) = plan(make_experiment(values))
    clock[0] = 0.0
    run(make_experiment(values))
    assert planned.seconds == pytest.approx(
        clock[0], rel=0.35
    )  # trials are done and not planned; padding is counted by tokens
    assert planned.seconds > 200  # of which the test texts' passes are most


def test_saved_models_are_planned_too(values):
    ((_, plain),) = plan(make_experiment(values))
    ((_, saved),) = plan(make_experiment(values | {"save_models": True}))
    assert saved.texts == plain.texts
    assert saved.capture_operations > plain.capture_operations


@pytest.mark.parametrize("all_logits", [False, True])
def test_asymmetric_solutions_are_planned_with_a_direction_a_logit(values, monkeypatch, all_logits):
    """Whether one is saved depends on the setting that is chosen, which a plan does not know."""
    counts: list[int] = []
    cut = prediction.cut_directions
    monkeypatch.setattr(prediction, "cut_directions", lambda *a, **k: counts.append(a[2]) or cut(*a, **k))
    values |= {"formulas": ["asigngd"], "solvers": ["asym"], "all_logits": all_logits}
    ((_, plain),) = plan(make_experiment(values))
    ((_, saved),) = plan(make_experiment(values | {"save_models": True}))
    assert counts == [2 if all_logits else 1]
    assert saved.capture_operations > plain.capture_operations
