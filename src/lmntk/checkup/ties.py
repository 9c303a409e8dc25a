"""Tied parameters: which are one under several names, and which should be one and are two."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

import torch
from torch import nn

from lmntk.checkup.findings import Finding
from lmntk.models.invariants import TIES
from lmntk.models.vocabulary import head_of, head_weight, word_table

LARGE = 64  # entries; smaller parameters may well be equal by their initialisation
SHOWN = 3


def check_ties(model: nn.Module, trainable: Mapping[str, nn.Parameter]) -> list[Finding]:
    """Return which parameters are one under several names, and which should be one and are two.

    Doubled are two that are both trained and hold the same values, not all alike; and a vocabulary's head
    that the configuration ties to the embedding and that has a weight of its own.
    """
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    tied = [shared for shared in names.values() if len(shared) > 1]
    findings = []
    if tied:
        line = f"{_shown(tied, ' = ')}: counted once, with the gradients of all uses"
        findings.append(Finding(TIES.name, "fine", line, {"tied": tied}))
    doubled = [
        [names[first][0], names[second][0]]
        for first, second in _equal(list(trainable.values()))
        if first in names and second in names
    ]
    if doubled:
        line = (
            f"{_shown(doubled, ' and ')} hold the same values and are two parameters: "
            "tie them, or their gradient is split in two"
        )
        findings.append(Finding(TIES.name, "fault", line, {"doubled": doubled}))
    else:
        findings += _apart(getattr(model, "network", model), names)
    return findings


def _shown(groups: list[list[str]], between: str) -> str:
    more = f"; and {len(groups) - SHOWN} more" if len(groups) > SHOWN else ""
    return "; ".join(between.join(group) for group in groups[:SHOWN]) + more


def _equal(parameters: list[nn.Parameter]) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
    """Yield the pairs with the same values; small and constant ones say nothing (IA3 starts with ones)."""
    by_shape: dict[torch.Size, list[nn.Parameter]] = {}
    for parameter in parameters:
        if parameter.requires_grad and parameter.numel() >= LARGE:
            by_shape.setdefault(parameter.shape, []).append(parameter)
    for candidates in by_shape.values():
        for first, second in combinations(candidates, 2):
            if torch.equal(first, second) and bool(first.min() != first.max()):
                yield first, second


def _apart(network: Any, names: Mapping[nn.Parameter, list[str]]) -> list[Finding]:
    """Return a fault where the configuration ties the head to the embedding and they are two parameters."""
    head = head_of(network)
    if hasattr(head, "modules_to_save"):  # peft's copy is trained, the original is what it was
        return []
    if head is None or not getattr(getattr(network, "config", None), "tie_word_embeddings", False):
        return []
    weight: Any = head_weight(network)
    table: Any = word_table(network)
    # an adapter's layers have their weights further inside
    if weight not in names or table not in names or weight is table:
        return []
    first, second = names[table][0], names[weight][0]
    line = (
        f"the configuration ties {second} to {first}, and they are two parameters: "
        "tie them, or set tie_word_embeddings to false"
    )
    return [Finding(TIES.name, "fault", line, {"doubled": [[first, second]]})]
