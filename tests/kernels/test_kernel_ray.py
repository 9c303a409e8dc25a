"""Real Ray on this machine: the same bits as here, whatever is killed on the way."""

from __future__ import annotations

import os
import platform
import signal
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from model_oracle import pad_id, random_texts
from model_table import TABLE
from torch import nn

from lmntk.engine import plan as planning
from lmntk.engine.kernel_work import KernelWork
from lmntk.engine.schedule import Schedule
from lmntk.engine.settings import Settings
from lmntk.engine.stream import stream_kernels
from lmntk.errors import UserError
from lmntk.system.executors.choose import chosen_executor
from lmntk.system.executors.local import Local
from lmntk.tangents.factors import sum_over_uses
from lmntk.tangents.rules import RULES, register_rule

ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'lmntk[ray]'")

from lmntk.system.executors.ray_cluster import RayCluster  # noqa: E402

FORMULAS = ["sgd", "signgd", "asigngd"]
PAIRS = [("a", "a"), ("a", "c"), ("b", "c")]


def work(name, executor, scratch=None, key="k" * 32, batch=2, keep=False):
    row = TABLE[name]
    model = row.model(2).float()
    lengths = {"a": [5, 4, 6], "b": [4, 4], "c": [3, 7, 5, 6, 4, 5, 5, 8]}
    texts = {group: random_texts(row, part, i) for i, (group, part) in enumerate(lengths.items())}
    with patch.object(
        planning, "make_schedule", lambda *a, **k: Schedule(batch, scratch is not None, 2, 0, 0)
    ):
        settings = Settings(scratch=scratch, executor=executor, keep_factors=keep)
        return stream_kernels(
            KernelWork(model, texts, PAIRS, FORMULAS, row.parameters.select(model), pad_id(model)),
            settings,
            key=key,
        )


def same_bits(one, other):
    kernels = all(
        torch.equal(one.kernels[p][n]["all"], other.kernels[p][n]["all"])
        for p in PAIRS
        for n in one.kernels[p]
    )
    return (
        kernels
        and one.noise == other.noise
        and all(torch.equal(one.logits[g], other.logits[g]) for g in "abc")
    )


SLOW = pytest.mark.slow  # every case starts two processes that load PyTorch and the model


@pytest.mark.parametrize(
    ("name", "on_disk"),
    [
        ("bert", False),
        pytest.param("deberta-shared-keys", True, marks=SLOW),
        pytest.param("bert", True, marks=SLOW),
        pytest.param("deberta-shared-keys", False, marks=SLOW),
        *(
            pytest.param(name, on_disk, marks=SLOW)
            for name in ("gpt2-lora", "t5")
            for on_disk in (False, True)
        ),
    ],
)
def test_the_same_bits_as_here(cluster, tmp_path, name, on_disk):
    here = work(name, Local(), tmp_path / "here" if on_disk else None)
    there = work(name, cluster, tmp_path / "there" if on_disk else None)
    assert same_bits(here, there)


@dataclass
class Dying:
    """A cluster whose workers die of tiles of some name, so many times, before they hand them back."""

    cluster: RayCluster
    name: str
    died: Path
    times: int

    def run(self, make_worker, jobs):
        return self.cluster.run(partial(self.mortal, make_worker), jobs)

    def mortal(self, make_worker):
        worker = make_worker()

        def make(job):
            tile = worker(job)
            if job.name.startswith(self.name) and len(list(self.died.iterdir())) < self.times:
                (self.died / str(os.getpid())).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return tile

        return make


def test_a_tile_that_kills_three_workers_ends_the_run_and_what_is_finished_is_kept(cluster, tmp_path):
    (tmp_path / "died").mkdir()
    here = work("bert", Local(), tmp_path / "here")
    line = r"^engine: 3 workers died, one after the other, of the job 'c-00000004-00000006': .*memory.*--workers.*what is finished is kept"
    with pytest.raises(UserError, match=line) as caught:
        work("bert", Dying(cluster, "c-00000004", tmp_path / "died", times=99), tmp_path / "there")
    assert "\n" not in str(caught.value)
    assert len(list((tmp_path / "died").iterdir())) == 3
    assert len(list((tmp_path / "there").rglob("tiles/*.safetensors"))) >= 2
    assert same_bits(work("bert", cluster, tmp_path / "there"), here)


@SLOW
def test_a_worker_killed_in_the_middle_of_a_run(cluster, tmp_path):
    here = work("bert", Local(), batch=1)
    there = work("bert", Dying(cluster, "c-00000002", tmp_path, times=2), batch=1)
    assert len(list(tmp_path.iterdir())) == 2
    assert same_bits(here, there)


@SLOW
def test_a_driver_that_goes_away_leaves_its_tiles(cluster, tmp_path):
    class Gone(Exception):  # noqa: N818
        pass

    class Leaving:
        def run(self, make_worker, jobs):
            for count, found in enumerate(cluster.run(make_worker, jobs)):
                if count == 2:
                    raise Gone
                yield found

    here = work("bert", Local(), tmp_path / "here")
    with pytest.raises(Gone):
        work("bert", Leaving(), tmp_path / "there")
    assert len(list((tmp_path / "there").rglob("tiles/*.safetensors"))) == 2
    asked = []

    class Counting:
        def run(self, make_worker, jobs):
            asked.extend(jobs)
            return cluster.run(make_worker, jobs)

    assert same_bits(work("bert", Counting(), tmp_path / "there"), here)
    assert len(asked) == 3  # of five


class Apart:
    """Workers whose disk the driver does not see: the same path is another folder there."""

    def __init__(self, cluster, disk, leave_after=None):
        self.cluster, self.disk, self.leave_after, self.seen = cluster, disk, leave_after, set()

    def run(self, make_worker, jobs):
        for count, found in enumerate(
            self.cluster.run(replace(make_worker, scratch=(self.disk, "k" * 32)), jobs)
        ):
            self.seen |= {path.parent.parent for path in self.disk.glob("*/factors/*")}
            if count == self.leave_after:
                raise LeftError
            yield found


class LeftError(Exception):
    pass


@pytest.mark.parametrize("leave_after", [None, pytest.param(1, marks=SLOW)])
def test_workers_on_a_disk_of_their_own_leave_nothing_there(cluster, tmp_path, leave_after):
    here = work("bert", Local(), tmp_path / "here")
    old = tmp_path / "disk" / f"worker-{platform.node()}-{2**22 + 1}"  # no process has that number
    (old / "factors").mkdir(parents=True)
    others = tmp_path / "disk" / "worker-elsewhere-1"
    others.mkdir()
    apart = Apart(cluster, tmp_path / "disk", leave_after)
    if leave_after is None:
        assert same_bits(work("bert", apart, tmp_path / "driver"), here)
    else:
        with pytest.raises(LeftError):
            work("bert", apart, tmp_path / "driver")
    assert apart.seen
    assert [path.name for path in (tmp_path / "disk").iterdir()] == [others.name]
    assert not list((tmp_path / "driver").rglob("factors/*"))


@SLOW
def test_factors_are_not_kept_where_nobody_finds_them(cluster, tmp_path):
    with pytest.raises(UserError, match="does not see the scratch folder; name one that all machines see"):
        work("bert", Apart(cluster, tmp_path / "disk"), tmp_path / "driver", keep=True)


class Gain(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(4))

    def forward(self, x):
        return x * self.gain


def test_rules_of_the_users_own_go_along(cluster):
    @register_rule(Gain)
    def gain(use):
        yield use.module.gain, sum_over_uses(use.output_gradients * use.inputs)

    class Known:
        def __init__(self):
            self.rules = dict(RULES)

        def __call__(self):
            return lambda job: any(kind.__name__ == "Gain" for kind in self.rules)

    assert [found for _, found in cluster.run(Known(), [1])] == [True]


def test_processes_of_a_machine_share_its_memory(cluster):
    assert cluster.sharing == 3  # two workers, and the driver
    settings = Settings(executor=cluster, memory=600)
    assert (settings.processes, settings.share) == (3, 200)
    assert Settings(memory=600).share == 600
    row = TABLE["bert"]
    model = row.model(2).float()
    texts = {group: random_texts(row, [5], 0) for group in "ab"}
    little = replace(settings, memory=9 * 2**20)
    line = r"^memory: 9 MiB for the 3 processes of a machine is too little for this; the least is \d+MiB.*, or give fewer --workers$"
    with pytest.raises(UserError, match=line):
        stream_kernels(
            KernelWork(model, texts, [("a", "b")], ["sgd"], row.parameters.select(model), pad_id(model)),
            little,
        )


def test_mistakes():
    with pytest.raises(UserError, match="the local engine has none; add --engine ray"):
        chosen_executor("local", "auto")
    with pytest.raises(UserError, match="'spark' is not one of local, ray"):
        chosen_executor("spark")
    with pytest.raises(
        UserError,
        match=r"^device: 'cuda:1' is of this machine, and a Ray worker takes the GPU that Ray gives it",
    ):
        chosen_executor("ray", devices=(torch.device("cuda:1"),), device="cuda:1")
    assert chosen_executor(
        "ray", devices=(torch.device("cuda:0"), torch.device("cuda:1")), device="cuda"
    ).takes_gpus
    assert not chosen_executor("ray", devices=(torch.device("cpu"),)).takes_gpus
