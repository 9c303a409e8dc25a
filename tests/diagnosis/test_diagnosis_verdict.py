"""Every branch of the verdict, with the numbers that its sentences must name; errors of small test sets; comparisons of two results."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_diagnosis_over_splits import compared, splits

from lmntk.diagnosis import comparison as comparison_module
from lmntk.diagnosis import over_splits as over_splits_module
from lmntk.diagnosis import verdict as module
from lmntk.diagnosis.comparison import compare
from lmntk.diagnosis.over_splits import task_comparison, task_verdict
from lmntk.diagnosis.uncertainty import error_of_mean, standard_error
from lmntk.diagnosis.verdict import Evidence, decide
from lmntk.errors import UserError
from lmntk.tasks.metrics import score

LABELS = [0, 1] * 500


def right(share, of=1000, start=0):
    """Classes of which this share is right, the first ones."""
    count = round(share * of)
    return [LABELS[i] if (i - start) % of < count else 1 - LABELS[i] for i in range(of)]


def evidence(**changes):
    plain = Evidence("accuracy", LABELS, right(0.6), right(0.88), right(0.9), right(0.85), 0.4)
    return replace(plain, **changes)


def test_kernel_like():
    found = decide(evidence())
    assert (found.verdict, [test.passed for test in found.tests]) == ("kernel-like", [True, True, True])
    assert [test.name for test in found.tests] == ["solves", "linearization", "fixed features"]
    assert [test.threshold for test in found.tests] == [0.9, 0.5, 2.0]
    assert (
        found.tests[0].value == pytest.approx(0.88 / 0.9)
        and "88.0 % is 97.8 % of fine-tuning's 90.0 %" in found.reason
    )
    assert (
        found.tests[1].value == pytest.approx(0.25 / 0.3)
        and "85.0 %, recovers 83.3 % of fine-tuning's gain from 60.0 % to 90.0 %" in found.reason
    )
    assert found.tests[2].value == 0.4 and "0.40 times their size" in found.reason
    assert found.as_dict()["tests"][2]["passed"] is True


@pytest.mark.parametrize(
    ("changes", "failing", "named"),
    [
        ({"kernel": right(0.7)}, 0, "70.0 % is 77.8 % of fine-tuning's 90.0 %, less than 90 %"),
        ({"linearized": right(0.62)}, 1, "recovers 6.7 % of fine-tuning's gain"),
        ({"linearized": right(0.5)}, 1, "recovers -33.3 % of fine-tuning's gain"),
        ({"distance": 2.0}, 2, "2.00 times their size on average, not less than 2.0"),
        ({"distance": float("inf")}, 2, "inf times"),
        ({"distance": 7.5, "median": 0.25}, 2, "by 0.25 in the median: entries near zero decide the mean"),
    ],
)
def test_one_that_fails_is_enough(changes, failing, named):
    found = decide(evidence(**changes))
    assert found.verdict == "not"
    assert [test.passed for test in found.tests] == [index != failing for index in range(3)]
    assert named in found.reason and named in found.tests[failing].sentence


@pytest.mark.parametrize(
    ("changes", "open_test", "named"),
    [
        (
            {"kernel": right(0.81)},
            0,
            "1000 test texts leave an error of 0.9 points, too large to tell it from the 90 % asked for",
        ),
        ({"linearized": right(0.75)}, 1, "recovers 50.0 % of fine-tuning's gain"),
        ({"zero_shot": right(0.9)}, 1, "gained nothing, from 90.0 % to 90.0 %"),
        ({"zero_shot": right(0.93)}, 1, "gained nothing, from 93.0 % to 90.0 %"),
        ({"zero_shot": right(0.89, start=500)}, 1, "a gain of 1.0 points, within twice the error of"),
        ({"distance": None}, 2, "kernel after fine-tuning is not known"),
        ({"distance": float("nan")}, 2, "kernel after fine-tuning is not known"),
        ({"kernel": None}, 0, "the kernel was not solved"),
    ],
)
def test_what_cannot_be_told_is_not_decided(changes, open_test, named):
    found = decide(evidence(**changes))
    assert found.verdict == "undecided"
    assert [test.passed for test in found.tests] == [
        None if index == open_test else True for index in range(3)
    ]
    assert named in found.tests[open_test].sentence and named in found.reason


def test_what_fails_outweighs_what_cannot_be_told():
    assert decide(evidence(zero_shot=right(0.9), distance=3.0)).verdict == "not"


def test_training_that_diverged():
    found = decide(
        evidence(fine_tuned=None, linearized=None, distance=None, diverged="the loss was nan at step 12")
    )
    assert found.verdict == "undecided" and [test.passed for test in found.tests] == [None] * 3
    assert found.reason.endswith("the loss was nan at step 12")


def test_nothing_right_at_all():
    found = decide(evidence(metric="f1", fine_tuned=[0] * 1000, linearized=[0] * 1000, zero_shot=[0] * 1000))
    assert found.tests[0].passed is None and "f1 is 0" in found.tests[0].sentence
    assert found.verdict == "undecided"


def test_a_small_test_set_decides_little():
    """The same shares on ten texts."""
    ten = {
        "labels": LABELS[:10],
        "zero_shot": right(0.6, 10),
        "kernel": right(0.8, 10),
        "fine_tuned": right(0.9, 10),
        "linearized": right(0.8, 10),
    }
    found = decide(evidence(**ten))
    assert found.verdict == "undecided"
    assert "10 test texts" in found.reason


@pytest.mark.parametrize("metric", ["accuracy", "f1"])
def test_the_error_is_that_of_drawing_test_sets(metric):
    """Against the spread over many test sets of a made-up population."""
    generator = np.random.default_rng(0)

    def draw(m=300):
        labels = (generator.random(m) < 0.4).astype(int)
        hard = generator.random(m)
        predictions = [
            np.where(hard + 0.2 * generator.random(m) < share, labels, 1 - labels) for share in (0.95, 0.8)
        ]
        return labels, predictions

    differences, errors = [], []
    for _ in range(400):
        labels, (one, two) = draw()
        differences.append(score(metric, labels, one) - 0.9 * score(metric, labels, two))
        errors.append(standard_error(metric, labels, [(1.0, one), (-0.9, two)]))
    assert np.mean(errors) == pytest.approx(np.std(differences), rel=0.15)


def test_texts_that_all_agree_on_are_not_certain():
    assert standard_error("accuracy", [1] * 4, [(1.0, [1] * 4), (-1.0, [0] * 4)]) > 0.1
    assert standard_error("accuracy", [1] * 4, [(1.0, [1] * 4), (-1.0, [1] * 4)]) > 0.05


def result(method, predictions, labels, **changes):
    return {
        "split": "a",
        "metric": "accuracy",
        "method": method,
        "test": score("accuracy", labels, predictions),
        "predictions": predictions,
    } | changes


def test_comparison_of_signgd_and_adam():
    signgd, adam = (
        result("signgd fine-tuning", right(0.9), LABELS),
        result("adamw fine-tuning", right(0.905), LABELS),
    )
    close = compare(signgd, adam, LABELS)
    assert (close.first, close.second, close.agreement) == (0.9, 0.905, pytest.approx(0.995))
    far = compare(signgd, result("adamw fine-tuning", right(0.8), LABELS), LABELS)
    assert (
        far.differs
        and "signgd fine-tuning has 90.0 % and adamw fine-tuning 80.0 %, a difference of 10.0 points, more than"
        in far.sentence
    )
    with pytest.raises(UserError, match="'a' and 'b' are not the same"):
        compare(signgd, adam | {"split": "b"}, LABELS)
    with pytest.raises(UserError, match="did it diverge"):
        compare(signgd, adam | {"test": None}, LABELS)


def test_each_error_is_that_of_the_margin_it_is_held_against(monkeypatch):
    """0.88 - 0.9 x 0.9 of the kernel, the gain of 0.9 - 0.6, and of the linearized model 0.85 less half of it."""
    seen = []

    def recorded(metric, labels, parts):
        seen.append(sum(weight * score(metric, labels, classes) for weight, classes in parts))
        return 0.0

    monkeypatch.setattr(module, "standard_error", recorded)
    decide(evidence())
    assert seen == pytest.approx([0.88 - 0.9 * 0.9, 0.3, 0.85 - 0.6 - 0.15])


@pytest.mark.parametrize(
    ("first", "second", "weights", "error"),
    [
        # ten texts, of which each gets another half: the jackknife's, 10 values of +-1 over 10 x 9
        ([1] * 5 + [0] * 5, [0] * 5 + [1] * 5, (1, -1), 1 / 3),
        # all right: two texts in four cases of which two differ, a half each, over six
        ([1] * 4, [1] * 4, (1, -1), 1 / 6),
        # 0.5 six times, 1 three times and 0 once, the cases 0, 1, -0.5 and 0.5 a half each, over twelve
        ([1] * 9 + [0], [1] * 6 + [0] * 4, (1, -0.5), ((5.25 / 12 - (6.5 / 12) ** 2) / 12) ** 0.5),
    ],
)
def test_standard_errors_by_hand(first, second, weights, error):
    truth = [1] * len(first)
    parts = list(zip(weights, (first, second), strict=True))
    assert standard_error("accuracy", truth, parts) == pytest.approx(error, rel=1e-12)
    twice = error_of_mean("accuracy", truth, [parts, parts])  # of a split that is given twice
    assert twice == pytest.approx(error, rel=1e-12)


EDGES = [  # errors of the kernel's margin of 0.07, the gain of 0.3 and the linearized model's margin of 0.1
    ((0.069, 0.149, 0.099), [True, True]),
    ((0.071, 0.149, 0.099), [None, True]),
    ((0.069, 0.151, 0.099), [True, None]),
    ((0.069, 0.149, 0.101), [True, None]),
]


@pytest.mark.parametrize(("errors", "passed"), EDGES)
@pytest.mark.parametrize("over_splits", [False, True])
def test_a_margin_must_be_its_error_and_a_gain_twice_its_error(monkeypatch, over_splits, errors, passed):
    coming = iter(errors)
    if over_splits:
        monkeypatch.setattr(over_splits_module, "error_over_splits", lambda *_: next(coming))
        found = task_verdict(splits())
    else:
        monkeypatch.setattr(module, "standard_error", lambda *_: next(coming))
        found = decide(evidence())
    assert [test.passed for test in found.tests[:2]] == passed


@pytest.mark.parametrize(("error", "differs"), [(0.049, True), (0.051, False)])
@pytest.mark.parametrize("over_splits", [False, True])
def test_metrics_differ_by_more_than_twice_their_error(monkeypatch, over_splits, error, differs):
    monkeypatch.setattr(comparison_module, "standard_error", lambda *_: error)
    monkeypatch.setattr(over_splits_module, "error_over_splits", lambda *_: error)
    both = [compared(0.7, 0.8)] * 2
    found = task_comparison(both, ("one", "other")) if over_splits else both[0]
    assert found.differs == differs and f"error of {100 * error:.1f} points" in found.sentence
