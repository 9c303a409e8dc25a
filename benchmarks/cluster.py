"""The same work here, on one Ray worker, on two, and on two of which one is killed in the middle: time, and whether the bits agree.

    python benchmarks/cluster.py             # two processors, one thread a worker, minutes
    python benchmarks/cluster.py --quick     # tiny: does it run?

A RoBERTa with random weights (four layers, width 256), 64 x 1024 texts of 32 tokens, `sgd`, tiles of 128 texts. Starting Ray (seconds) is
not counted; sending the model to the workers, and every worker's own capture of the training texts, is.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import ray
import torch
from measuring import describe_machine, machine, print_table, seconds, write_json
from scaling import QUICK, SMALL, Problem, network, texts_of
from torch import Tensor

from lmntk.engine import budget as schedule
from lmntk.engine.kernel_work import KernelWork
from lmntk.engine.settings import Settings
from lmntk.engine.stream import stream_kernels, whole
from lmntk.models.filters import ParameterFilter
from lmntk.system.executors.base import Executor
from lmntk.system.executors.local import Local
from lmntk.system.executors.ray_cluster import RayCluster
from lmntk.system.memory import parse_bytes


def timed(problem: Problem, executor: Executor) -> tuple[float, Tensor]:
    model = network(problem)
    texts, trainable = texts_of(problem), ParameterFilter().select(model)
    settings = Settings(memory=parse_bytes(problem.memory), executor=executor)
    with patch.multiple(schedule, MOST_COLUMNS=128, COLUMNS_PER_ROW=2):
        taken, found = seconds(
            lambda: stream_kernels(
                KernelWork(model, texts, [("train", "eval")], ["sgd"], trainable, 1), settings
            )
        )
    return taken, whole(found.kernels["train", "eval"]["sgd"])


def kill_one_worker(after: float) -> None:
    """Kills one process that is at work, after some seconds."""
    time.sleep(after)
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if b"ray::_Actor" in (folder / "cmdline").read_bytes():
                os.kill(int(folder.name), signal.SIGKILL)
                return
        except OSError:
            continue


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a tiny network; the figures mean nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    problem = replace(SMALL, evaluation=1024)
    problem = replace(problem, **QUICK) if arguments.quick else problem
    about = machine()
    folder = str(Path(__file__).parent)
    places = os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")])
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        runtime_env={"env_vars": {"PYTHONPATH": places}},
    )
    timed(replace(problem, evaluation=8), RayCluster(workers=2, threads=1))
    found: dict[str, Any] = {}
    expected, taken = None, 0.0
    for name, workers, killed in (
        ("here, one thread", 0, False),
        ("1 worker", 1, False),
        ("2 workers", 2, False),
        ("2 workers, one killed", 2, True),
    ):
        thread = threading.Thread(target=kill_one_worker, args=(taken / 2,)) if killed else None
        if thread is not None:
            thread.start()
        taken, kernel = timed(problem, RayCluster(workers=workers, threads=1) if workers else Local())
        if thread is not None:
            thread.join()
        expected = kernel if expected is None else expected
        found[name] = {
            "seconds": taken,
            "texts_per_second": problem.evaluation / taken,
            "same_bits": torch.equal(kernel, expected),
        }
        print(f"{name}: {taken:.1f} s", file=sys.stderr)
    ray.shutdown()
    print(describe_machine(about), end="\n\n")
    rows = [
        [name, f"{one['seconds']:.1f}", f"{one['texts_per_second']:.1f}", "yes" if one["same_bits"] else "NO"]
        for name, one in found.items()
    ]
    print_table(["", "seconds", "texts a second", "same bits"], rows)
    write_json(arguments.json, {"benchmark": "cluster", "machine": about, "runs": found})
    return 0 if all(one["same_bits"] for one in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
