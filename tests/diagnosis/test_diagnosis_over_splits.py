"""One verdict per task, from its splits."""

from __future__ import annotations

import numpy as np
import pytest

from lmntk.diagnosis import over_splits as module
from lmntk.diagnosis.comparison import compare
from lmntk.diagnosis.over_splits import comparisons_in, over_splits, task_comparison, task_verdict
from lmntk.diagnosis.uncertainty import error_of_mean
from lmntk.errors import UserError
from lmntk.tasks.metrics import score

PLAIN = {"zero_shot": 0.6, "fine_tuned": 0.9, "kernel": 0.88, "linearized": 0.85, "kernel_distance": 0.4}
WOBBLE = (-0.02, 0.0, 0.01, 0.02, -0.01)
LABELS = [0, 1] * 2000  # so many that their error is small


def predicted(share, labels):
    """Returns classes of which this share is right: the first ones."""
    right = round(share * len(labels))
    return [label if place < right else 1 - label for place, label in enumerate(labels)]


def splits(labels=LABELS, **changes):
    numbers = PLAIN | changes
    found = []
    for seed, shift in enumerate(WOBBLE):
        own = {
            n: None if v is None else v[seed] if isinstance(v, list) else v + shift
            for n, v in numbers.items()
        }
        tests = [{"name": "solves", "value": 1.0, "threshold": 0.9, "passed": None, "sentence": "nothing"}]
        head = {
            "task": "films",
            "k": 4,
            "mode": "prompt",
            "metric": "accuracy",
            "method": "sgd fine-tuning",
            "seed": seed,
        }
        classes = {
            n: None if own[n] is None else predicted(own[n], labels)
            for n in ("zero_shot", "fine_tuned", "kernel", "linearized")
        }
        more = {"formula": "sgd", "logits": {"labels": list(labels)}, "predictions": classes}
        found.append(
            head | more | {"verdict": "undecided", "reason": f"split {seed}", "tests": tests, "numbers": own}
        )
    return found


def test_means_decide():
    found = task_verdict(splits())
    assert found.verdict == "kernel-like" and [test.passed for test in found.tests] == [True] * 3
    assert found.tests[0].value == pytest.approx(0.88 / 0.9) and found.tests[1].value == pytest.approx(
        0.25 / 0.3
    )
    assert "88.0 % over 5 splits is 97.8 % of fine-tuning's 90.0 %" in found.reason


@pytest.mark.parametrize(
    ("changes", "passed", "verdict", "named"),
    [
        ({"kernel": 0.7}, [False, True, True], "not", "is 77.8 % of fine-tuning's 90.0 %, less than 90 %"),
        ({"linearized": 0.65}, [True, False, True], "not", "recovers 16.7 %"),
        ({"kernel_distance": 3.0}, [True, True, False], "not", "3.00 times their size"),
        (
            {"kernel_distance": [1.0, 3.5, 1.2, 2.5, 1.9]},
            [True, True, None],
            "undecided",
            "within the splits' error of",
        ),
        ({"zero_shot": [0.9, 0.8, 0.95, 0.99, 0.8]}, [True, None, True], "undecided", "gained 1.2 points"),
        ({"kernel": [0.6, 0.9, 0.9, 0.9, 0.76]}, [None, True, True], "undecided", "the error of"),
        ({"kernel": None}, [None, True, True], "undecided", "was not solved"),
        ({"linearized": None}, [True, None, True], "undecided", "no linearized model"),
    ],
)
def test_branches(changes, passed, verdict, named):
    found = task_verdict(splits(**changes))
    assert ([test.passed for test in found.tests], found.verdict) == (passed, verdict)
    assert named in found.reason


def test_few_test_texts_leave_an_error_that_more_splits_do_not_take_away():
    assert task_verdict(splits()).verdict == "kernel-like"
    few = task_verdict(splits(LABELS[:40], kernel=0.84))
    assert [test.passed for test in few.tests] == [None, True, True]
    assert task_verdict(splits(kernel=0.84)).tests[0].passed is True
    parts = [(1 / 5, one) for one in splits(LABELS[:40], kernel=0.84)]
    of_texts = error_of_mean(
        "accuracy",
        LABELS[:40],
        [[(1.0, one["predictions"]["kernel"]), (-0.9, one["predictions"]["fine_tuned"])] for _, one in parts],
    )
    margins = [one["numbers"]["kernel"] - 0.9 * one["numbers"]["fine_tuned"] for _, one in parts]
    error = float(np.hypot(np.std(margins, ddof=1) / 5**0.5, of_texts))
    assert (
        abs(np.mean(margins)) < error
        and f"the error of {100 * error:.1f} points over splits and texts" in few.reason
    )


def test_each_error_is_that_of_the_margin_it_is_held_against(monkeypatch):
    """A weight, sign or method that differs between the two would make the sum of metrics another number than the margin."""
    seen = []

    def recorded(metric, margins, labels, splits):
        sums = [
            sum(weight * score(metric, truth, classes) for weight, classes in parts)
            for truth, parts in zip(labels, splits, strict=True)
        ]
        seen.append((margins, sums))
        return 0.0

    monkeypatch.setattr(module, "error_over_splits", recorded)
    task_verdict(splits(kernel=[0.8, 0.9, 0.85, 0.7, 0.75], linearized=[0.6, 0.9, 0.7, 0.8, 0.65]))
    assert len(seen) == 3  # the kernel, the gain, the linearized model
    for margins, sums in seen:
        assert margins == pytest.approx(sums)
    assert seen[0][0][0] == pytest.approx(0.8 - 0.9 * 0.88) and seen[1][0] == pytest.approx([0.3] * 5)
    assert seen[2][0][3] == pytest.approx(0.8 - 0.62 - 0.5 * 0.3)


def test_a_split_that_is_given_twice_is_no_surer():
    """Four texts, all right: agreement of few must not pass for certainty."""
    (one,) = splits(LABELS[:4], zero_shot=0.0, fine_tuned=1.0, kernel=1.0, linearized=1.0)[1:2]
    assert task_verdict([one, one]).tests[0].passed is None


def test_kernels_of_two_formulas_have_no_mean():
    some = splits()
    some[2]["formula"] = "asigngd"
    found = task_verdict(some)
    assert (
        found.tests[0].passed is None
        and "some splits have the asigngd and some the sgd kernel" in found.reason
    )


def test_no_gain_is_said_to_be_none():
    found = task_verdict(splits(zero_shot=0.95))
    assert (
        found.verdict == "undecided" and "gained nothing over 5 splits, from 95.0 % to 90.0 %" in found.reason
    )


def test_each_split_with_its_own_test_texts_is_as_good_as_so_many_more_texts():
    some = splits(LABELS[:40], kernel=0.84)
    same = task_verdict(some).tests[0]
    for shift, one in enumerate(some):  # other texts in every split: their luck is their own
        truth = [LABELS[(place + shift) % 2] for place in range(40)]
        one["logits"] = {"labels": truth}
        one["predictions"] = {n: predicted(one["numbers"][n], truth) for n in one["predictions"]}
    other = task_verdict(some).tests[0]
    assert same.passed is None and other.passed is True and other.value == same.value


def test_splits_that_diverged_are_left_out_and_counted():
    some = splits(fine_tuned=[None, 0.9, 0.91, 0.92, 0.89])
    found = task_verdict(some)
    assert found.verdict == "kernel-like" and "1 of 5 splits are left out" in found.reason
    assert found.tests[0].value == pytest.approx(
        (0.88 + np.mean(WOBBLE[1:])) / np.mean([0.9, 0.91, 0.92, 0.89])
    )
    one = task_verdict(splits(fine_tuned=[None, 0.9, None, None, None]))
    assert one.verdict == "undecided" and one.reason.startswith("split 1") and "4 of 5" in one.reason
    none = task_verdict(splits(fine_tuned=None))
    assert none.verdict == "undecided" and none.reason == "split 0; so in all 5 splits"


def test_mistakes_are_said():
    with pytest.raises(UserError, match="no diagnosis"):
        task_verdict([])
    some = splits()
    with pytest.raises(UserError, match="mode is head in one diagnosis and prompt in another"):
        task_verdict([some[0], some[1] | {"mode": "head"}])


def compared(first, second, labels=LABELS, metric="accuracy"):
    """Returns two fine-tunings of one split, of which these shares of the test texts are right."""
    each = [predicted(share, labels) for share in (first, second)]
    results = [
        {
            "split": "a",
            "metric": metric,
            "method": name,
            "test": score(metric, labels, found),
            "predictions": found,
        }
        for name, found in zip(("one", "other"), each, strict=True)
    ]
    return compare(*results, labels)


def test_two_fine_tunings_over_splits():
    splits = [compared(first, second) for first, second in ((0.8, 0.7), (0.9, 0.7), (0.7, 0.6))]
    found = task_comparison(splits, ("one", "other"))
    assert (found.first, found.second, found.agreement) == pytest.approx((0.8, 2 / 3, 1 - 0.4 / 3))
    pairs = [[(1.0, one.seen.first), (-1.0, one.seen.second)] for one in splits]
    texts = error_of_mean("accuracy", LABELS, pairs)
    assert 0 < texts < 0.01 and found.error == pytest.approx(
        np.hypot(np.std([0.1, 0.2, 0.1], ddof=1) / 3**0.5, texts)
    )
    assert found.differs and "3 splits, a difference of 13.3 points, more than" in found.sentence
    assert not task_comparison([splits[0], splits[0], compared(0.5, 0.7)], ("one", "other")).differs
    turned = task_comparison([compared(one.second, one.first) for one in splits[:2]], ("one", "other"))
    assert turned.first < turned.second and turned.differs and "more than twice the error" in turned.sentence
    assert task_comparison(splits[:1], ("one", "other")) is splits[0]
    with pytest.raises(UserError, match="no split"):
        task_comparison([], ("one", "other"))
    with pytest.raises(UserError, match="give the comparison of each split"):
        task_comparison([found, found], ("one", "other"))


@pytest.mark.parametrize(("second", "differs"), [(0.6, True), (0.79, False), (0.81, False), (1.0, True)])
def test_two_fine_tunings_of_one_split_may_differ_in_either_direction(second, differs):
    found = compared(0.8, second, LABELS[:400])
    assert found.differs == differs and ("more than" if differs else "within") in found.sentence
    assert found.agreement == pytest.approx(1 - abs(0.8 - second))


@pytest.mark.parametrize("metric", ["accuracy", "f1"])
def test_splits_that_differ_by_the_same_text_are_no_surer_than_its_error(metric):
    """80 test texts, one of which one fine-tuning gets right and the other wrong, in both splits: the splits agree, the texts are few."""
    one = compared(49 / 80, 48 / 80, LABELS[:80], metric)
    found = task_comparison([one, one], ("one", "other"))
    assert found.first - found.second == pytest.approx(one.first - one.second) and found.first != found.second
    assert found.error >= 1 / 80 and not found.differs and "within twice the error of" in found.sentence


def test_comparisons_stand_in_the_verdicts_without_their_texts():
    head = {"task": "films", "k": 4, "mode": "prompt"}
    for count in (1, 2):
        (one,) = over_splits([], [(head, compared(0.8, 0.7))] * count, {})["comparisons"]
        assert set(one) == {
            *head,
            "title",
            "splits",
            "first",
            "second",
            "error",
            "agreement",
            "differs",
            "sentence",
        }


def test_two_trainings_by_different_metrics_are_not_compared():
    split = {"rows": [{"task": "films", "k": 4, "mode": "prompt"}], "test_labels": [0, 1]}
    both = [
        {
            "split": "c",
            "method": f"{name} fine-tuning",
            "metric": "accuracy",
            "test": 0.5,
            "predictions": [0, 1],
        }
        for name in ("signgd", "adamw")
    ]
    assert len(comparisons_in(both, {"c": split})) == 1
    assert comparisons_in([both[0], both[1] | {"metric": "f1"}], {"c": split}) == []
    assert comparisons_in([both[0], both[1] | {"predictions": [0]}], {"c": split}) == []
