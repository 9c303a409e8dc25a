"""The first thing that the page says: of each task and method a verdict with its reason, or, undiagnosed, what the kernels reach."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lmntk.diagnosis.over_splits import task_verdict
from lmntk.reports.tables import ordered_methods
from lmntk.solvers.baselines import BASELINE_NAMES
from lmntk.solvers.selection import Summary, aggregate

TESTS = ("solves", "linearization", "fixed features")
PERCENT = ("solves", "linearization")  # shares; the third test is a distance, and passes below its threshold
NUMBERS = {
    "zero_shot": ("zero-shot", 100), "fine_tuned": ("fine-tuned", 100), "kernel": ("kernel", 100), "linearized": ("linearized", 100),
    "kernel_distance": ("kernel distance", 1), "gradient_distance": ("gradient distance", 1), "logit_error": ("logit error", 1),
    "emulation_error": ("emulation error", 1), "emulation_move_error": ("of the move", 1),
    "chi_with_prompt": ("|χ| with prompt", 1), "chi_without_prompt": ("|χ| without prompt", 1),
    "largest_stable_rate": ("largest stable rate", 1), "rate": ("rate used", 1),
}  # fmt: skip
SYMBOLS = {"kernel-like": "✓", "not": "✗", "undecided": "?"}


@dataclass(frozen=True)
class Tested:
    """One test over the splits.

    Attributes:
        name: of the test.
        value: of the means over the splits, as the verdict takes it.
        deviation: of the splits' own values.
        threshold: in words.
        passed: whether the means pass; None where it cannot be told.
        alone: whether each split does alone.
    """

    name: str
    value: str
    deviation: str
    threshold: str
    passed: bool | None
    alone: tuple[bool | None, ...]

    @property
    def outcome(self) -> str:
        """The outcome of the test, and in how many splits it is alone, in words."""
        words = {True: "passed", False: "failed", None: "cannot be told"}
        counts = {answer: self.alone.count(answer) for answer in words}
        if len(self.alone) < 2 or counts[self.passed] == len(self.alone):
            return words[self.passed]
        return f"{words[self.passed]}; alone " + ", ".join(
            f"{count} {words[answer]}" for answer, count in counts.items() if count
        )

    @property
    def state(self) -> str:
        """``yes``, ``no`` or ``unclear``: for the mark beside the words."""
        return {True: "yes", False: "no", None: "unclear"}[self.passed]

    @property
    def split(self) -> str:
        """The number of splits that come to the same, where not all do."""
        same = self.alone.count(self.passed)
        return f"{same} of {len(self.alone)}" if same < len(self.alone) else ""


@dataclass(frozen=True)
class Verdict:
    """One task and method (at one k and in one mode) over the splits."""

    run: str
    task: str
    title: str
    k: int
    mode: str
    method: str
    verdict: str
    agreement: str
    reason: str
    tests: tuple[Tested, ...]
    numbers: Mapping[str, str]
    splits: tuple[tuple[int, str, str], ...]

    @property
    def symbol(self) -> str:
        """A mark that needs no colour."""
        return SYMBOLS[self.verdict]

    @property
    def place(self) -> tuple[str, str]:
        """Sorts the verdicts of a task together, run by run."""
        return self.run, self.task


def verdicts(
    diagnoses: Sequence[Mapping[str, Any]], titles: Mapping[str, str], notes: list[str] | None = None
) -> list[Verdict]:
    """Return a verdict for each run, task, k, mode and method: that of the means over the splits, see ``task_verdict``.

    Where a diagnosis is not as it should be there is none, and ``notes`` are told.
    """
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for one in diagnoses:
        groups.setdefault(
            (one.get("run", ""), *(one.get(name) for name in ("task", "k", "mode", "method"))), []
        ).append(one)
    found = []
    for key, group in groups.items():
        try:
            found.append(_verdict(key, group, titles))
        except (
            KeyError,
            IndexError,
            TypeError,
            ValueError,
            AttributeError,
        ) as error:  # another version's file
            if notes is not None:
                what = f"{group[0]['task']}, k = {group[0]['k']}, {group[0]['mode']}, {group[0]['method']}"
                notes.append(
                    f"diagnoses of {what}: not as expected ({type(error).__name__}: {error}), so there is no verdict."
                )
    return found


def at_largest_k(judged: Sequence[Verdict]) -> list[Verdict]:
    """Return the verdicts at the largest k of their task, method and mode: one line each."""
    largest: dict[tuple[str, ...], int] = {}
    for one in judged:
        place = (one.run, one.task, one.mode, one.method)
        largest[place] = max(one.k, largest.get(place, 0))
    return [one for one in judged if one.k == largest[one.run, one.task, one.mode, one.method]]


def counted(judged: Sequence[Verdict]) -> str:
    """Say how many verdicts there are of each kind; nothing where there is one alone."""
    found = Counter(one.verdict for one in judged)
    return (
        f"{len(judged)} verdicts: {', '.join(f'{found[kind]} {kind}' for kind in SYMBOLS)}."
        if len(judged) > 1
        else ""
    )


def thresholds(judged: Sequence[Verdict]) -> dict[str, str]:
    """Return each test's threshold, in words."""
    return {
        name: " or ".join(
            dict.fromkeys(t.threshold for one in judged for t in one.tests if t.name == name and t.threshold)
        )
        for name in TESTS
    }


def _verdict(key: tuple[Any, ...], group: Sequence[Mapping[str, Any]], titles: Mapping[str, str]) -> Verdict:
    run, task, k, mode, method = key
    said = [one["verdict"] if one.get("verdict") in SYMBOLS else "undecided" for one in group]
    over: dict[str, Mapping[str, Any]] = {}  # the tests on the means over the splits
    if len(group) == 1:
        verdict, agreement, reason = said[0], "", str(group[0].get("reason") or "")
    else:
        found = task_verdict(group)
        told = sum(
            one["numbers"].get("fine_tuned") is not None for one in group
        )  # the others diverged, as the reason says
        verdict, agreement, reason = found.verdict, f"over {told} splits" if told > 1 else "", found.reason
        over = {test.name: {"value": test.value, "passed": test.passed} for test in found.tests}
    tests = tuple(_tested(name, group, over.get(name)) for name in TESTS)
    splits = tuple(
        (one["seed"], now, str(one.get("reason") or "")) for one, now in zip(group, said, strict=True)
    )
    return Verdict(
        run,
        task,
        titles.get(task, task),
        k,
        mode,
        method,
        verdict,
        agreement,
        reason,
        tests,
        _numbers(group),
        splits,
    )


def _test(one: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    found = one.get("tests")
    return (
        next((test for test in found if isinstance(test, dict) and test.get("name") == name), None)
        if isinstance(found, list)
        else None
    )


def _tested(name: str, group: Sequence[Mapping[str, Any]], over: Mapping[str, Any] | None) -> Tested:
    found = [test for one in group if (test := _test(one, name)) is not None]
    over = over or (found[0] if len(found) == 1 else {})
    values = [test["value"] for test in found if isinstance(test.get("value"), int | float)]
    thresholds = dict.fromkeys(
        test["threshold"] for test in found if isinstance(test.get("threshold"), int | float)
    )
    spread = _spread(values)
    return Tested(
        name,
        _shown(name, over["value"]) if isinstance(over.get("value"), int | float) else "–",
        "" if spread is None or len(values) < 2 else f"({_shown(name, spread[1]).removesuffix(' %')})",
        " or ".join(f"{'≥' if name in PERCENT else '<'} {_threshold(name, one)}" for one in thresholds),
        over.get("passed"),
        tuple(None if (test := _test(one, name)) is None else test.get("passed") for one in group),
    )


def _spread(values: Sequence[float]) -> tuple[float, float] | None:
    """Return mean and population standard deviation, of any numbers."""
    if not values:
        return None
    mean = sum(values) / len(values)
    return mean, (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5


def _shown(name: str, value: float) -> str:
    return f"{100 * value:.1f} %" if name in PERCENT else f"{value:.2f}"


def _threshold(name: str, value: float) -> str:
    return f"{100 * value:g} %" if name in PERCENT else f"{value:g}"


def _numbers(group: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    shown = {}
    numbers = [one["numbers"] for one in group if isinstance(one.get("numbers"), dict)]
    numbers = [
        one for one in numbers if one.get("fine_tuned") is not None
    ] or numbers  # the verdict is over those whose training ended
    for name, (title, scale) in NUMBERS.items():
        values = [one[name] for one in numbers if isinstance(one.get(name), int | float)]
        spread = _spread(values)
        if spread is not None:
            mean, deviation = (
                spread[0],
                spread[1] if spread[1] > 1e-9 * abs(spread[0]) else 0.0,
            )  # equal numbers, but for rounding
            form = ".1f" if scale == 100 else ".3g"
            shown[title] = f"{scale * mean:{form}}" + (
                f" ({scale * deviation:{form}})" if len(values) > 1 else ""
            )
    return shown


@dataclass(frozen=True)
class Reached:
    """The results of the methods on one task in one mode, where nothing was diagnosed."""

    run: str
    title: str
    k: int
    mode: str
    sentence: str
    gain: float | None


def reached(rows: Sequence[Mapping[str, Any]], titles: Mapping[str, str]) -> list[Reached]:
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
        found.append(
            Reached(run, titles.get(task, task), k, mode, f"{sentence[:1].upper()}{sentence[1:]}.", gain)
        )
    return found


def _figure(summary: Summary) -> str:
    return f"{summary.mean:.1f} ± {summary.std:.1f}" if summary.splits > 1 else f"{summary.mean:.1f}"


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
