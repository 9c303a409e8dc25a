"""Means, deviations and marks of verdicts and tables, by hand: with numbers that tell population from sample deviation."""

from __future__ import annotations

import pytest

from lmntk.reports.reached import reached
from lmntk.reports.tables import result_tables
from lmntk.reports.verdicts import at_largest_k, counted, thresholds, verdicts


def diagnosis(seed, kernel, k=4, fine_tuned=1.0, verdict="not", **numbers):
    """A split whose kernel has this accuracy of fine-tuning's 100 %."""
    tests = [
        {"name": "solves", "value": kernel, "threshold": 0.9, "passed": kernel >= 0.9, "sentence": "s"},
        {"name": "fixed features", "value": 2 * kernel, "threshold": 2.0, "passed": True, "sentence": "f"},
    ]
    known = {"kernel": kernel, "fine_tuned": fine_tuned, "kernel_distance": 2 * kernel, "rate": 0.1} | numbers
    labels = [0, 1] * 5
    share = {"kernel": kernel, "fine_tuned": fine_tuned, "zero_shot": 0.5, "linearized": 1.0}
    predictions = {
        name: None
        if value is None
        else [each if i < round(10 * value) else 1 - each for i, each in enumerate(labels)]
        for name, value in share.items()
    }
    return {
        "task": "films", "k": k, "mode": "prompt", "method": "sgd fine-tuning", "seed": seed, "metric": "accuracy", "formula": "sgd",
        "verdict": verdict, "reason": "r", "tests": tests, "numbers": {"zero_shot": 0.5, "linearized": 1.0} | known,
        "predictions": predictions, "logits": {"labels": labels},
    }  # fmt: skip


def test_numbers_are_means_with_population_deviations():
    (found,) = verdicts(
        [diagnosis(seed, value) for seed, value in ((13, 0.8), (21, 0.9), (42, 1.0))], {"films": "Films"}
    )
    assert found.numbers["kernel"] == "90.0 (8.2)"  # a sample's were 10.0
    assert found.numbers["kernel distance"] == "1.8 (0.163)"
    assert found.numbers["fine-tuned"] == "100.0 (0.0)" and found.numbers["rate used"] == "0.1 (0)"
    assert found.title == "Films" and found.agreement == "over 3 splits" and len(found.splits) == 3
    solves, linearization, fixed = found.tests
    assert (solves.value, solves.deviation, solves.threshold) == ("-10.0 ± 11.6", "", "≥ 90 %")
    assert (solves.alone, solves.outcome) == ((False, True, True), "cannot be told; alone 2 passed, 1 failed")
    assert (linearization.value, linearization.deviation, linearization.threshold) == ("100.0 %", "", "")
    assert (fixed.value, fixed.deviation, fixed.threshold, fixed.state) == ("1.80", "(0.16)", "< 2", "yes")


def test_numbers_are_of_the_splits_whose_training_ended():
    some = [diagnosis(13, 0.8), diagnosis(21, 0.9), diagnosis(42, 1.0, fine_tuned=None)]
    (found,) = verdicts(some, {})
    assert found.numbers["kernel"] == "85.0 (5.0)" and found.agreement == "over 2 splits"
    (alone,) = verdicts(some[:1], {})
    assert alone.numbers["kernel"] == "80.0" and (alone.agreement, alone.reason, alone.title) == (
        "",
        "r",
        "films",
    )
    assert (alone.tests[0].value, alone.tests[0].deviation, alone.tests[0].state) == (
        "-20.0 ± 13.6",
        "",
        "no",
    )


def test_of_several_k_the_largest_is_shown_first():
    judged = verdicts([diagnosis(13, 0.8, k=4), diagnosis(13, 1.0, k=16), diagnosis(13, 0.9, k=8)], {})
    assert [each.k for each in at_largest_k(judged)] == [16]
    assert counted(judged) == "3 verdicts: 0 kernel-like, 3 not, 0 undecided." and counted(judged[:1]) == ""
    assert thresholds(judged) == {"solves": "≥ 90 %", "linearization": "", "fixed features": "< 2"}


def row(method, seed, test, k=4, task="films"):
    return {
        "task": task,
        "k": k,
        "seed": seed,
        "mode": "prompt",
        "method": method,
        "metric": "accuracy",
        "test": test,
    }


def test_what_kernels_and_fine_tuning_reach():
    rows = [row("zero-shot", seed, 0.5) for seed in (13, 21, 42)] + [row("zero-shot", 13, 0.1, k=1)]
    rows += [row("sgd ridge", seed, value) for seed, value in ((13, 0.6), (21, 0.7), (42, 0.8))]
    rows += [row(f"zero-shot, {name}", 13, 0.95) for name in ("centred", "threshold fitted")]  # no kernels
    rows += [row("sgd svc", 13, 0.75), row("adamw fine-tuning", 13, 0.9)]
    (found,) = reached(rows, {"films": "Films"})
    assert (found.title, found.k, found.gain) == ("Films", 4, pytest.approx(25.0))  # of the best kernel
    assert found.sentence == (
        "The kernels reach 70.0 ± 8.2 (sgd ridge) and 75.0 (sgd svc); fine-tuning reaches 90.0 (adamw fine-tuning); zero-shot 50.0 ± 0.0."
    )


def test_best_and_near_are_marked_at_their_edges():
    """Near is within the best's deviation, the edge counted; equal as printed is best too; each column has its own."""
    values = {
        "a": (0.7, 0.9),
        "b": (0.6, 0.8),
        "c": (0.599, 0.799),
        "d": (0.8, 0.8004),
        "e": (0.8006, 0.8006),
    }
    rows = [
        row(method, seed, test)
        for method, pair in values.items()
        for seed, test in zip((13, 21), pair, strict=True)
    ]
    rows += [row("a", seed, 0.1, task="mr") for seed in (13, 21)] + [
        row("b", seed, 0.2, task="mr") for seed in (13, 21)
    ]
    (table,) = result_tables(rows, {})
    marks = {
        line.method: [entry and (entry.best, entry.near) for entry in line.entries]
        for line in table.blocks[0].lines
    }
    # e has no deviation, so that what prints less is not near
    assert marks["e"] == [(True, False), None]
    assert marks["d"][0] == (False, False) and marks["a"] == [(False, False), (False, False)]
    assert marks["b"][1] == (True, False)
    rows = [
        row(method, seed, test)
        for method in "abc"
        for seed, test in zip((13, 21), values[method], strict=True)
    ]
    (table,) = result_tables(rows, {})
    marks = {line.method: (line.entries[0].best, line.entries[0].near) for line in table.blocks[0].lines}
    assert marks == {"a": (True, False), "b": (False, True), "c": (False, False)}
    assert [line.entries[0].deviation for line in table.blocks[0].lines] == ["(10.0)"] * 3
