"""Two budgets: a GPU that is only pretended, so that batches, tiles and the place of row factors follow, and kernels stay the same."""

from __future__ import annotations

import itertools
import shutil
import threading
from dataclasses import replace

import pytest
import torch
from gpu_work import FORMULAS, LENGTHS, MEBI, PAIRS, PretendedGpu, assert_same_bits, blocks, work
from model_oracle import pad_id, random_texts
from model_table import TABLE

from lmntk.engine import plan as planning
from lmntk.engine import tile_maker
from lmntk.engine.budget import Budget
from lmntk.engine.kernel_phases import BUFFERS, KernelSizes
from lmntk.engine.kernel_work import KernelWork
from lmntk.engine.phases import GPU_MARGIN, MARGIN, Trial
from lmntk.engine.schedule import Schedule, make_schedule
from lmntk.engine.settings import Settings
from lmntk.engine.transfers import Fetched, Transfers
from lmntk.errors import UserError
from lmntk.kernels.gram import GPU_TILE_BYTES, TILE_BYTES
from lmntk.system.device_memory import SHARE, gpu_budget, memory_of
from lmntk.system.executors.threads import Devices
from lmntk.system.memory import shown_bytes
from lmntk.tangents.factors import DenseFactors, OuterFactors, RowFactors, StackedFactors, Tangents

GIBI = 2**30
# 4 texts of 100 tokens: a mebibyte of factors a token, two of working memory; weights of 400 MiB, 500 of the process
TRIAL = Trial(
    tokens=400,
    longest=100,
    factors=400 * MEBI,
    largest=20 * MEBI,
    working=800 * MEBI,
    resident=500 * MEBI,
    held=400 * MEBI,
)


def schedule(gpu, memory=64 * GIBI, rows=32, columns=1000, trial=TRIAL, **more):
    more = {"has_scratch": True} | more
    sizes = KernelSizes(trial, [[100] * rows], [[100] * columns], rows * columns, **more)
    return make_schedule(sizes, Budget(memory, gpu))


def test_schedules_fit_and_use_the_gpu():
    """32 row texts take 3.1 GiB: on a large GPU they stay there, with larger tiles; on small ones they leave it, and batches shrink."""
    last = None
    for mebibytes in (1100, 1500, 2500, 5000, 8000, 16000, 40000, 80000):
        found = schedule(mebibytes * MEBI)
        assert found.gpu_peak <= mebibytes * MEBI
        assert found.peak <= 64 * GIBI
        assert not found.rows_on_disk
        if last is not None:
            assert found.rows_on_host <= last.rows_on_host
        if last is not None and found.rows_on_host == last.rows_on_host:
            assert (found.batch_size, found.chunk, found.tile_bytes) >= (
                last.batch_size,
                last.chunk,
                last.tile_bytes,
            )
        last = found
    assert (last.batch_size, last.chunk, last.tile_bytes, last.rows_on_host) == (
        32,
        256,
        GPU_TILE_BYTES,
        False,
    )
    small = schedule(1500 * MEBI)
    assert small.rows_on_host
    assert small.batch_size < 8
    assert small.tile_bytes < GPU_TILE_BYTES


@pytest.mark.parametrize("where", ["gpu", "host", "disk"])
def test_what_a_gpu_is_said_to_hold_is_the_sum_of_what_lies_on_it(where):
    memory = {"gpu": 64 * GIBI, "host": 64 * GIBI, "disk": 2 * GIBI}[where]
    found = schedule(12 * GIBI if where == "gpu" else 4 * GIBI, memory)
    assert (found.rows_on_host, found.rows_on_disk) == (where == "host", where == "disk")
    rows, one_parameter = 32 * 100 * MEBI, 32 * 100 * MEBI // 20
    tile = found.chunk * 100 * MEBI
    capturing = (rows if where == "gpu" else 0) + tile + found.batch_size * 100 * 2 * MEBI
    result = 2 * 8 * 32 * max(found.chunk, 32)
    contracting = (rows if where == "gpu" else 2 * one_parameter) + tile + BUFFERS * found.tile_bytes + result
    assert found.gpu_peak == 400 * MEBI + GPU_MARGIN + max(capturing, contracting)
    pinned = {"gpu": 0, "host": 2 * rows, "disk": 4 * one_parameter}[where]
    assert found.peak == 500 * MEBI + MARGIN + 2 * 8 * 32_000 + pinned
    assert found.disk == (rows if where == "disk" else 0)


def test_too_little_is_refused_with_the_least_that_works():
    with pytest.raises(
        UserError, match=r"^device-memory: 600 MiB is too little for this; the least is (\d+)MiB$"
    ) as caught:
        schedule(600 * MEBI)
    least = int(str(caught.value).split()[-1].removesuffix("MiB"))
    assert schedule(least * MEBI).batch_size == 1
    with pytest.raises(UserError, match="device-memory"):
        schedule((least - 2) * MEBI)
    with pytest.raises(UserError, match=r"^memory: 600 MiB is too little"):
        schedule(2 * GIBI, 600 * MEBI)
    assert schedule(12 * GIBI, keep_factors=True).rows_on_disk
    for gpu, memory in itertools.product(
        (1, 2, 4, 16), (1, 2, 4, 16)
    ):  # without a disk the GPU or the host holds them, or it is refused
        try:
            found = schedule(gpu * GIBI, memory * GIBI, has_scratch=False)
        except UserError:
            continue
        assert not found.rows_on_disk
        assert found.gpu_peak <= gpu * GIBI
        assert found.peak <= memory * GIBI


def test_every_gpu_has_row_factors_of_its_own_in_the_host():
    one, three = schedule(4 * GIBI), schedule(4 * GIBI, copies=3)
    assert one.rows_on_host
    assert three.rows_on_host
    assert three.peak - one.peak == 2 * 2 * 32 * 100 * MEBI
    assert three.gpu_peak == one.gpu_peak


def test_copies_on_a_processor_share_its_memory():
    trial = replace(TRIAL, held=0)

    def cut(memory, copies):
        sizes = KernelSizes(
            trial, [[100] * 32], [[100] * 1000], 32_000, weights=400 * MEBI, copies=copies, has_scratch=True
        )
        return make_schedule(sizes, Budget(memory))

    one, two = cut(400 * GIBI, 1), cut(400 * GIBI, 2)
    fixed = 500 * MEBI + MARGIN + 2 * 8 * 32_000
    assert two.peak - fixed - 400 * MEBI == 2 * (one.peak - fixed)


def test_budgets():
    gpu = PretendedGpu(1000, 200, 0)
    assert gpu_budget(gpu, None) == 200 + int(SHARE * 800)
    assert gpu_budget(gpu, 600) == 600
    with pytest.raises(
        UserError, match=r"device-memory: 4\.0 GiB, and the GPU has 1 MiB for this; give less"
    ):
        gpu_budget(gpu, 4 * GIBI)
    assert memory_of(torch.device("cpu")) is None


def pretended(mebibytes, grown=40):
    """A GPU with 20 MiB of weights, on which the four longest texts take 40 MiB more."""
    return PretendedGpu(mebibytes * MEBI, 20 * MEBI, grown * MEBI)


def test_a_small_gpu_cuts_batches_and_sends_rows_away_and_the_kernels_are_the_same(monkeypatch):
    """A GPU of 300 MiB, and of less: the plan follows, and so do the batches that are really made."""
    plain = work(dtype=torch.float64, batch_size=8)
    sizes, chunks = [], []
    of_batch, make = tile_maker.Capturer.of_batch, tile_maker.TileWorker.__call__
    monkeypatch.setattr(
        tile_maker.Capturer,
        "of_batch",
        lambda self, texts: sizes.append(len(texts)) or of_batch(self, texts),
    )
    monkeypatch.setattr(
        tile_maker.TileWorker,
        "__call__",
        lambda self, job: chunks.append(job.stop - job.start) or make(self, job),
    )
    largest = []
    for mebibytes, asked in ((4000, None), (300, None), (4000, "230"), (222, 222)):
        sizes.clear()
        chunks.clear()
        budget = None if asked is None else int(asked) * MEBI
        found = work(dtype=torch.float64, batch_size=8, gpu=pretended(mebibytes), device_memory=budget)
        cut = found.schedule
        assert 0 < cut.gpu_peak <= (budget or 20 * MEBI + int(SHARE * (mebibytes - 20) * MEBI))
        largest.append((max(sizes), cut.tile_bytes))
        assert max(sizes[1:]) <= max(cut.batch_size, 1)
        assert max(chunks) <= max(cut.chunk, 8)  # a column group that is a row group too comes whole
        for label, values in blocks(plain).items():
            torch.testing.assert_close(
                blocks(found)[label], values, rtol=1e-9, atol=1e-9 * float(values.abs().max())
            )
    assert largest[0][1] == GPU_TILE_BYTES
    assert largest[0] > largest[1] > largest[3]
    with pytest.raises(
        UserError, match=r"device-memory: \d+ MiB is too little for this; the least is \d+MiB"
    ):
        work(gpu=pretended(150))
    with pytest.raises(
        UserError, match="device-memory: cpu has no memory of its own; bound the process with --memory"
    ):
        work(device_memory=300 * MEBI)


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    "name", ["bert", "t5", "mixtral", "albert", "deberta-shared-keys", "bert-lora-at-start"]
)
@pytest.mark.parametrize("where", ["rows_on_host", "rows_on_disk"])
def test_row_factors_that_live_elsewhere_give_the_same_bits(tmp_path, monkeypatch, name, where):
    found = Schedule(3, where == "rows_on_disk", 4, 0, 0)
    monkeypatch.setattr(
        planning, "make_schedule", lambda *a, **k: found
    )  # a processor's: no GPU, nothing is fetched
    here = work(name, scratch=tmp_path / "here")
    away = replace(found, gpu_peak=1, **{where: True})
    monkeypatch.setattr(planning, "make_schedule", lambda *a, **k: away)
    started = []
    start = Transfers.start
    monkeypatch.setattr(
        Transfers, "start", lambda self, factors, name: started.append(name) or start(self, factors, name)
    )
    there = work(name, gpu=pretended(4000), scratch=tmp_path / "there")
    assert_same_bits(here, there)
    assert started
    shutil.rmtree(next((tmp_path / "there").rglob("tiles")))
    assert_same_bits(
        here, work(name, gpu=pretended(4000), scratch=tmp_path / "there")
    )  # factors that an earlier run left


def tangents():
    shared = torch.randn(3, 4, 5)
    outer = OuterFactors(shared, torch.randn(2, 3, 4, 6))
    factors = {
        "query": outer,
        "key": OuterFactors(shared, torch.randn(2, 3, 4, 6), True),
        "table": RowFactors(torch.tensor([[1, 2], [3, -1], [0, 1]]), torch.randn(2, 3, 2, 5)),
        "bias": DenseFactors(torch.randn(2, 3, 6), torch.rand(6)),
        "experts": StackedFactors((None, outer)),
    }
    return Tangents(torch.randn(3, 2), factors)


def test_parked_factors_come_back_whole_and_shared_ones_are_parked_once():
    original = tangents()
    parked = Transfers(torch.device("cpu")).parked(original)
    waiting = parked.factors.factors
    assert waiting["query"].inputs is waiting["key"].inputs
    assert waiting["query"].inputs is not original.factors["query"].inputs
    assert list(parked.factors) == list(original.factors)
    assert len(parked) == 3
    assert "nobody" not in parked.factors
    with pytest.raises(KeyError):
        parked.factors["nobody"]
    for name in [*original.factors, "bias", "query"]:  # in order, and out of it
        found, expected = parked.factors[name], original.factors[name]
        assert type(found) is type(expected)
        assert all(torch.equal(a, b) for a, b in zip(found.tensors(), expected.tensors(), strict=True))
    assert parked.factors["key"].transposed
    assert torch.equal(parked.factors["bias"].cancellation, original.factors["bias"].cancellation)


def test_the_next_parameter_is_on_its_way():
    original = tangents()

    class Counted(dict):
        def __getitem__(self, name):
            asked.append((name, threading.current_thread().name.startswith("lmntk-transfers")))
            return super().__getitem__(name)

    asked = []
    fetched = Fetched(Counted(original.factors), Transfers(torch.device("cpu")))
    for name in fetched:
        fetched[name]
    assert asked == [(name, True) for name in original.factors]  # each once, in another thread
    assert fetched._ahead is None


def test_an_error_on_the_way_is_raised_where_the_factors_are_asked_for():
    class Broken(dict):
        def __getitem__(self, name):
            if name == "key":
                raise OSError("the disk is gone")
            return super().__getitem__(name)

    fetched = Fetched(Broken(tangents().factors), Transfers(torch.device("cpu")))
    assert isinstance(fetched["query"], OuterFactors)
    with pytest.raises(OSError, match="the disk is gone"):
        fetched["key"]


def test_a_full_gpu_is_one_line_that_says_what_to_do(monkeypatch):
    class Full:
        def run(self, make_worker, jobs):
            yield 0, make_worker()(jobs[0])
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with pytest.raises(
        UserError, match=r"device-memory: the GPU is full \(CUDA out of memory.*with --device-memory"
    ):
        work(executor=Full())


def test_a_batch_that_was_expected_is_not_collated_again(monkeypatch):
    from lmntk.engine import batches as engine_batches

    collated = []
    collate = engine_batches.collate
    monkeypatch.setattr(
        engine_batches, "collate", lambda texts, pad: collated.append(len(texts)) or collate(texts, pad)
    )
    work(batch_size=4, formulas=["sgd"])
    trial = 5  # two texts alone and together, as the start-up check compares them, and the trial
    batches = [-(-count // 4) for count in (8, 3, 10)]
    assert len(collated) <= trial + sum(batches) + 1


def test_a_plan_says_what_the_gpu_will_hold(tmp_path):
    said = []
    found = work(gpu=pretended(300), announce=said.append, rates=tmp_path / "machine.json")
    assert said[0].gpu_peak == found.schedule.gpu_peak
    assert f" of memory at most, {shown_bytes(found.schedule.gpu_peak)} on the GPU, " in said[0].describe()
    assert "on each of 2 GPUs" in replace(said[0], copies=2).describe()


def test_a_run_that_goes_on_with_other_devices_is_cut_for_those(tmp_path):
    """One worker's cut says nothing of what two hold, nor a processor's of a GPU: more would be held than is allowed."""
    one = work(scratch=tmp_path)
    memory = one.schedule.peak + 3 * TILE_BYTES
    two = work(scratch=tmp_path, executor=Devices((torch.device("cpu"),) * 2), memory=memory + 64 * MEBI)
    assert (one.schedule.copies, two.schedule.copies) == (1, 2)
    assert one.schedule.peak < two.schedule.peak <= memory + 64 * MEBI
    assert work(scratch=tmp_path).schedule == two.schedule  # fewer hold less
    on_gpu = work(scratch=tmp_path, gpu=pretended(4000)).schedule
    assert on_gpu.gpu_peak > 0
    assert work(scratch=tmp_path, gpu=pretended(4000)).schedule == on_gpu
    assert work(scratch=tmp_path).schedule.gpu_peak == 0


def test_one_parameter_that_has_nearly_all_factors_leaves_them_on_the_gpu():
    """Elsewhere it would come in whole, and the next beside it, which takes more than all of them: no reason to refuse."""
    trial = replace(TRIAL, largest=380 * MEBI, working=8000 * MEBI)
    with pytest.raises(UserError, match=r"the least is (\d+)MiB$") as caught:
        schedule(3000 * MEBI, trial=trial)
    least = int(str(caught.value).split()[-1].removesuffix("MiB"))
    for mebibytes in (least, least + 200, least + 700, least + 1500, least + 3000):
        found = schedule(mebibytes * MEBI, trial=trial)
        assert found.gpu_peak <= mebibytes * MEBI


def test_every_gpu_is_asked_what_is_free(monkeypatch, tmp_path):
    """The fullest bounds the work; what others hold there is not ours, and the weights will come beside it."""
    gpus = {"meta": PretendedGpu(4000 * MEBI, 0, 0)}
    monkeypatch.setattr(planning, "memory_of", lambda device: gpus.get(device.type))
    both = Devices((torch.device("cpu"), torch.device("meta")))

    def planned(gpu, **more):
        row = TABLE["bert"]
        model = row.model(2).float()
        texts = {group: random_texts(row, part, place) for place, (group, part) in enumerate(LENGTHS.items())}
        settings = Settings(4, gpu=gpu, executor=both, rates=tmp_path / "machine.json", **more)
        return planning.plan_kernels(
            KernelWork(model, texts, PAIRS, FORMULAS, row.parameters.select(model), pad_id(model)), settings
        )

    equal = planned(pretended(4000)).gpu_peak
    gpus["meta"] = PretendedGpu(500 * MEBI, 100 * MEBI, 0)
    full = planned(pretended(4000)).gpu_peak
    assert 0 < full <= SHARE * 400 * MEBI < equal
    assert full == planned(pretended(20 + 400)).gpu_peak  # as when the first is so full
    with pytest.raises(
        UserError, match=r"device-memory: 600 MiB, and the GPU has 500 MiB for this; give less"
    ):
        planned(pretended(4000), device_memory=600 * MEBI)
    assert planned(pretended(4000), device_memory=400 * MEBI).gpu_peak <= 300 * MEBI


@pytest.mark.parametrize("asked", [None, 350])
def test_a_busier_gpu_goes_on_with_what_is_begun(tmp_path, monkeypatch, asked):
    """Less than the cut would be made for now, and enough for the cut that was made."""
    more = {"scratch": tmp_path, "batch_size": 8, "device_memory": None if asked is None else asked * MEBI}
    whole = work(gpu=pretended(400), **more)
    peak = whole.schedule.gpu_peak
    busier = PretendedGpu(peak + MEBI, 20 * MEBI, 40 * MEBI)
    assert peak > gpu_budget(busier, None)
    with monkeypatch.context() as patched:
        patched.setattr(tile_maker.TileWorker, "tile", lambda *a: pytest.fail("computed a tile"))
        again = work(gpu=busier, **more)
    assert again.schedule == whole.schedule
    assert_same_bits(again, whole)
    said = []
    fuller = PretendedGpu(peak - MEBI, 20 * MEBI, 40 * MEBI)
    more["device_memory"] = None if asked is None else 230 * MEBI
    assert work(gpu=fuller, note=said.append, **more).schedule.gpu_peak < peak
    assert "of a GPU's memory" in said[0]
