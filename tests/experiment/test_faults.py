"""Runs that are killed, starved and crowded: what is finished stays, what goes on ends in the same bits."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tiny import write_model, write_rows

COMMAND = [sys.executable, "-m", "lmntk"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    write_model(folder / "model")
    write_rows(folder / "train.jsonl", 64)
    write_rows(folder / "test.jsonl", 400, offset=1)
    return folder


def flags(folder: Path, out: Path, *more: object) -> list[str]:
    texts = ["--train", folder / "train.jsonl", "--test", folder / "test.jsonl", "--text-column", "text_a"]
    prompt = ["--template", "{a} it was {mask}.", "--label-words", "terrible,great"]
    return list(
        map(
            str,
            [
                "run",
                "--model",
                folder / "model",
                *texts,
                *prompt,
                "--k",
                8,
                "--seeds",
                "13,21",
                "--out",
                out,
                *more,
            ],
        )
    )


def lmntk(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False, **options
    )  # type: ignore[call-overload,no-any-return]


def kernels(out: Path) -> dict[str, dict[str, bytes]]:
    """Returns every kernel's numbers, to the bit."""
    paths = sorted((out / "kernels").rglob("*.safetensors"))
    return {str(p.relative_to(out)): {n: t.numpy().tobytes() for n, t in load_file(p).items()} for p in paths}


def written(out: Path) -> int:
    """Returns how many files of factors and tiles there are; 0 while a folder is being removed."""
    try:
        return sum(1 for _ in (out / "scratch").rglob("*.safetensors"))
    except FileNotFoundError:
        return 0


def started(*arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def wait_for(path: Path) -> None:
    until = time.monotonic() + 60
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.01)


@pytest.mark.slow
def test_killed_at_ten_moments_it_ends_in_the_same_bits(folder, tmp_path):
    """Runs with factors on disk and small batches, so that there are many tiles and files to be between."""
    more = ["--keep-factors", "--batch-size", 2, "--test-limit", 400]
    done = lmntk(*flags(folder, tmp_path / "whole", *more))
    assert done.returncode == 0, done.stderr
    expected, results = kernels(tmp_path / "whole"), (tmp_path / "whole" / "results.csv").read_text()
    files = written(tmp_path / "whole")  # the factors', which stay
    chance, killed = random.Random(0), 0
    for moment in range(10):
        out = tmp_path / f"killed-{moment}"
        process = started(*flags(folder, out, *more))
        while (
            process.poll() is None and written(out) < files * (moment + chance.random()) / 10
        ):  # by work done: machines are not even
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        done = lmntk(*flags(folder, out, *more))
        assert done.returncode == 0, done.stderr
        assert kernels(out) == expected
        assert (out / "results.csv").read_text() == results
        shutil.rmtree(out)
    assert killed >= 8  # the last may have ended before it was hit


@pytest.mark.slow
def test_a_second_process_is_sent_away(folder, tmp_path):
    process = started(*flags(folder, tmp_path / "out", "--batch-size", 1, "--test-limit", 20))
    try:
        wait_for(tmp_path / "out" / "configuration.json")
        process.send_signal(signal.SIGSTOP)
        second = lmntk(*flags(folder, tmp_path / "out", "--batch-size", 1, "--test-limit", 20))
        assert (second.returncode, second.stdout) == (2, "")
        assert f"process {process.pid} on" in second.stderr
        assert "works in" in second.stderr
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = lmntk(*flags(folder, tmp_path / "out", "--batch-size", 1, "--test-limit", 20))
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "out" / "scratch").exists()


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of 64 megabytes, where this user may mount one."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(place)], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("no right to mount a small file system")
    yield place
    subprocess.run(["umount", str(place)], check=False)


@pytest.mark.slow
def test_a_full_disk_is_said_and_the_run_goes_on_with_room(folder, tmp_path, small_disk):
    """Somebody else fills it when a few files are there; they are gone on with elsewhere, to the bits of a run that nothing disturbed."""
    scratch = small_disk / "scratch"
    command = [
        *COMMAND,
        *flags(folder, tmp_path / "out", "--keep-factors", "--scratch", scratch, "--batch-size", 4),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and len(list(scratch.rglob("*.safetensors"))) < 3:
        time.sleep(0.002)
    process.send_signal(signal.SIGSTOP)
    with suppress(OSError), (small_disk / "filler").open("wb", buffering=0) as filler:
        while filler.write(bytes(4096)):
            pass
    process.send_signal(signal.SIGCONT)
    out, errors = process.communicate()
    assert (process.returncode, out) == (2, ""), errors
    assert "scratch: the disk is full" in errors
    assert "Traceback" not in errors
    shutil.copytree(scratch, tmp_path / "roomy")
    assert len(list((tmp_path / "roomy").rglob("*.safetensors"))) >= 3
    done = lmntk(
        *flags(folder, tmp_path / "out", "--keep-factors", "--scratch", tmp_path / "roomy", "--batch-size", 4)
    )
    assert done.returncode == 0, done.stderr
    whole = lmntk(*flags(folder, tmp_path / "whole", "--keep-factors", "--batch-size", 4))
    assert whole.returncode == 0, whole.stderr
    assert kernels(tmp_path / "out") == kernels(tmp_path / "whole")
