"""The first thing that the page says where nothing was diagnosed: what kernels and fine-tuning reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lmntk.reports.tables import ordered_methods
from lmntk.reports.yardsticks import Yardstick
from lmntk.solvers.baselines import BASELINE_NAMES
from lmntk.solvers.selection import Summary, aggregate


@dataclass(frozen=True)
class Reached:
    """The results of the methods on one task in one mode, where nothing was diagnosed."""

    run: str
    title: str
    k: int
    mode: str
    sentence: str
    gain: float | None
    beside: str = ""


def reached(
    rows: Sequence[Mapping[str, Any]],
    titles: Mapping[str, str],
    measured: Mapping[tuple[str, str], Yardstick] | None = None,
) -> list[Reached]:
    """Return for each run, task and mode, at its largest k, what kernels and fine-tuning reach beside the model before training."""
    found = []
    for run, task, mode in dict.fromkeys((row.get("run", ""), row["task"], row["mode"]) for row in rows):
        own = [row for row in rows if (row.get("run", ""), row["task"], row["mode"]) == (run, task, mode)]
        k = max(row["k"] for row in own)
        own = [row for row in own if row["k"] == k]
        means = {
            method: aggregate([row["test"] for row in own if row["method"] == method])
            for method in ordered_methods(own)
        }
        before = next((method for method in means if method in BASELINE_NAMES), None)
        trained = [method for method in means if "fine-tuning" in method]
        kernels = [method for method in means if method not in (*BASELINE_NAMES, *trained)]
        parts = []
        for name, methods in (("the kernels reach", kernels), ("fine-tuning reaches", trained)):
            if methods:
                parts.append(
                    f"{name} {_listed([f'{_figure(means[method])} ({method})' for method in methods])}"
                )
        if before is not None:
            parts.append(f"{before} {_figure(means[before])}")
        sentence = "; ".join(parts)
        best = max((means[method].mean for method in kernels), default=None)
        gain = None if before is None or best is None else best - means[before].mean
        beside = (measured or {}).get((run, task))
        said = f"{sentence[:1].upper()}{sentence[1:]}."
        found.append(
            Reached(run, titles.get(task, task), k, mode, said, gain, "" if beside is None else beside.phrase)
        )
    return found


def _figure(summary: Summary) -> str:
    return f"{summary.mean:.1f} ± {summary.std:.1f}" if summary.splits > 1 else f"{summary.mean:.1f}"


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
