"""The first thing that the page says: of each task and method the regime, the forecast and the verdict of the paper's three tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lmntk.diagnosis.forecast import NOT_CONVERGED, Forecast, forecast_of
from lmntk.diagnosis.over_splits import task_verdict
from lmntk.diagnosis.regime import TEST_ERROR, Regime, regime_of

TESTS = ("solves", "linearization", "fixed features")
PERCENT = ("solves", "linearization")  # shares; the third test is a distance, and passes below its threshold
NUMBERS = {
    "zero_shot": ("zero-shot", 100), "fine_tuned": ("fine-tuned", 100), "kernel": ("kernel", 100), "emulated": ("emulator", 100),
    "linearized": ("linearized", 100), TEST_ERROR: ("e of the emulation", 1),
    "kernel_distance": ("kernel distance", 1), "gradient_distance": ("gradient distance", 1), "logit_error": ("logit error", 1),
    "emulation_error": ("emulation error", 1), "emulation_move_error": ("of the move", 1),
    "chi_with_prompt": ("|χ| with prompt", 1), "chi_without_prompt": ("|χ| without prompt", 1),
    "largest_stable_rate": ("largest stable rate", 1), "rate": ("rate used", 1),
}  # fmt: skip
SYMBOLS = {"kernel-like": "✓", "not": "✗", "undecided": "?"}
COLOURS = {"kernel-like": "yes", "not": "no", "undecided": "unclear"}
LABELS = {"kernel-like": "kernel-like", "not": "not a kernel", "undecided": "undecided"}
REGIMES = {
    "holds": ("yes", "regime holds"),
    "rough": ("unclear", "regime is rough"),
    "leaves the kernel": ("no", "leaves the kernel"),
    None: ("none", "regime not measured"),
}
ABOVE = "the kernel is above"


@dataclass(frozen=True)
class Tested:
    """One test over the splits.

    Attributes:
        name: of the test.
        value: of the means over the splits, as the verdict takes it; of ``solves`` by how many points the kernel missed.
        deviation: of the splits' own values.
        threshold: in words.
        passed: whether the means pass; None where it cannot be told.
        alone: whether each split does alone.
        overshoots: whether the kernel is above fine-tuning, and nothing is good news.
    """

    name: str
    value: str
    deviation: str
    threshold: str
    passed: bool | None
    alone: tuple[bool | None, ...]
    overshoots: bool = False

    @property
    def outcome(self) -> str:
        """The outcome of the test, and in how many splits it is alone, in words."""
        words = {True: "passed", False: "failed", None: "cannot be told"}
        counts = {answer: self.alone.count(answer) for answer in words}
        above = f"; {ABOVE}" if self.overshoots and self.name == "solves" else ""
        if len(self.alone) < 2 or counts[self.passed] == len(self.alone):
            return words[self.passed] + above
        return f"{words[self.passed]}{above}; alone " + ", ".join(
            f"{count} {words[answer]}" for answer, count in counts.items() if count
        )

    @property
    def state(self) -> str:
        """``yes``, ``no`` or ``unclear``: for the colour of the mark; ``met`` has none."""
        if self.passed and self.overshoots:
            return "unclear" if self.name == "solves" else "met"
        return {True: "yes", False: "no", None: "unclear"}[self.passed]

    @property
    def mark(self) -> str:
        """A mark that needs no colour."""
        if self.passed and self.overshoots and self.name == "solves":
            return "↑"
        return {True: "✓", False: "✗", None: "?"}[self.passed]

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
    regime: Regime
    forecast: Forecast
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
    def colour(self) -> str:
        """``yes``, ``no`` or ``unclear``: what passes the tests while something else speaks against it is not ``yes``."""
        doubted = self.forecast.overshoots or self.regime.word == "leaves the kernel"
        return "unclear" if self.verdict == "kernel-like" and doubted else COLOURS[self.verdict]

    @property
    def label(self) -> str:
        """The verdict in print."""
        return LABELS[self.verdict]

    @property
    def badges(self) -> list[tuple[str, str]]:
        """The colours and words of the regime, and of a forecast that overshoots."""
        colour, words = REGIMES[self.regime.word]
        if not self.forecast.overshoots:
            return [(colour, words)]
        above = NOT_CONVERGED if NOT_CONVERGED in self.forecast.sentence else ABOVE
        return [("none" if colour == "yes" else colour, words), ("unclear", above)]

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
    regime, forecast = regime_of(group), forecast_of(group)
    tests = tuple(_tested(name, group, over.get(name), forecast) for name in TESTS)
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
        regime,
        forecast,
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


def _tested(
    name: str, group: Sequence[Mapping[str, Any]], over: Mapping[str, Any] | None, forecast: Forecast
) -> Tested:
    found = [test for one in group if (test := _test(one, name)) is not None]
    over = over or (found[0] if len(found) == 1 else {})
    values = [test["value"] for test in found if isinstance(test.get("value"), int | float)]
    thresholds = dict.fromkeys(
        test["threshold"] for test in found if isinstance(test.get("threshold"), int | float)
    )
    spread = _spread(values)
    shown = _shown(name, over["value"]) if isinstance(over.get("value"), int | float) else "–"
    deviation = "" if spread is None or len(values) < 2 else f"({_shown(name, spread[1]).removesuffix(' %')})"
    if name == "solves":  # a share beyond all would read as praise
        shown, deviation = "–" if forecast.kernel is None else forecast.kernel.figure, ""
    return Tested(
        name,
        shown,
        deviation,
        " or ".join(f"{'≥' if name in PERCENT else '<'} {_threshold(name, one)}" for one in thresholds),
        over.get("passed"),
        tuple(None if (test := _test(one, name)) is None else test.get("passed") for one in group),
        forecast.overshoots,
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
