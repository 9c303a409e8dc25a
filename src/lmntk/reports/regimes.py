"""The first thing that a diagnosed run's page shows: a row a task, a column an optimizer, in each cell the regime and the forecast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lmntk.reports.verdicts import Verdict, at_largest_k
from lmntk.reports.yardsticks import Yardstick


@dataclass(frozen=True)
class RegimeRow:
    """The verdicts of one task, at one k and in one mode.

    Attributes:
        title: of the task.
        place: k, mode and run, in print.
        beside: chance, and the test texts with their error.
        cells: by optimizer, in the matrix's order; None where it was not diagnosed.
    """

    title: str
    place: str
    beside: str
    cells: tuple[Verdict | None, ...]


@dataclass(frozen=True)
class RegimeMatrix:
    """The rows, and the methods that head the columns."""

    methods: tuple[str, ...]
    rows: tuple[RegimeRow, ...]


def regime_matrix(judged: Sequence[Verdict], measured: Mapping[tuple[str, str], Yardstick]) -> RegimeMatrix:
    """Return the matrix of verdicts, in their order: a row where any method of a task is at its largest k.

    Args:
        judged: one of a run, task, k, mode and method, at every k.
        measured: the yardstick of each run and task.
    """
    methods = tuple(dict.fromkeys(each.method for each in judged))
    cells: dict[tuple[str, str, str, int, str], dict[str, Verdict]] = {}
    for each in judged:
        cells.setdefault((each.run, each.task, each.title, each.k, each.mode), {})[each.method] = each
    shown = {(each.run, each.task, each.k, each.mode) for each in at_largest_k(judged)}
    rows = []
    for (run, task, title, k, mode), by_method in cells.items():
        if (run, task, k, mode) not in shown:
            continue
        beside = measured.get((run, task))
        place = " · ".join(part for part in (f"k = {k}", mode, run) if part)
        own = tuple(by_method.get(method) for method in methods)
        rows.append(RegimeRow(title, place, "" if beside is None else beside.phrase, own))
    return RegimeMatrix(methods, tuple(rows))
