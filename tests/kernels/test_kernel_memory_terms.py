"""The memory model's every term, added up by hand: each has digits of its own, so that one that is dropped or doubled is seen."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from test_kernel_plan import Deep, texts_of

from lmntk.engine.batches import Capturer
from lmntk.engine.budget import Budget
from lmntk.engine.kernel_phases import GpuMemory, KernelCut, KernelSizes, ProcessorMemory
from lmntk.engine.phases import (
    GPU_MARGIN,
    MARGIN,
    DirectionSizes,
    Trial,
    classifying_phases,
    direction_phases,
    result_bytes,
)
from lmntk.engine.schedule import make_schedule
from lmntk.engine.work_folder import WorkFolder
from lmntk.errors import UserError
from lmntk.kernels.gram import COPY_BYTES, TILE_BYTES
from lmntk.kernels.materialised import EXACT_FLOAT32_INTEGERS
from lmntk.tangents.factors import DenseFactors, OuterFactors, Tangents

MEBI = 2**20
RESIDENT, HELD, WEIGHTS = 10**12, 10**11, 10**9
TRIAL = Trial(
    tokens=10, longest=5, factors=1000, largest=300, working=700, resident=RESIDENT, outputs=3, held=HELD,
    checked=17, gpu_checked=19,
)  # fmt: skip
# a token's factors are 100 bytes, its passes 70; rows are 2 batches of 10 and 2 tokens, the widest tile 4 + 4 or 4 + 1 + 1
SIZES = KernelSizes(
    TRIAL, [[5, 3], [2]], [[4, 1, 1]], blocks=7, kernels=5, batch_size=2, weights=WEIGHTS, copies=2
)
RESULTS = 2 * 8 * 7 * 3**2
HOST = RESIDENT + MARGIN + RESULTS


@pytest.mark.parametrize(
    ("cut", "capturing", "contracting"),
    [
        # of rows, of the tile, of the longest batch's passes; without passes the copies without padding of rows and a batch
        (KernelCut("near", 2, 2), 1200 + 800 + 700, 1200 + 800 + 2 * 360 + 2 * 300),
        (KernelCut("disk", 2, 2), 0 + 800 + 700, 360 + 800 + 2 * 360 + 2 * 300),
        (KernelCut("near", 1, 2), 1000 + 500 + 350, 1000 + 500 + 0),
        (KernelCut("disk", 1, 2), 0 + 500 + 350, 300 + 500 + 0),
        (KernelCut("near", 2, 3), 1200 + 600 + 700, 1200 + 600 + 2 * 360 + 2 * 300),
    ],
)
def test_a_processors_phases(cut, capturing, contracting):
    fixed = HOST + 2 * 2 * TILE_BYTES + WEIGHTS  # of two workers one has the model that is there already
    phases = ProcessorMemory(SIZES).phases(cut)
    held = {name: (phase.host, phase.gpu) for name, phase in phases.items()}
    assert held == {
        "capturing": (fixed + 2 * capturing, 0),
        "contracting": (fixed + 2 * contracting, 0),
        "checking": (17, 0),
    }


def test_copies_without_padding_are_bounded():
    large = replace(TRIAL, largest=COPY_BYTES)
    few, many = (
        ProcessorMemory(replace(SIZES, trial=trial)).phases(KernelCut("near", 2, 2))
        for trial in (TRIAL, large)
    )
    assert many["contracting"].host - few["contracting"].host == 2 * (2 * COPY_BYTES - 2 * 360 - 2 * 300)


@pytest.mark.parametrize(
    ("cut", "pinned", "capturing", "contracting"),
    [
        (KernelCut("near", 2, 2, 64), 0, 1200 + 800, 1200 + 800 + 2 * 8 * 5 * 3 * 2 * 9),
        (KernelCut("host", 2, 2, 64), 2 * 1200, 800, 2 * 360 + 800 + 2 * 8 * 5 * 3 * 2 * 9),
        (KernelCut("disk", 2, 3, 64), 2 * 2 * 360, 600, 2 * 360 + 600 + 2 * 8 * 5 * 3 * 3 * 9),
        (
            KernelCut("near", 2, 1, 64),
            0,
            1200 + 400,
            1200 + 400 + 2 * 8 * 5 * 3 * 2 * 9,
        ),  # columns that are rows: two
    ],
)
def test_a_gpus_phases(cut, pinned, capturing, contracting):
    host, fixed = HOST + 2 * pinned, HELD + GPU_MARGIN
    phases = GpuMemory(SIZES).phases(cut)
    held = {name: (phase.host, phase.gpu) for name, phase in phases.items()}
    passes = 70 * 5 * 2
    assert held == {
        "capturing": (host, fixed + capturing + passes),
        "contracting": (host, fixed + contracting + 4 * 64),
        "checking": (17, 19),
    }


def test_a_lower_precision_is_measured_on_texts_of_their_own():
    """The shortest and the longest row, in two precisions, and a batch's passes."""
    cut = KernelCut("near", 2, 2, loss_texts=2)
    measured = 2 * 1000 + 700
    host, gpu = ProcessorMemory(SIZES).phases(cut)["measuring"], GpuMemory(SIZES).phases(cut)["measuring"]
    assert (host.host, host.gpu) == (RESIDENT + MARGIN + 2 * TILE_BYTES + measured + 2 * 360 + 2 * 300, 0)
    assert (gpu.host, gpu.gpu) == (HOST, HELD + GPU_MARGIN + 4 * TILE_BYTES + measured)


@pytest.mark.parametrize(
    ("place", "keep", "bytes_"), [("near", True, 0), ("disk", False, 1200), ("disk", True, 1200 + 900)]
)
def test_factors_on_disk(place, keep, bytes_):
    assert ProcessorMemory(replace(SIZES, keep_factors=keep)).disk_bytes(KernelCut(place, 2, 2)) == bytes_


def test_results_are_of_each_kernel_and_of_each_groups_part():
    """Asigngd has two kernels, and a group's part of one."""
    assert result_bytes(7, 3, ["sgd", "asigngd"], 4) == 8 * (3 + 2 * 4) * 9 * 7


@pytest.mark.parametrize(
    ("signs", "at_once", "directions"),
    [(True, 2, 8 * 2 * 10**6 + 4 * 10**6), (False, 2, 8 * 2 * 10**6 + 4 * 10**6), (True, 3, 8 * 3 * 10**6)],
)
@pytest.mark.parametrize("on_gpu", [False, True])
def test_summing_directions(signs, at_once, directions, on_gpu):
    """A million coordinates of 4 bytes, three directions; the largest parameter has 10,000."""
    sizes = DirectionSizes(TRIAL, 10**6, 10**4, 4 * 10**6, count=3, signs=signs, on_gpu=on_gpu)
    part = (24 + (60 if signs else 0)) * 10**4 + 4 * 300
    summing = directions + part + 700
    (held,) = direction_phases(sizes, batch_size=2, at_once=at_once).values()
    host = RESIDENT + MARGIN
    expected = (host + 3 * 4 * 10**6, HELD + GPU_MARGIN + summing) if on_gpu else (host + summing, 0)
    assert (held.host, held.gpu) == expected


def test_classifying():
    for held, expected in ((None, (7 + MARGIN + 5, 0)), (11, (7 + MARGIN, 11 + GPU_MARGIN + 5))):
        (phase,) = classifying_phases(7, held, 5).values()
        assert (phase.host, phase.gpu) == expected


@pytest.mark.parametrize("apart", [False, True])
def test_a_trial_counts_a_parameters_factors_of_all_its_texts(apart):
    """Where a model does not keep texts apart each has tangents of its own."""
    model, texts = Deep(1), texts_of([2, 4, 3])
    capturer = Capturer(model, dict(model.named_parameters()), 0, texts, 4)

    def tangents(n):
        outer = OuterFactors(torch.ones(n, 4, 3), torch.ones(n, 2, 4, 3))  # 4 bytes of 12 and 24 numbers
        return Tangents(torch.zeros(n, 2), {"p": outer, "q": DenseFactors(torch.ones(n, 2, 3))})

    tried = [tangents(1) for _ in range(3)] if apart else [tangents(3)]
    with patch.object(Capturer, "_tried", lambda self, few: tried):
        trial = capturer.try_out()
    assert (trial.largest, trial.factors) == (3 * 4 * 36, 3 * 4 * (36 + 6))
    assert (trial.tokens, trial.longest, trial.outputs) == (3 * 4, 4, 2)
    assert trial.working >= trial.factors and trial.resident > 0


@pytest.mark.parametrize(("needed", "fits"), [(12, True), (15, True), (16, False)])
def test_what_is_on_the_disk_already_needs_no_room_again(tmp_path, monkeypatch, needed, fits):
    folder = WorkFolder(tmp_path, "0" * 16)
    factors = folder.folder / "factors"
    factors.mkdir(parents=True)
    for name, size in (("a-00000000.safetensors", 4), ("b-00000000.safetensors", 6), ("other.txt", 3)):
        with open(factors / name, "wb") as file:
            file.truncate(size * MEBI)
    usage = namedtuple("usage", "total used free")(100 * MEBI, 95 * MEBI, 5 * MEBI)
    monkeypatch.setattr("lmntk.engine.work_folder.shutil.disk_usage", lambda _: usage)
    if fits:
        folder.check_room(needed * MEBI)
    else:
        with pytest.raises(UserError, match=r"take about 16 MiB and .* has 5 MiB free"):
            folder.check_room(needed * MEBI)


def test_what_any_plan_asks_for_beside_the_work():
    """192 MiB for libraries and two buffers of 16 MiB; on a GPU 96 MiB, four buffers, and as much of them as half a GiB allows."""
    nothing = Trial(1, 1, 0, 0, 0, resident=0)
    sizes = KernelSizes(nothing, [[1]], [[1]], blocks=0, kernels=0)
    here, there = make_schedule(sizes, Budget(2**50)), make_schedule(sizes, Budget(2**50, 2**50))
    assert (here.peak, here.tile_bytes, here.gpu_peak) == ((192 + 2 * 16) * MEBI, 16 * MEBI, 0)
    assert (there.peak, there.tile_bytes, there.gpu_peak) == (192 * MEBI, 512 * MEBI, (96 + 4 * 512) * MEBI)
    tight = make_schedule(sizes, Budget(2**50, there.gpu_peak - 1))
    assert (tight.tile_bytes, tight.gpu_peak) == (256 * MEBI, (96 + 4 * 256) * MEBI)


def test_sums_of_signs_are_exact_in_float32_up_to_the_bound_and_not_beyond():
    bound = np.float32(EXACT_FLOAT32_INTEGERS)
    assert (bound - 1) + np.float32(1) == bound and bound + np.float32(1) == bound
