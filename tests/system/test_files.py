"""A folder that one process at a time writes to."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import signal
import subprocess
import sys

import pytest

from lmntk.errors import UserError
from lmntk.system.files import LOCK, alone_in

HOLDING = """
import sys, time
from pathlib import Path
from lmntk.system.files import alone_in
with alone_in(Path(sys.argv[1])):
    print("in", flush=True)
    time.sleep(600)
"""


def holder_of(folder):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "in\n"
    return process


def test_who_is_in_a_folder_is_named_to_each_who_comes_and_nothing_is_left_of_one_that_is_killed(tmp_path):
    folder = tmp_path / "out"
    process = holder_of(folder)
    try:
        line = rf"^out: process {process.pid} on {platform.node()} of lmntk works in '{folder}'; wait until"
        for _ in range(2):
            with pytest.raises(UserError, match=line), alone_in(folder):
                pytest.fail("two are in")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    with alone_in(folder):
        assert (folder / LOCK).read_text() == f"process {os.getpid()} on {platform.node()}"
    assert (folder / LOCK).read_text() == ""


def test_one_process_is_not_in_a_folder_twice(tmp_path):
    with alone_in(tmp_path):
        with pytest.raises(UserError, match=f"^out: process {os.getpid()} on"), alone_in(tmp_path):
            pytest.fail("twice in")
        with pytest.raises(UserError, match=f"^out: process {os.getpid()} on"), alone_in(tmp_path):
            pytest.fail("let go")
    with alone_in(tmp_path):
        pass


def test_a_lock_as_0_1_0_takes_it_keeps_others_out_and_is_kept_out(tmp_path):
    with (tmp_path / LOCK).open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.write("process 7 on a machine")
        file.flush()
        with (
            pytest.raises(UserError, match=r"^out: process 7 on a machine of lmntk works in"),
            alone_in(tmp_path),
        ):
            pytest.fail("two are in")
    with alone_in(tmp_path):  # what it wrote was left, the lock was not
        with (tmp_path / LOCK).open("a+") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert (tmp_path / LOCK).read_text().startswith(f"process {os.getpid()} on")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_keeps_nobody_out_and_holds_nobody_up(tmp_path, monkeypatch, number):
    def refusing(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refusing)
    with alone_in(tmp_path), alone_in(tmp_path):
        pass
    assert (tmp_path / LOCK).read_text() == ""


@pytest.mark.parametrize("is_new", [True, False])
def test_a_folder_that_was_made_for_a_mistake_is_gone(tmp_path, is_new):
    folder = tmp_path / "out"
    if not is_new:
        folder.mkdir()
    with pytest.raises(UserError, match="mistake"), alone_in(folder):
        raise UserError("a mistake")
    assert folder.exists() != is_new


def test_a_folder_that_holds_something_stays(tmp_path):
    def make_something():
        (tmp_path / "out" / "result").touch()
        raise UserError("a mistake")

    with pytest.raises(UserError, match="mistake"), alone_in(tmp_path / "out"):
        make_something()
    assert (tmp_path / "out" / "result").exists()
