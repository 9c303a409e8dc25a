"""What an experiment's diagnoses come to: one verdict a task, k, mode and way of fine-tuning, over the splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lmntk.diagnosis.comparison import Comparison, compare, over_splits
from lmntk.diagnosis.over_splits import task_verdict

FILE = "verdicts.json"
GROUP = ("task", "k", "mode", "method")
SIGNGD, ADAMW = "signgd fine-tuning", "adamw fine-tuning"
ENDING = "ending"  # of a method's name: which of the weights were trained, and whether linearized


def conclude(
    diagnoses: Sequence[Mapping[str, Any]],
    comparisons: Sequence[tuple[Mapping[str, Any], Comparison]],
    titles: Mapping[str, str],
) -> dict[str, Any]:
    """Returns the verdicts with their tests and the numbers' means over the splits, and how SignGD compares with Adam, as plain data.

    Args:
        diagnoses: each as ``diagnosis/*.json`` has it.
        comparisons: of SignGD and Adam, each with the ``task``, ``k`` and ``mode`` of its split, and what the methods' names end in.
        titles: the tasks' names in print.
    """
    verdicts = []
    for group in _grouped(diagnoses, GROUP):
        head = {name: group[0][name] for name in GROUP}
        said = task_verdict(group).as_dict()
        verdicts.append(
            head
            | {
                "title": titles.get(head["task"], head["task"]),
                "splits": len(group),
                **said,
                "numbers": _means(group),
            }
        )
    compared = []
    pairs = [dict(head) | {"found": found} for head, found in comparisons]
    for group in _grouped([{ENDING: "", **pair} for pair in pairs], (*GROUP[:3], ENDING)):
        head = {name: group[0][name] for name in GROUP[:3]}
        names = (SIGNGD + group[0][ENDING], ADAMW + group[0][ENDING])
        one = over_splits([pair["found"] for pair in group], names).as_dict()
        compared.append(head | {"title": titles.get(head["task"], head["task"]), "splits": len(group), **one})
    return {"verdicts": verdicts, "comparisons": compared}


def comparisons_in(
    finetunings: Sequence[Mapping[str, Any]], splits: Mapping[str, Mapping[str, Any]]
) -> list[tuple[Mapping[str, Any], Comparison]]:
    """Returns SignGD's fine-tuning beside Adam's of the same weights in each split where neither diverged, as ``conclude`` wants them.

    Args:
        finetunings: each as ``finetuning/*.json`` has it.
        splits: results by the splits' names, with the test labels.
    """
    ended = {(one["cell"], one["method"]): one for one in finetunings if one["test"] is not None}
    pairs: list[tuple[Mapping[str, Any], Comparison]] = []
    for (name, method), first in ended.items():
        ending = method.removeprefix(SIGNGD)
        second = ended.get((name, ADAMW + ending))
        labels = splits.get(name, {}).get("test_labels") or ()
        if ending == method or second is None or first.get("metric") != second.get("metric"):
            continue
        if all(len(one.get("predictions") or ()) == len(labels) > 0 for one in (first, second)):
            pairs.append(({**splits[name]["rows"][0], ENDING: ending}, compare(first, second, labels)))
    return pairs


def sentences(found: Mapping[str, Any]) -> list[str]:
    """Returns the verdicts and comparisons in a line each, for the summary."""
    lines = [f"{heading(one)}: **{one['verdict']}**. {_capital(one['reason'])}." for one in found["verdicts"]]
    return lines + [
        f"{one['title']}, k = {one['k']}, {one['mode']}: {one['sentence']}." for one in found["comparisons"]
    ]


def heading(one: Mapping[str, Any]) -> str:
    """Returns what a verdict is about."""
    return f"{one['title']}, k = {one['k']}, {one['mode']}, {one['method']}"


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _grouped(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[list[Mapping[str, Any]]]:
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return list(groups.values())


def _means(group: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Returns each number's mean over the splits that have it, of those that the verdict is over: whose training ended."""
    group = [one for one in group if one["numbers"].get("fine_tuned") is not None] or group
    names = dict.fromkeys(name for one in group for name in one["numbers"])
    values = {
        name: [one["numbers"][name] for one in group if one["numbers"].get(name) is not None]
        for name in names
    }
    return {name: float(np.mean(found)) if found else None for name, found in values.items()}
