"""A GPU's memory bounds solutions' directions and predictions as it bounds kernels: the GPU is pretended, the arithmetic is done."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from gpu_work import MEBI, PretendedGpu
from model_oracle import pad_id, random_texts
from model_table import TABLE
from tiny import films, write_model

from lmntk.engine import rates as calibration
from lmntk.engine.budget import Budget
from lmntk.engine.phases import GPU_MARGIN, MARGIN, Trial
from lmntk.errors import UserError
from lmntk.experiment.configuration import make_experiment
from lmntk.experiment.plan import plan
from lmntk.experiment.run import run
from lmntk.prediction.directions import cut_directions
from lmntk.prediction.limits import PassLimits
from lmntk.prediction.predictor import Predictor

# a million coordinates; 4 texts of 10 tokens
TRAINABLE = {"w": torch.nn.Parameter(torch.zeros(2**20))}
TRIAL = Trial(
    tokens=40, longest=10, factors=2**22, largest=2**22, working=2**24, resident=2**28, outputs=2, held=2**26
)


def test_directions_are_cut_to_the_gpu():
    """In the host's memory lies what is written; all else is on the GPU, where without one it would be in the host's."""
    everything = cut_directions(TRIAL, TRAINABLE, 3, 32, Budget(2**40, 2**40))
    assert (everything.batch_size, everything.at_once) == (32, 3)
    assert everything.peak == 2**28 + MARGIN + 3 * 4 * 2**20
    plain = cut_directions(replace(TRIAL, held=0), TRAINABLE, 3, 32, Budget(2**40))
    assert plain.gpu_peak == 0
    assert everything.gpu_peak - 2**26 - GPU_MARGIN == plain.peak - 2**28 - MARGIN
    last = everything
    while (last.batch_size, last.at_once) != (1, 1):
        found = cut_directions(TRIAL, TRAINABLE, 3, 32, Budget(2**40, last.gpu_peak - 1))
        assert found.gpu_peak < last.gpu_peak
        assert (found.at_once, found.batch_size) < (last.at_once, last.batch_size)
        last = found
    with pytest.raises(
        UserError,
        match=r"^device-memory: .* is too little for a solution's direction in float64; the least is (\d+)MiB$",
    ) as caught:
        cut_directions(TRIAL, TRAINABLE, 3, 32, Budget(2**40, last.gpu_peak - 1))
    least = int(str(caught.value).split()[-1].removesuffix("MiB")) * MEBI
    assert last.gpu_peak <= least < last.gpu_peak + MEBI
    with pytest.raises(UserError, match=r"^memory: .* is too little for a solution's direction"):
        cut_directions(TRIAL, TRAINABLE, 3, 32, Budget(2**28, 2**40))


def predictor(**more):
    row = TABLE["bert"]
    model = row.model(2).float()
    torch.manual_seed(0)
    direction = {
        name: torch.randn_like(parameter) for name, parameter in row.parameters.select(model).items()
    }
    limits = PassLimits(8, **more)
    return Predictor(model, [direction], pad_id(model), limits=limits), random_texts(
        row, [5, 4, 6, 3, 7, 4, 5, 6, 8, 3], 0
    )


def test_predictions_are_cut_to_the_gpu_and_are_the_same(monkeypatch):
    """A GPU of which a pass of two texts of 8 tokens takes 16 MiB, and on which 20 MiB are held."""
    free, texts = predictor()
    expected, _ = free.evaluate(texts)
    sizes = []
    for allowed, size in ((None, 8), (20 + 96 + 64, 8), (20 + 96 + 63, 4), (20 + 96 + 8, 1)):
        budget = None if allowed is None else allowed * MEBI
        tight, _ = predictor(gpu=PretendedGpu(4000 * MEBI, 20 * MEBI, 16 * MEBI), device_memory=budget)
        expand = tight._expand
        sizes.clear()
        monkeypatch.setattr(
            tight,
            "_expand",
            lambda some, expand=expand: sizes.append(len(some)) or expand(some),
        )
        np.testing.assert_allclose(tight.evaluate(texts)[0], expected, rtol=1e-4, atol=1e-4)
        assert max(sizes[2:]) == size  # after what is looked at
    little, _ = predictor(
        gpu=PretendedGpu(4000 * MEBI, 20 * MEBI, 16 * MEBI), device_memory=(20 + 96 + 7) * MEBI
    )
    with pytest.raises(
        UserError, match=r"^device-memory: 123 MiB is too little for one text and v; the least is 124MiB$"
    ):
        little.evaluate(texts)
    with pytest.raises(UserError, match=r"^memory: 1 MiB is too little for one text and v"):
        predictor(gpu=PretendedGpu(4000 * MEBI, 20 * MEBI, 16 * MEBI), memory=MEBI)[0].evaluate(texts)
    with pytest.raises(
        UserError, match="device-memory: cpu has no memory of its own; bound the process with --memory"
    ):
        predictor(device_memory=MEBI)


def test_a_full_gpu_is_one_line(monkeypatch):
    full, texts = predictor()
    monkeypatch.setattr(
        full, "_expand", lambda some: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory."))
    )
    with pytest.raises(
        UserError, match=r"device-memory: the GPU is full \(CUDA out of memory\.\).*with --device-memory"
    ):
        full.evaluate(texts)
    assert not full.by_two_backward_passes


def test_a_run_keeps_its_solutions_to_the_gpu(tmp_path, monkeypatch):
    """What fits is planned and done; what does not is refused before the kernels are computed."""
    monkeypatch.setattr(
        calibration,
        "measure_rates",
        lambda device: calibration.Rates(1e9, 1e9, 1e9, 1e9, 1e9, "some machine"),
    )
    for module in ("lmntk.engine.batches", "lmntk.prediction.predictor"):
        monkeypatch.setattr(
            f"{module}.memory_of", lambda device: PretendedGpu(4000 * MEBI, 20 * MEBI, 40 * MEBI)
        )
    asked: list[int | None] = []
    make = Predictor.__init__
    monkeypatch.setattr(
        Predictor, "__init__", lambda self, *a, **k: asked.append((k.get("limits") or a[4]).device_memory) or make(self, *a, **k)
    )  # fmt: skip
    write_model(tmp_path / "bert")
    own = films(tmp_path, 24, 10)
    values = {
        "model": str(tmp_path / "bert"),
        "own_tasks": [own],
        "k": [2],
        "seeds": [13],
        "save_models": True,
        "formulas": ["sgd"],
    }
    values |= {"out": tmp_path / "out", "device_memory": "300MiB"}
    ((_, planned),) = plan(make_experiment(values))
    assert 0 < planned.gpu_peak <= 300 * MEBI
    assert run(make_experiment(values))
    assert asked == [300 * MEBI]
    monkeypatch.setattr(
        "lmntk.experiment.steps.kernels.stream_kernels", lambda *a, **k: pytest.fail("computes kernels")
    )
    with pytest.raises(
        UserError,
        match=r"^device-memory: 125 MiB is too little for a solution's direction in float64; the least is \d+MiB",
    ):
        run(make_experiment(values | {"device_memory": "125MiB", "out": tmp_path / "other"}))
