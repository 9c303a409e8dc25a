"""The paper's three tests of whether fine-tuning behaves like its kernel, and one verdict.

Each test is passed, failed, or cannot be told; a test whose number is nearer to its threshold than the error
that the test set leaves cannot be told. Kernel-like: all three are passed. Not: one is failed, whatever the
others. Undecided: none is failed, and one cannot be told.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from lmntk.diagnosis.linearization import recovered_share
from lmntk.diagnosis.uncertainty import standard_error
from lmntk.tasks.metrics import score

# thresholds of Malladi et al. 2023 as quoted by others
SOLVES = 0.9  # the eNTK's metric, of fine-tuning's
RECOVERS = 0.5  # the linearization's gain over zero-shot, of fine-tuning's
FIXED = 2.0  # mean elementwise relative distance of the kernels

TESTS = "the paper's three tests"  # their name wherever they are said

SKEWED = 5.0  # times the median: a mean of which that is worth saying
SURE = 2.0  # standard errors that a gain must have to be one: 95 %
NEAR = 1.0  # standard errors within which a number is not told from its threshold: 84 % on the one side

Answer = Literal["kernel-like", "not", "undecided"]
REASONS: dict[Answer, str] = {
    "kernel-like": "fine-tuning passes all three tests",
    "not": "fine-tuning does not pass all three tests",
    "undecided": "it cannot be told",
}


@dataclass(frozen=True)
class Test:
    """One test: the number measured, its threshold, and the result in words.

    ``passed`` is None where it cannot be told.
    """

    __test__ = False  # pytest shall not take it for one of its own

    name: str
    value: float | None
    threshold: float
    passed: bool | None
    sentence: str


@dataclass(frozen=True)
class Verdict:
    """One verdict with its reason in one sentence, and the three tests behind it."""

    verdict: Answer
    reason: str
    tests: tuple[Test, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "verdict": self.verdict,
            "reason": self.reason,
            "tests": [asdict(test) for test in self.tests],
        }


@dataclass(frozen=True)
class Evidence:
    """The numbers and predictions that the tests look at.

    Attributes:
        metric: ``accuracy`` or ``f1``.
        labels: of the m test texts.
        zero_shot: classes that the model predicts before training: zero-shot, or in head mode the linear
            probe's.
        kernel: that the kernel's solution predicts; None if there is none.
        fine_tuned: that the fine-tuned model predicts; None if training diverged.
        linearized: that the linearized model at the fine-tuned weights predicts; None as well.
        distance: the mean elementwise relative distance of the train kernels before and after; None if it is
            not known.
        diverged: why there is no fine-tuned model; empty if there is one.
        median: the median of the same distances, said where a few entries near zero decide the mean.
        formula: of the kernel that was solved.
        unsolved: why it was not.
    """

    metric: str
    labels: Sequence[int]
    zero_shot: Sequence[int]
    kernel: Sequence[int] | None
    fine_tuned: Sequence[int] | None
    linearized: Sequence[int] | None
    distance: float | None
    diverged: str = ""
    median: float | None = None
    formula: str = "sgd"
    unsolved: str = ""

    def score(self, predictions: Sequence[int] | None) -> float | None:
        """Return the metric of predicted classes, None for none."""
        return None if predictions is None else score(self.metric, self.labels, predictions)

    def error(self, *parts: tuple[float, Sequence[int]]) -> float:
        """Return the standard error of a weighted sum of metrics."""
        return standard_error(self.metric, self.labels, parts)


def decide(evidence: Evidence) -> Verdict:
    """Return the verdict on one fine-tuning."""
    tests = (_solves(evidence), _recovers(evidence), _fixed(evidence))
    if evidence.diverged and all(test.passed is not False for test in tests):
        return Verdict(
            "undecided",
            f"fine-tuning diverged, so there is nothing to compare the kernel with: {evidence.diverged}",
            tests,
        )
    return concluded(tests)


def concluded(tests: tuple[Test, ...], note: str = "") -> Verdict:
    """Return the verdict of tests, with the sentences of those that decide it, and a note at the end."""
    failed = [test for test in tests if test.passed is False]
    undecided = [test for test in tests if test.passed is None]
    verdict: Answer = "not" if failed else "undecided" if undecided else "kernel-like"
    sentences = "; ".join(test.sentence for test in failed or undecided or tests)
    return Verdict(verdict, f"{REASONS[verdict]}: {sentences}{note}", tests)


def _solves(e: Evidence) -> Test:
    fine_tuned, kernel = e.score(e.fine_tuned), e.score(e.kernel)
    if fine_tuned is None or e.fine_tuned is None:
        why = "there is no fine-tuned model to compare the kernel's metric with"
        return Test("solves", None, SOLVES, None, why)
    if kernel is None or e.kernel is None:
        why = "the kernel was not solved" + (f": {e.unsolved}" if e.unsolved else "")
        return Test("solves", None, SOLVES, None, why)
    if fine_tuned == 0:
        why = f"fine-tuning's {e.metric} is 0, so the kernel's {_percent(kernel)} has no share of it"
        return Test("solves", None, SOLVES, None, why)
    share = kernel / fine_tuned
    error = e.error((1.0, e.kernel), (-SOLVES, e.fine_tuned))
    sentence = f"the {e.formula} kernel's {e.metric} of {_percent(kernel)} is {beside(kernel, fine_tuned)}"
    return _held_against("solves", share, SOLVES, kernel - SOLVES * fine_tuned, error, sentence, e)


def _recovers(e: Evidence) -> Test:
    zero_shot, fine_tuned, linearized = e.score(e.zero_shot), e.score(e.fine_tuned), e.score(e.linearized)
    name = "linearization"
    if zero_shot is None or fine_tuned is None or e.fine_tuned is None:
        return Test(name, None, RECOVERS, None, "there are no fine-tuned weights to linearize at")
    if linearized is None or e.linearized is None:
        return Test(name, None, RECOVERS, None, "there are no fine-tuned weights to linearize at")
    gain = fine_tuned - zero_shot
    error = e.error((1.0, e.fine_tuned), (-1.0, e.zero_shot))
    of = f"from {_percent(zero_shot)} to {_percent(fine_tuned)}"
    if gain <= 0:
        why = f"fine-tuning gained nothing, {of}, so there is no gain to recover"
        return Test(name, None, RECOVERS, None, why)
    if gain < SURE * error:
        why = (
            f"fine-tuning went {of}, a gain of {_points(gain)}, within twice the error of {_points(error)} "
            f"that {len(e.labels)} test texts leave: too small a gain for a share"
        )
        return Test(name, None, RECOVERS, None, why)
    share = recovered_share(zero_shot, fine_tuned, linearized)
    error = e.error((1.0, e.linearized), (-RECOVERS, e.fine_tuned), (RECOVERS - 1.0, e.zero_shot))
    sentence = (
        f"the linearized model, at {_percent(linearized)}, recovers {_percent(share)} of fine-tuning's gain "
        f"{of}"
    )
    return _held_against(name, share, RECOVERS, linearized - zero_shot - RECOVERS * gain, error, sentence, e)


def _held_against(
    name: str, share: float, threshold: float, margin: float, error: float, sentence: str, e: Evidence
) -> Test:
    """Return the test of a share whose metrics have a margin over the threshold, with this standard error."""
    if abs(margin) < NEAR * error:
        sentence += (
            f", and {len(e.labels)} test texts leave an error of {_points(error)}, too large to tell it from "
            f"the {_percent(threshold, 0)} asked for"
        )
        return Test(name, share, threshold, None, sentence)
    passed = margin >= 0
    sentence += f", {'at least' if passed else 'less than'} {_percent(threshold, 0)}"
    return Test(name, share, threshold, passed, sentence)


def _fixed(e: Evidence) -> Test:
    name = "fixed features"
    if e.distance is None or math.isnan(e.distance):
        return Test(name, None, FIXED, None, "the kernel after fine-tuning is not known")
    passed = e.distance < FIXED
    sentence = f"the kernel's entries moved by {e.distance:.2f} times their size on average"
    if e.median is not None and e.distance > SKEWED * e.median:
        sentence += f" (by {e.median:.2f} in the median: entries near zero decide the mean)"
    sentence += f", {'less than' if passed else 'not less than'} {FIXED:.1f}"
    return Test(name, e.distance, FIXED, passed, sentence)


def beside(kernel: float, fine_tuned: float) -> str:
    """Return where the kernel's metric stands to fine-tuning's: its share, or how far above it is.

    More than all of fine-tuning's would read as praise.
    """
    of = f"fine-tuning's {_percent(fine_tuned)}"
    above = kernel - fine_tuned
    return f"{_percent(kernel / fine_tuned)} of {of}" if above <= 0 else f"{_points(above)} above {of}"


def _percent(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f} %"


def _points(value: float) -> str:
    return f"{100 * value:.1f} points"
