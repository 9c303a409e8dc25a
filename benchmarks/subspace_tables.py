"""Tables that grow row by row, and the report of ``subspace_arms.py``, which says what its numbers are."""

from __future__ import annotations

import csv
import itertools
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measuring import print_table
from scipy.stats import spearmanr

KEY = ("task", "seed", "arm", "half_octave")
Row = dict[str, str]


class Table:
    """A CSV file of rows by task, seed, arm and, of descents, half octave; each is written as soon as it is there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        rows = list(csv.DictReader(path.open(encoding="utf8"))) if path.exists() else []
        self.rows = {tuple(row.get(name) or "" for name in KEY): row for row in rows}

    def has(self, *key: object) -> bool:
        """Return whether a row is there."""
        return self._key(key) in self.rows

    def get(self, *key: object) -> Row:
        """Return a row."""
        return self.rows[self._key(key)]

    def add(self, *key: object, **values: Any) -> None:
        """Write a row."""
        row = dict(zip(KEY, self._key(key), strict=True)) | {
            name: f"{value:.6g}" if isinstance(value, float) else str(value) for name, value in values.items()
        }
        is_new = not self.path.exists()
        with self.path.open("a", encoding="utf8", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            if is_new:
                writer.writeheader()
            writer.writerow(row)
        self.rows[self._key(key)] = row
        print(", ".join(f"{name} {value}" for name, value in row.items() if value), flush=True)

    def _key(self, key: tuple[object, ...]) -> tuple[str, ...]:
        return tuple(map(str, key)) + ("",) * (len(KEY) - len(key))


def report(kernels: Table, trainings: Table, falls: Table) -> None:
    """Print what the tables say."""
    if trainings.rows:
        correlations(kernels, trainings)
        rules(kernels, trainings)
    if falls.rows:
        rates(falls)
        edges(falls)


def by_arm(table: Table, task: str, value: Callable[[Row], float]) -> dict[str, dict[str, float]]:
    """Return a value by seed and LoRA's arm, of the seeds that have all arms."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for row in table.rows.values():
        if row["task"] == task and row["arm"] != "full":
            found[row["seed"]][row["arm"]] = value(row)
    most = max(map(len, found.values()), default=0)
    return {seed: values for seed, values in found.items() if len(values) == most}


def means(values: dict[str, dict[str, float]], seeds: Any) -> list[float]:
    """Return each arm's mean over seeds, in the arms' order."""
    arms = sorted(next(iter(values.values())))
    return [float(np.mean([values[seed][arm] for seed in seeds])) for arm in arms]


def rank_correlation(first: list[float], second: list[float]) -> float:
    """Return Spearman's; nan where one side is all equal."""
    if len(set(first)) < 2 or len(set(second)) < 2:
        return float("nan")
    return float(spearmanr(first, second).statistic)


def correlations(kernels: Table, trainings: Table) -> None:
    """Print how the kernels rank the candidates, beside the ceiling."""
    foretold: dict[str, Callable[[Row], float]] = {
        "distance": lambda row: float(row["distance"]),
        "held-out error": lambda row: 1 - float(row["held_out"]),
        "condition number": lambda row: float(row["condition"]),
    }
    real: dict[str, Callable[[Row], float]] = {
        "test error": lambda row: 1 - float(row["test"]),
        "missed logits": lambda row: float(row["missed"]),
    }
    lines = []
    for task in dict.fromkeys(row["task"] for row in trainings.rows.values()):
        for name, value in real.items():
            measured = by_arm(trainings, task, value)
            seeds = sorted(set(measured) & set(by_arm(kernels, task, lambda row: 0.0)))
            if not seeds:
                continue
            halves = [
                rank_correlation(means(measured, part), means(measured, set(seeds) - set(part)))
                for part in itertools.combinations(seeds, len(seeds) // 2)
                if part
            ]
            ceiling = f"{np.nanmean(halves):.2f}" if halves else "one seed"
            ranks = [
                f"{rank_correlation(means(by_arm(kernels, task, of), seeds), means(measured, seeds)):.2f}"
                for of in foretold.values()
            ]
            lines.append([f"{task}, {name}, {len(seeds)} seeds", *ranks, ceiling])
    print_table(["rank correlation with", *foretold, "ceiling"], lines)
    print()


def rules(kernels: Table, trainings: Table) -> None:
    """Print the test accuracy of what each rule takes."""
    takers: dict[str, Callable[[dict[str, Row]], str]] = {
        "least distance": lambda rows: min(rows, key=lambda arm: float(rows[arm]["distance"])),
        "best held out": lambda rows: max(
            rows, key=lambda arm: (float(rows[arm]["held_out"]), -float(rows[arm]["distance"]))
        ),
        "least condition number": lambda rows: min(rows, key=lambda arm: float(rows[arm]["condition"])),
        "all-linear r = 16 always": lambda rows: "all-linear r=16",
    }
    lines = []
    for task in dict.fromkeys(row["task"] for row in trainings.rows.values()):
        tests = by_arm(trainings, task, lambda row: 100 * float(row["test"]))
        taken: dict[str, list[float]] = defaultdict(list)
        for seed, values in tests.items():
            rows = {
                row["arm"]: row
                for row in kernels.rows.values()
                if (row["task"], row["seed"]) == (task, seed) and row["arm"] in values
            }
            if "all-linear r=16" not in rows:
                continue
            for rule, take in takers.items():
                taken[rule].append(values[take(rows)])
            taken["best candidate"].append(max(values.values()))
            taken["mean candidate"].append(float(np.mean(list(values.values()))))
            taken["full fine-tuning"].append(100 * float(trainings.get(task, seed, "full")["test"]))
        if taken:
            seeds = len(next(iter(taken.values())))
            lines.append(
                [f"{task}, {seeds} splits", *(f"{np.mean(values):.1f}" for values in taken.values())]
            )
            header = ["test accuracy of", *taken]
    if lines:
        print_table(header, lines)
        print()


def edge_of(rows: list[Row]) -> tuple[float, float] | None:
    """Return the largest factor that did not diverge and the smallest above it that did, if both are there."""
    factors = {float(row["half_octave"]): bool(int(row["diverged"])) for row in rows}
    wrong = [at for at, diverged in factors.items() if diverged]
    right = [at for at, diverged in factors.items() if not diverged and at < min(wrong, default=-np.inf)]
    if not wrong or not right:
        return None
    return 2 ** (max(right) / 2), 2 ** (min(wrong) / 2)


def groups_of(falls: Table) -> dict[tuple[str, str, str], list[Row]]:
    """Return the descents of each task, seed and arm."""
    groups: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in falls.rows.values():
        groups[row["task"], row["seed"], row["arm"]].append(row)
    return groups


def rates(falls: Table) -> None:
    """Print the best rates of LoRA over those of full training, predicted and measured."""
    groups, lines = groups_of(falls), []
    for (task, seed, arm), rows in groups.items():
        whole = groups.get((task, seed, "full"))
        if arm == "full" or whole is None or min(len(rows), len(whole)) < 7:
            continue
        predicted = float(rows[0]["stable_rate"]) / float(whole[0]["stable_rate"])
        ratios = []
        for loss in ("train_loss", "dev_loss"):
            best = [min(part, key=lambda row, loss=loss: float(row[loss])) for part in (rows, whole)]
            ratios.append(float(best[0]["rate"]) / float(best[1]["rate"]))
        lines.append([f"{task}, {seed}, {arm}", *(f"{ratio:.3g}" for ratio in (predicted, *ratios))])
    if lines:
        print_table(["best rate over full's", "predicted", "by train loss", "by dev loss"], lines)
        print()


def edges(falls: Table) -> None:
    """Print where training diverges, as a factor of the predicted rate."""
    lines, within = [], []
    for (task, seed, arm), rows in groups_of(falls).items():
        edge, ends = edge_of(rows), {row["half_octave"]: bool(int(row["diverged"])) for row in rows}
        if edge is not None:
            measured = (edge[0] * edge[1]) ** 0.5
            shown, is_near = f"{measured:.2f}", 0.5 <= measured <= 2
        elif ends.get("6") is False or ends.get("-6") is True:  # beyond the grid: a miss, and counted as one
            shown, is_near = "above 8" if ends.get("6") is False else "below 1/8", False
        else:
            continue  # not bisected to the end
        within.append(is_near)
        cautious = float(rows[0]["for_every_f"]) / float(rows[0]["stable_rate"])
        lines.append([f"{task}, {seed}, {arm}", shown, f"{cautious:.2f}"])
    if lines:
        print_table(["diverges at", "times the stable rate", "rate for every f"], lines)
        print(f"within a factor of 2: {sum(within)} of {len(within)}")
