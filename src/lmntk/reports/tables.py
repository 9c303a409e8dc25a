"""The paper's tables as plain data: method x task, mean and population deviation over the splits, the best of each column marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lmntk.reports.results import METRIC_NAMES
from lmntk.reports.yardsticks import Yardstick
from lmntk.solvers.baselines import BASELINE_NAMES
from lmntk.solvers.selection import Summary, aggregate

DIVERGED = "diverged"


@dataclass(frozen=True)
class Entry:
    """One method's summary on one task, in per cent.

    Attributes:
        summary: over the splits.
        best: it is the best of its column, among those over as many splits as any.
        near: it cannot be told from the best, over as many splits.
        few: the number of its splits, where the table has more: in others it was not run, or diverged; else 0.
    """

    summary: Summary
    best: bool
    near: bool
    few: int = 0

    @property
    def mean(self) -> str:
        """The mean, as it is printed."""
        return f"{self.summary.mean:.1f}"

    @property
    def deviation(self) -> str:
        """The population standard deviation, as it is printed; nothing of a single split."""
        return f"({self.summary.std:.1f})" if self.summary.splits > 1 else ""

    @property
    def median(self) -> str:
        """The median, as it is printed."""
        return f"{self.summary.median:.1f}"


@dataclass(frozen=True)
class Line:
    """One method's entries, one a column; None where it was not computed, ``DIVERGED`` where all its trainings were."""

    method: str
    entries: tuple[Entry | str | None, ...]


@dataclass(frozen=True)
class Block:
    """The methods of one mode (and run), whose heading is empty where there is one alone."""

    heading: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Table:
    """All results at one k: columns are tasks with their metric, and what it is read beside."""

    k: int
    columns: tuple[tuple[str, str, tuple[str, ...]], ...]
    blocks: tuple[Block, ...]
    splits: tuple[int, ...]


def method_order(method: str) -> int:
    """Sorts baselines first, then kernels, then fine-tunings, each in the order in which they came."""
    return 0 if method in BASELINE_NAMES else 2 if "fine-tuning" in method else 1


def ordered_methods(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the rows' methods, each once: baselines, kernels, fine-tunings, each kind in the order in which they came."""
    return sorted(dict.fromkeys(row["method"] for row in rows), key=method_order)


def result_tables(
    rows: Sequence[Mapping[str, Any]],
    titles: Mapping[str, str],
    measured: Mapping[tuple[str, str], Yardstick] | None = None,
) -> list[Table]:
    """Return a table for each k, the smallest first.

    Args:
        rows: of results.csv; where several runs are shown together each row has its ``run`` as well.
        titles: tasks' names in print.
        measured: the yardstick of each run and task.
    """
    tables = []
    by_task: dict[str, Yardstick] = {}
    for (_, task), each in (measured or {}).items():
        by_task[task] = each.joined(by_task.get(task))
    most = len({row["seed"] for row in rows})  # the page's heading names them, for all k
    for k in sorted({row["k"] for row in rows}):
        here = [row for row in rows if row["k"] == k]
        every = {(row.get("run", ""), row["mode"], row["method"], row["task"]) for row in here}
        metrics = {row["task"]: METRIC_NAMES.get(row["metric"], str(row["metric"])) for row in here}
        summaries = summarise_rows(here)
        marks = _marks(summaries)
        seeds = tuple(sorted({row["seed"] for row in here}))

        def few(one: Summary) -> int:
            return one.splits if one.splits < most else 0

        blocks = []
        for key in dict.fromkeys((row.get("run", ""), row["mode"]) for row in here):
            own = [row for row in here if (row.get("run", ""), row["mode"]) == key]
            lines = []
            for method in ordered_methods(own):
                places = [(*key, method, task) for task in metrics]
                entries = (
                    Entry(summaries[place], *marks[place], few(summaries[place]))
                    if place in summaries
                    else DIVERGED
                    if place in every
                    else None
                    for place in places
                )
                lines.append(Line(method, tuple(entries)))
            blocks.append(Block(" · ".join(part for part in key if part), tuple(lines)))
        columns = tuple(
            (titles.get(task, task), metric, tuple(by_task[task].parts if task in by_task else ()))
            for task, metric in metrics.items()
        )
        tables.append(Table(k, columns, tuple(blocks), seeds))
    return tables


def summarise_rows(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str, str, str], Summary]:
    """Return the summary over the splits for each (run, mode, method, task), without the splits in which a method diverged."""
    collected: dict[tuple[str, str, str, str], list[float]] = {}
    for row in rows:
        if row["test"] is None:
            continue
        collected.setdefault((row.get("run", ""), row["mode"], row["method"], row["task"]), []).append(
            row["test"]
        )
    return {key: aggregate(values) for key, values in collected.items()}


def _marks(
    summaries: Mapping[tuple[str, str, str, str], Summary],
) -> dict[tuple[str, str, str, str], tuple[bool, bool]]:
    """Returns, for each entry, whether it is its column's best mean as printed, and whether it is within the best's deviation of it.

    A mean over fewer splits than others of the column is of other texts, and is not compared.
    """
    marks = {}
    for key, own in summaries.items():
        column = [one for other, one in summaries.items() if other[3] == key[3]]
        most = max(one.splits for one in column)
        best = max((one for one in column if one.splits == most), key=lambda one: one.mean)
        is_best = round(own.mean, 1) == round(best.mean, 1)
        marks[key] = (
            own.splits == most and is_best,
            own.splits == most and not is_best and own.mean >= best.mean - best.std,
        )
    return marks
