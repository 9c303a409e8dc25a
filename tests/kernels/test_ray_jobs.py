"""Jobs on a real Ray cluster of this machine: lost ones are done again, and what goes wrong is one line.

Workers import this module: nothing heavy is imported here, so that an actor starts in little time.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import patch

import pytest

from lmntk.errors import ModelError, UserError

ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'lmntk[ray]'")

from lmntk.system.executors.ray_cluster import RayCluster  # noqa: E402


class Doing:
    """A job that says which process did it, and may take its time; some jobs kill their process, so many times."""

    def __init__(self, folder, killing=(), times=1, in_the_beginning=0):
        self.folder, self.killing, self.times, self.in_the_beginning = (
            folder,
            killing,
            times,
            in_the_beginning,
        )

    def __call__(self):
        self.die("beginning", self.in_the_beginning)
        return self.do

    def die(self, what, times):
        if len(list(self.folder.glob(f"killed-{what}-*"))) < times:
            (self.folder / f"killed-{what}-{os.getpid()}").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def do(self, job):
        if job in self.killing:
            self.die(job, self.times)
        time.sleep(0.02)
        return job * 10, os.getpid()


def test_jobs_of_killed_workers_are_done_again(cluster, tmp_path):
    done = dict(cluster.run(Doing(tmp_path, killing=(1, 4, 5)), list(range(12))))
    assert {place: result for place, (result, _) in done.items()} == {job: job * 10 for job in range(12)}
    assert len(list(tmp_path.glob("killed-*"))) == 3
    assert len({process for _, process in done.values()}) >= 2


def test_a_job_that_kills_two_workers_is_done_by_the_third(cluster, tmp_path):
    done = dict(cluster.run(Doing(tmp_path, killing=(1,), times=2), [0, 1]))
    assert {place: result for place, (result, _) in done.items()} == {0: 0, 1: 10}
    assert len(list(tmp_path.glob("killed-1-*"))) == 2


def test_no_jobs_need_no_cluster():
    assert list(RayCluster().run(Doing(Path()), [])) == []


def test_workers_that_die_before_any_job_end_the_run(cluster, tmp_path):
    assert [found for _, (found, _) in cluster.run(Doing(tmp_path, in_the_beginning=1), [4])] == [40]
    with pytest.raises(
        UserError, match=r"^engine: \d workers died, one after the other, of loading the model: "
    ):
        list(cluster.run(Doing(tmp_path, in_the_beginning=99), [4]))


class Failing:
    def __call__(self):
        return self.fail

    def begin(self):
        raise UserError("device: Ray gave a worker no GPU")

    def fail(self, job):
        raise ModelError("the gradients are not finite, in first.weight")


def test_what_a_worker_raises_is_raised_here(cluster):
    with pytest.raises(ModelError, match="not finite, in first"):
        list(cluster.run(Failing(), [1, 2, 3]))
    with pytest.raises(UserError, match=r"^device: Ray gave a worker no GPU"):
        list(cluster.run(Failing().begin, [1]))


@pytest.mark.parametrize(
    "lost", [ray.exceptions.RaySystemError("its store\nis full"), ConnectionError("its store\nis full")]
)
def test_what_goes_wrong_in_ray_is_one_line(cluster, lost):
    with (
        patch.object(ray, "wait", side_effect=lost),
        pytest.raises(UserError, match=r"^engine: Ray failed \(\w+: .*its store is full"),
    ):
        list(cluster.run(Failing(), [1]))


def test_an_address_where_nobody_answers_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    begun = time.monotonic()
    code = f"from lmntk.system.executors.ray_cluster import RayCluster; RayCluster('127.0.0.1:{port}', 1, 1).sharing"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=100
    )
    assert (
        f"UserError: address: no Ray cluster at '127.0.0.1:{port}' (ConnectionRefusedError: "
        in found.stderr.splitlines()[-1]
    )
    assert time.monotonic() - begun < 60  # Ray's own tries take minutes
