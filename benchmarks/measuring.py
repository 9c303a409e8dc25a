"""What the benchmarks share: the machine's description, timing, tables, JSON."""

from __future__ import annotations

import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch


def peak_bytes() -> int:
    """Returns the largest resident set this process has had so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def cpu_model() -> str:
    """Returns the processor's name, from /proc/cpuinfo where there is one."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """Returns what a timing depends on beside the code: call it after the threads are set."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "load_at_start": load,
    }


def describe_machine(found: dict[str, Any]) -> str:
    """Returns the machine in one line."""
    load = "" if found["load_at_start"] is None else f", load {found['load_at_start']:.1f} at the start"
    return f"{found['cpu']}, {found['cores']} cores, {found['threads']} threads, torch {found['torch']}{load}"


Clock = Callable[
    [], float
]  # time.perf_counter, or time.process_time, which other work on the machine hardly touches


def seconds(body: Callable[[], Any], clock: Clock = time.perf_counter) -> tuple[float, Any]:
    """Returns the time of one call, by default wall time, and what it returned."""
    start = clock()
    result = body()
    return clock() - start, result


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints columns, the first left-aligned, the others right-aligned."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    for row in (header, *rows):
        print(
            "  ".join(
                split.ljust(width) if column == 0 else split.rjust(width)
                for column, (split, width) in enumerate(zip(row, widths, strict=True))
            )
        )


def write_json(path: Path | None, figures: dict[str, Any]) -> None:
    """Writes all figures, if a path was given."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(figures, indent=2) + "\n")
