"""How work is cut: schedules fit the memory, use it, and are refused with the least that works."""

from __future__ import annotations

import os

import pytest
import torch
from resumable_work import KEY, work

from lmntk.engine.budget import Budget
from lmntk.engine.kernel_phases import KernelSizes
from lmntk.engine.phases import MARGIN, Trial
from lmntk.engine.schedule import Schedule, make_schedule
from lmntk.engine.work_folder import WorkFolder
from lmntk.errors import UserError
from lmntk.system.memory import peak_of, resident

TRIAL = Trial(
    tokens=400,
    longest=100,
    factors=400 * 2**20,
    largest=20 * 2**20,
    working=800 * 2**20,
    resident=500 * 2**20,
)


def schedule(memory, rows=32, columns=1000, **more):
    more = {"has_scratch": True} | more
    sizes = KernelSizes(TRIAL, [[100] * rows], [[100] * columns], 10_000, **more)
    return make_schedule(sizes, Budget(memory))


def test_schedules_fit_and_use_the_memory():
    last = None
    for gigabytes in (2, 3, 4, 8, 16, 64, 400):
        found = schedule(gigabytes * 2**30)
        assert found.peak <= gigabytes * 2**30
        assert found.chunk >= min(found.batch_size, 1000)
        if last is not None:
            assert (found.batch_size, not found.rows_on_disk) >= (
                last.batch_size,
                not last.rows_on_disk,
            ) or found.chunk > last.chunk
        last = found
    assert last == Schedule(32, False, 256, last.peak, 0)
    assert schedule(2 * 2**30).rows_on_disk
    assert schedule(2 * 2**30).disk == 32 * 100 * 2**20


def test_too_little_memory_is_refused_with_the_least_that_works():
    with pytest.raises(UserError, match=r"the least is (\d+)MiB$") as caught:
        schedule(2**30 // 2)
    least = int(str(caught.value).split()[-1].removesuffix("MiB"))
    assert schedule(least * 2**20).batch_size == 1
    with pytest.raises(UserError):
        schedule((least - 2) * 2**20)
    with pytest.raises(UserError, match="name a folder for what does not fit, with --scratch"):
        schedule(2**30, has_scratch=False)
    assert least * 2**20 > TRIAL.resident + MARGIN


def test_kept_factors_are_on_disk_whatever_the_memory():
    found = schedule(2**40, keep_factors=True)
    assert found.rows_on_disk
    assert found.disk == (32 + 1000) * 100 * 2**20
    with pytest.raises(UserError, match="no folder"):
        work(None, keep=True)


def test_a_disk_without_room_is_refused_at_the_start(tmp_path):
    with pytest.raises(
        UserError, match=r"the factors take about 1024\.0 TiB and .* free; name another folder with --scratch"
    ):
        WorkFolder(tmp_path, KEY).check_room(2**50)


@pytest.mark.skipif(
    not os.path.exists("/proc/self/clear_refs"), reason="only Linux starts its count of memory anew"
)
def test_what_a_body_takes_is_seen():
    size, _ = peak_of(lambda: torch.ones(64, 2**20).sum())
    assert 200 * 2**20 < size < 330 * 2**20
    size, kept = peak_of(lambda: torch.ones(2**20))
    assert size < 64 * 2**20
    assert resident() > 0
    assert len(kept) == 2**20
