"""Real Ray on this machine: the same bits as here, whatever is killed on the way."""

from __future__ import annotations

import os
import platform
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from model_table import TABLE, pad_id, random_texts
from torch import nn

from lmntk.errors import ModelError, UserError
from lmntk.execution.local import Local, chosen_executor
from lmntk.kernels import streaming
from lmntk.kernels.schedule import Schedule
from lmntk.kernels.streaming import Settings, stream_kernels
from lmntk.tangents.factors import sum_over_uses
from lmntk.tangents.rules import RULES, register_rule

ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'lmntk[ray]'")

from lmntk.execution.ray_cluster import RayCluster  # noqa: E402

FORMULAS = ["sgd", "signgd", "asigngd"]
PAIRS = [("a", "a"), ("a", "c"), ("b", "c")]


@pytest.fixture(scope="module")
def cluster():
    """Two processors' worth of a cluster, for all tests of this file: starting one takes seconds."""
    places = [str(Path(__file__).parents[1]), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = {"env_vars": {"PYTHONPATH": os.pathsep.join(places)}}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False, runtime_env=environment)
    yield RayCluster(workers=2, threads=1)
    ray.shutdown()


def work(name, executor, scratch=None, key="k" * 32, batch=2, keep=False):
    row = TABLE[name]
    model = row.model(2).float()
    lengths = {"a": [5, 4, 6], "b": [4, 4], "c": [3, 7, 5, 6, 4, 5, 5, 8]}
    texts = {group: random_texts(row, part, i) for i, (group, part) in enumerate(lengths.items())}
    with patch.object(streaming, "make_schedule", lambda *a, **k: Schedule(batch, scratch is not None, 2, 0, 0)):
        settings = Settings(scratch=scratch, executor=executor, keep_factors=keep)
        return stream_kernels(model, texts, PAIRS, FORMULAS, row.parameters.select(model), pad_id(model), settings, key=key)


def same_bits(one, other):
    kernels = all(torch.equal(one.kernels[p][n]["all"], other.kernels[p][n]["all"]) for p in PAIRS for n in one.kernels[p])
    return kernels and one.noise == other.noise and all(torch.equal(one.logits[g], other.logits[g]) for g in "abc")


@pytest.mark.parametrize("name", ["bert", "gpt2-lora", "t5", "deberta-shared-keys"])
@pytest.mark.parametrize("on_disk", [False, True])
def test_the_same_bits_as_here(cluster, tmp_path, name, on_disk):
    here = work(name, Local(), tmp_path / "here" if on_disk else None)
    there = work(name, cluster, tmp_path / "there" if on_disk else None)
    assert same_bits(here, there)


class Doing:
    """A job that says which process did it, and may take its time; the first time some jobs kill their process."""

    def __init__(self, folder, killing=()):
        self.folder, self.killing = folder, killing

    def __call__(self):
        return self.do

    def do(self, job):
        mark = self.folder / f"killed-{job}"
        if job in self.killing and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.02)
        return job * 10, os.getpid()


def test_jobs_of_killed_workers_are_done_again(cluster, tmp_path):
    done = dict(cluster.run(Doing(tmp_path, killing=(1, 4, 5)), list(range(12))))
    assert {place: result for place, (result, _) in done.items()} == {job: job * 10 for job in range(12)}
    assert len(list(tmp_path.glob("killed-*"))) == 3
    assert len({process for _, process in done.values()}) >= 2


def test_a_worker_killed_in_the_middle_of_a_run(cluster, tmp_path):
    here = work("bert", Local(), batch=1)
    killed = []

    def kill_one():
        until = time.monotonic() + 60
        while time.monotonic() < until and not killed:
            for folder in Path("/proc").glob("[0-9]*"):
                try:
                    if b"ray::_Actor.work" in (folder / "cmdline").read_bytes():
                        os.kill(int(folder.name), signal.SIGKILL)
                        killed.append(folder.name)
                        return
                except OSError:
                    continue
            time.sleep(0.005)

    thread = threading.Thread(target=kill_one)
    thread.start()
    there = work("bert", cluster, batch=1)
    thread.join()
    assert killed, "no worker was seen at work"
    assert same_bits(here, there)


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
        for count, found in enumerate(self.cluster.run(replace(make_worker, scratch=(self.disk, "k" * 32)), jobs)):
            self.seen |= {path.parent.parent for path in self.disk.glob("*/factors/*")}
            if count == self.leave_after:
                raise LeftError
            yield found


class LeftError(Exception):
    pass


@pytest.mark.parametrize("leave_after", [None, 1])
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
    before = dict(RULES)
    try:

        @register_rule(Gain)
        def gain(use):
            yield use.module.gain, sum_over_uses(use.output_gradients * use.inputs)

        class Known:
            def __init__(self):
                self.rules = dict(RULES)

            def __call__(self):
                return lambda job: any(kind.__name__ == "Gain" for kind in self.rules)

        assert [found for _, found in cluster.run(Known(), [1])] == [True]
    finally:
        RULES.clear()
        RULES.update(before)


class Failing:
    def __call__(self):
        return self.fail

    def fail(self, job):
        raise ModelError("the gradients are not finite, in first.weight")


def test_what_a_worker_raises_is_raised_here(cluster):
    with pytest.raises(ModelError, match="not finite, in first"):
        list(cluster.run(Failing(), [1, 2, 3]))


def test_mistakes():
    with pytest.raises(UserError, match="the local engine has none; add --engine ray"):
        chosen_executor("local", "auto")
    with pytest.raises(UserError, match="'spark' is not one of local, ray"):
        chosen_executor("spark")
    assert list(RayCluster().run(Doing(Path()), [])) == []
