"""Statistics over the splits of a task: one verdict, one comparison of SignGD with Adam, and the means.

The regime, the forecast and the paper's three tests are those of the means over the splits, with the error that
the splits and the test texts leave.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lmntk.diagnosis.comparison import Comparison, compare
from lmntk.diagnosis.forecast import forecast_of
from lmntk.diagnosis.regime import Record, ended, regime_of
from lmntk.diagnosis.uncertainty import error_over_splits
from lmntk.diagnosis.verdict import (
    FIXED,
    NEAR,
    RECOVERS,
    SOLVES,
    SURE,
    TESTS,
    Test,
    Verdict,
    beside,
    concluded,
)
from lmntk.errors import UserError
from lmntk.solvers.inputs import Array

FILE = "verdicts.json"
SAME = ("task", "k", "mode", "metric", "method")
GROUP = ("task", "k", "mode", "method")
SIGNGD, ADAMW = "signgd fine-tuning", "adamw fine-tuning"
ENDING = "ending"  # of a method's name: which of the weights were trained, and whether linearized
Parts = Sequence[tuple[float, str]]  # weights of metrics, by whose predictions they are of


def over_splits(
    diagnoses: Sequence[Record],
    comparisons: Sequence[tuple[Record, Comparison]],
    titles: Mapping[str, str],
) -> dict[str, Any]:
    """Return regime, forecast and verdict a task, k, mode and method, and the comparisons of SignGD with Adam, as plain data.

    Args:
        diagnoses: of single splits, each as ``diagnoses/*.json`` has it.
        comparisons: of SignGD and Adam, each with the ``task``, ``k`` and ``mode`` of its split, and the
            ending of the methods' names.
        titles: the tasks' names in print.
    """
    verdicts = []
    for group in _grouped(diagnoses, GROUP):
        head = {name: group[0][name] for name in GROUP}
        splits = {"title": titles.get(head["task"], head["task"]), "splits": len(group)}
        claims = {"regime": regime_of(group).as_dict(), "forecast": forecast_of(group).as_dict()}
        verdicts.append(head | splits | claims | task_verdict(group).as_dict() | {"numbers": _means(group)})
    compared = []
    pairs = [{ENDING: "", **head, "comparison": comparison} for head, comparison in comparisons]
    for group in _grouped(pairs, (*GROUP[:3], ENDING)):
        head = {name: group[0][name] for name in GROUP[:3]}
        splits = {"title": titles.get(head["task"], head["task"]), "splits": len(group)}
        names = (SIGNGD + group[0][ENDING], ADAMW + group[0][ENDING])
        mean = task_comparison([pair["comparison"] for pair in group], names)
        compared.append(head | splits | mean.as_dict())
    return {"verdicts": verdicts, "comparisons": compared}


def comparisons_in(
    finetunings: Sequence[Record], splits: Mapping[str, Record]
) -> list[tuple[Record, Comparison]]:
    """Return SignGD's fine-tuning beside Adam's of the same weights, in each split where neither diverged.

    Args:
        finetunings: each as ``finetunings/*.json`` has it.
        splits: results by the splits' names, with the test labels.
    """
    ended = {
        (record["split"], record["method"]): record for record in finetunings if record["test"] is not None
    }
    pairs: list[tuple[Record, Comparison]] = []
    for (name, method), first in ended.items():
        ending = method.removeprefix(SIGNGD)
        second = ended.get((name, ADAMW + ending))
        labels = splits.get(name, {}).get("test_labels") or ()
        if ending == method or second is None or first.get("metric") != second.get("metric"):
            continue
        if all(len(record.get("predictions") or ()) == len(labels) > 0 for record in (first, second)):
            pairs.append(({**splits[name]["rows"][0], ENDING: ending}, compare(first, second, labels)))
    return pairs


def sentences(results: Record) -> list[str]:
    """Return the verdicts and comparisons of ``over_splits`` in a line each, for the summary."""
    lines = []
    for verdict in results["verdicts"]:
        regime, forecast = verdict["regime"], verdict["forecast"]["sentence"]
        tests = f"{TESTS}: {verdict['verdict']}: {verdict['reason']}"
        said = [line[:1].upper() + line[1:] for line in (forecast, tests) if line]
        said = [f"{heading(verdict)}: **{regime['phrase']}** ({regime['about']})", *said]
        lines.append(". ".join(said) + ".")
    for each in results["comparisons"]:
        lines.append(f"{each['title']}, k = {each['k']}, {each['mode']}: {each['sentence']}.")
    return lines


def heading(verdict: Record) -> str:
    """Return the task, k, mode and method that a verdict is about."""
    return f"{verdict['title']}, k = {verdict['k']}, {verdict['mode']}, {verdict['method']}"


def _grouped(rows: Sequence[Record], names: Sequence[str]) -> list[list[Record]]:
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return list(groups.values())


def _means(diagnoses: Sequence[Record]) -> dict[str, float | None]:
    """Return each number's mean over the splits that have it, of those that the verdict is over."""
    known = [each["numbers"] for each in ended(diagnoses) or diagnoses]
    names = dict.fromkeys(name for numbers in known for name in numbers)
    values = {name: [numbers[name] for numbers in known if numbers.get(name) is not None] for name in names}
    return {name: float(np.mean(some)) if some else None for name, some in values.items()}


def task_comparison(comparisons: Sequence[Comparison], names: tuple[str, str]) -> Comparison:
    """Return the comparison of two fine-tunings over the splits of a task: their means, and the error left.

    The error is that of a verdict over splits, ``error_over_splits``. One split alone keeps its own
    comparison.

    Args:
        comparisons: of each split, as ``compare`` has it.
        names: of the two.

    Raises:
        UserError: no split, or one that is a mean over splits already.
    """
    if not comparisons:
        raise UserError("compare: there is no split in which both ended; fine-tune with both")
    if len(comparisons) == 1:
        return comparisons[0]
    seen = [each.seen for each in comparisons if each.seen is not None]
    if len(seen) < len(comparisons):
        raise UserError(
            "compare: a mean over splits has no test texts of its own; give the comparison of each split"
        )
    differences = np.array([each.first - each.second for each in comparisons])
    first = float(np.mean([each.first for each in comparisons]))
    second = float(np.mean([each.second for each in comparisons]))
    error = error_over_splits(
        seen[0].metric, differences, [each.labels for each in seen], [each.parts() for each in seen]
    )
    agreement = float(np.mean([each.agreement for each in comparisons]))
    differs = bool(abs(differences.mean()) > SURE * error)
    sentence = (
        f"{names[0]} has {100 * first:.1f} % and {names[1]} {100 * second:.1f} % over {len(comparisons)} "
        f"splits, a difference of {100 * abs(first - second):.1f} points, {'more than' if differs else 'within'} twice the error of "
        f"{100 * error:.1f} points; "
        f"they agree on {100 * agreement:.1f} % of the test texts"
    )
    return Comparison(first, second, error, agreement, differs, sentence)


def task_verdict(diagnoses: Sequence[Record]) -> Verdict:
    """Return the verdict on a task from its splits' diagnoses, each as ``Diagnosis.as_dict`` has it.

    Metrics and distances are averaged over the splits, and the thresholds are those of one split. A mean that
    is nearer to its threshold than its standard error cannot be told from it, and a gain must be twice its
    error. The error of a metric is that over the splits, and that of the test texts that they share, squares
    added; a distance's is that over the splits. Splits whose training diverged are left out, and counted in
    the reason. One split alone keeps its own verdict.

    Raises:
        UserError: no diagnosis, or of different tasks, k, modes, metrics or methods.
    """
    if not diagnoses:
        raise UserError("verdict: there is no diagnosis of the task; run `lmntk diagnose` first")
    for name in SAME:
        values = sorted({str(each.get(name)) for each in diagnoses})
        if len(values) > 1:
            raise UserError(
                f"verdict: {name} is {values[0]} in one diagnosis and {values[1]} in another; "
                "give those of one task"
            )
    told = ended(diagnoses)
    lost = len(diagnoses) - len(told)
    note = (
        f"; {lost} of {len(diagnoses)} splits are left out, because their training diverged" if lost else ""
    )
    if len(told) < 2:
        (single,) = told or diagnoses[:1]
        tests = tuple(Test(**test) for test in single["tests"])
        note = note if told else f"; so in all {lost} splits" if lost > 1 else ""
        return Verdict(single["verdict"], single["reason"] + note, tests)
    return concluded((_solves(told), _recovers(told), _fixed(told)), note)


def _numbers(told: Sequence[Record], name: str) -> Array | None:
    values = [each["numbers"].get(name) for each in told]
    return None if any(value is None for value in values) else np.array(values, dtype=np.float64)


def _error(values: Array) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def _whole_error(margins: Array, told: Sequence[Record], parts: Parts) -> float:
    """Return the standard error of a mean margin, over the splits and the test texts."""
    predictions = [[(weight, each["predictions"][name]) for weight, name in parts] for each in told]
    labels = [each["logits"]["labels"] for each in told]
    return error_over_splits(str(told[0]["metric"]), margins, labels, predictions)


def _answer(margins: Array, error: float) -> bool | None:
    """Return whether the mean margin over the splits is at least 0; None where the error is larger."""
    mean = float(margins.mean())
    return None if abs(mean) < NEAR * error else mean >= 0


def _words(passed: bool | None, error: float, threshold: str) -> str:
    if passed is None:
        return (
            f", and the error of {100 * error:.1f} points over splits and texts is too large to tell it from "
            f"the {threshold} asked for"
        )
    return f", {'at least' if passed else 'less than'} {threshold}"


def _solves(told: Sequence[Record]) -> Test:
    formulas = sorted({str(each["formula"]) for each in told})
    if len(formulas) > 1:
        why = f"some splits have the {' and some the '.join(formulas)} kernel; keep the same kernels for all"
        return Test("solves", None, SOLVES, None, why)
    kernel, fine_tuned = _numbers(told, "kernel"), _numbers(told, "fine_tuned")
    if kernel is None or fine_tuned is None or fine_tuned.mean() == 0:
        why = "the kernel was not solved in every split, or fine-tuning's metric is 0"
        return Test("solves", None, SOLVES, None, why)
    margins = kernel - SOLVES * fine_tuned
    error = _whole_error(margins, told, [(1.0, "kernel"), (-SOLVES, "fine_tuned")])
    share, passed = float(kernel.mean() / fine_tuned.mean()), _answer(margins, error)
    sentence = f"the {formulas[0]} kernel's mean of {100 * kernel.mean():.1f} % over {len(told)} splits is "
    sentence += beside(float(kernel.mean()), float(fine_tuned.mean()))
    return Test("solves", share, SOLVES, passed, sentence + _words(passed, error, f"{100 * SOLVES:.0f} %"))


def _recovers(told: Sequence[Record]) -> Test:
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
        why = (
            f"fine-tuning gained nothing over {len(told)} splits, {of}, so there is no gain to recover a "
            "share of"
        )
        return Test(name, None, RECOVERS, None, why)
    if gain.mean() < SURE * error:
        why = f"fine-tuning gained {100 * gain.mean():.1f} points over {len(told)} splits, {of}, "
        why += f"within twice the error of {100 * error:.1f} points: too small a gain for a share"
        return Test(name, None, RECOVERS, None, why)
    margins = linearized - zero_shot - RECOVERS * gain
    error = _whole_error(
        margins, told, [(1.0, "linearized"), (-RECOVERS, "fine_tuned"), (RECOVERS - 1.0, "zero_shot")]
    )
    share, passed = float((linearized - zero_shot).mean() / gain.mean()), _answer(margins, error)
    sentence = f"the linearized model, at {100 * linearized.mean():.1f} %, recovers {100 * share:.1f} % of "
    sentence += f"fine-tuning's mean gain {of}"
    return Test(name, share, RECOVERS, passed, sentence + _words(passed, error, f"{100 * RECOVERS:.0f} %"))


def _fixed(told: Sequence[Record]) -> Test:
    distance = _numbers(told, "kernel_distance")
    name = "fixed features"
    if distance is None:
        return Test(name, None, FIXED, None, "the kernel after fine-tuning is not known in every split")
    mean, error = float(distance.mean()), _error(distance)
    passed = _answer(FIXED - distance, error)
    near = f"within the splits' error of {error:.2f} of"
    relation = {True: "less than", False: "not less than", None: near}[passed]
    sentence = f"the kernel's entries moved by {mean:.2f} times their size on average over {len(told)} splits"
    return Test(name, mean, FIXED, passed, f"{sentence}, {relation} {FIXED:.1f}")
