"""Targets of answers: what cannot be written is said of the target, and of nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lmntk.errors import UserError
from lmntk.prediction.stream import _reporting, _writing

CHILD = """
import sys
from lmntk.errors import UserError
from lmntk.prediction.stream import _reporting
try:
    with _reporting("-"):
        sys.stdout.write("x" * 10**6)
        sys.stdout.flush()
except UserError as error:
    print(error, file=sys.stderr)
"""


def write(target: str, flushed: bool, error: OSError | None = None) -> None:
    with _writing(target) as out:
        with _reporting(target):
            out.write("" if error else "a line\n")
            if flushed:
                out.flush()
        if error:
            raise error


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
@pytest.mark.parametrize("flushed", [True, False])
def test_a_full_disk_is_said_of_the_target(flushed: bool) -> None:
    message = r"out: cannot write '/dev/full' \(No space left on device\); name another file"
    with pytest.raises(UserError, match=message):
        write("/dev/full", flushed)


@pytest.mark.parametrize("target", ["classes.csv", "/dev/full", "-"])
def test_another_error_is_not_said_of_the_target(tmp_path: Path, target: str) -> None:
    """Such as that of a model's file, which is read while the target is open."""
    path = target if target == "-" else str(tmp_path / target)
    error = FileNotFoundError(2, "no such file", "model.safetensors")
    with pytest.raises(FileNotFoundError, match=r"model.safetensors"):
        write(path, False, error)
    assert list(tmp_path.iterdir()) == []


def test_half_a_character_and_line_ends_are_written(tmp_path: Path) -> None:
    with _writing(str(tmp_path / "classes.csv")) as out:
        out.write("a\r\nb\n\ud800")
    assert (tmp_path / "classes.csv").read_bytes() == b"a\r\nb\n\\ud800"


def test_a_reader_that_went_away_is_one_line() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None and child.stderr is not None
        child.stdout.close()
        assert child.stderr.read() == "out: nobody reads '-' any more\n"
    assert child.returncode == 0
