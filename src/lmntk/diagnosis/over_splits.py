"""One verdict per task: the three tests on the means over splits, with the error that the splits and the test texts leave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lmntk.diagnosis.uncertainty import error_over_splits
from lmntk.diagnosis.verdict import FIXED, NEAR, RECOVERS, SOLVES, SURE, Test, Verdict, concluded
from lmntk.errors import UserError
from lmntk.solvers.inputs import Array

SAME = ("task", "k", "mode", "metric", "method")
Parts = Sequence[tuple[float, str]]  # weights of metrics, by whose predictions they are of


def task_verdict(diagnoses: Sequence[Mapping[str, Any]]) -> Verdict:
    """Returns the verdict on a task from its splits' diagnoses, each as ``Diagnosis.as_dict`` has it.

    Metrics and distances are averaged over the splits, and the thresholds are those of one split. A mean that is nearer to its threshold
    than its standard error cannot be told from it, and a gain must be twice its error. The error of a metric is that over the splits,
    and that of the test texts that they share, squares added; a distance's is that over the splits. Splits whose training
    diverged are left out, and counted in the reason. One split alone keeps its own verdict.

    Raises:
        UserError: no diagnosis, or of different tasks, k, modes, metrics or methods.
    """
    if not diagnoses:
        raise UserError("verdict: there is no diagnosis of the task; run `lmntk diagnose` first")
    for name in SAME:
        values = sorted({str(found.get(name)) for found in diagnoses})
        if len(values) > 1:
            raise UserError(
                f"verdict: {name} is {values[0]} in one diagnosis and {values[1]} in another; give those of one task"
            )
    told = [found for found in diagnoses if found["numbers"].get("fine_tuned") is not None]
    lost = len(diagnoses) - len(told)
    note = f"; {lost} of {len(diagnoses)} splits are left out, for their training diverged" if lost else ""
    if len(told) < 2:
        (one,) = told or diagnoses[:1]
        tests = tuple(Test(**test) for test in one["tests"])
        return Verdict(
            one["verdict"],
            one["reason"] + (note if told else f"; so in all {lost} splits" if lost > 1 else ""),
            tests,
        )
    return concluded((_solves(told), _recovers(told), _fixed(told)), note)


def _numbers(told: Sequence[Mapping[str, Any]], name: str) -> Array | None:
    values = [found["numbers"].get(name) for found in told]
    return None if any(value is None for value in values) else np.array(values, dtype=np.float64)


def _error(values: Array) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def _whole_error(margins: Array, told: Sequence[Mapping[str, Any]], parts: Parts) -> float:
    """Returns the standard error of a mean margin, over the splits and the test texts."""
    own = [[(weight, found["predictions"][name]) for weight, name in parts] for found in told]
    return error_over_splits(
        str(told[0]["metric"]), margins, [found["logits"]["labels"] for found in told], own
    )


def _answer(margins: Array, error: float) -> bool | None:
    """True or False where the mean margin over the splits is further from 0 than its error."""
    mean = float(margins.mean())
    return None if abs(mean) < NEAR * error else mean >= 0


def _words(passed: bool | None, error: float, threshold: str) -> str:
    if passed is None:
        return f", and the error of {100 * error:.1f} points over splits and texts is too much to tell it from the {threshold} asked for"
    return f", {'at least' if passed else 'less than'} {threshold}"


def _solves(told: Sequence[Mapping[str, Any]]) -> Test:
    formulas = sorted({str(found["formula"]) for found in told})
    if len(formulas) > 1:
        why = f"some splits have the {' and some the '.join(formulas)} kernel; keep the same kernels of all"
        return Test("solves", None, SOLVES, None, why)
    kernel, fine_tuned = _numbers(told, "kernel"), _numbers(told, "fine_tuned")
    if kernel is None or fine_tuned is None or fine_tuned.mean() == 0:
        return Test(
            "solves",
            None,
            SOLVES,
            None,
            "the kernel was not solved in every split, or fine-tuning's metric is 0",
        )
    margins = kernel - SOLVES * fine_tuned
    error = _whole_error(margins, told, [(1.0, "kernel"), (-SOLVES, "fine_tuned")])
    share, passed = float(kernel.mean() / fine_tuned.mean()), _answer(margins, error)
    said = f"the {formulas[0]} kernel's mean of {100 * kernel.mean():.1f} % over {len(told)} splits is {100 * share:.1f} % of "
    said += f"fine-tuning's {100 * fine_tuned.mean():.1f} %"
    return Test("solves", share, SOLVES, passed, said + _words(passed, error, f"{100 * SOLVES:.0f} %"))


def _recovers(told: Sequence[Mapping[str, Any]]) -> Test:
    zero_shot, fine_tuned, linearized = (
        _numbers(told, name) for name in ("zero_shot", "fine_tuned", "linearized")
    )
    name = "linearization"
    if zero_shot is None or fine_tuned is None or linearized is None:
        return Test(name, None, RECOVERS, None, "there is no linearized model in every split")
    gain = fine_tuned - zero_shot
    of = f"from {100 * zero_shot.mean():.1f} % to {100 * fine_tuned.mean():.1f} %"
    error = _whole_error(gain, told, [(1.0, "fine_tuned"), (-1.0, "zero_shot")])
    if gain.mean() <= 0:
        why = f"fine-tuning gained nothing over {len(told)} splits, {of}, so there is no gain to recover a share of"
        return Test(name, None, RECOVERS, None, why)
    if gain.mean() < SURE * error:
        why = f"fine-tuning gained {100 * gain.mean():.1f} points over {len(told)} splits, {of}, within twice the error of "
        return Test(
            name, None, RECOVERS, None, f"{why}{100 * error:.1f} points, so a share of it would mean nothing"
        )
    margins = linearized - zero_shot - RECOVERS * gain
    error = _whole_error(
        margins, told, [(1.0, "linearized"), (-RECOVERS, "fine_tuned"), (RECOVERS - 1.0, "zero_shot")]
    )
    share, passed = float((linearized - zero_shot).mean() / gain.mean()), _answer(margins, error)
    said = f"the linearized model, at {100 * linearized.mean():.1f} %, recovers {100 * share:.1f} % of fine-tuning's mean gain {of}"
    return Test(name, share, RECOVERS, passed, said + _words(passed, error, f"{100 * RECOVERS:.0f} %"))


def _fixed(told: Sequence[Mapping[str, Any]]) -> Test:
    distance = _numbers(told, "kernel_distance")
    name = "fixed features"
    if distance is None:
        return Test(name, None, FIXED, None, "the kernel after fine-tuning is not known in every split")
    passed = _answer(FIXED - distance, _error(distance))
    said = f"the kernel's entries moved by {distance.mean():.2f} times their size on average over {len(told)} splits"
    if passed is None:
        return Test(
            name,
            float(distance.mean()),
            FIXED,
            None,
            f"{said}, within the splits' error of {_error(distance):.2f} of {FIXED:.1f}",
        )
    return Test(
        name,
        float(distance.mean()),
        FIXED,
        passed,
        f"{said}, {'less than' if passed else 'not less than'} {FIXED:.1f}",
    )
