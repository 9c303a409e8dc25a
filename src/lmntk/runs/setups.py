"""The setup: all that splits of one method must have in common, so that a mean over them is one of the same thing.

A folder may hold splits of several runs. A *setup* is a hash of all that a result depends on but its texts and seed: weights, prompt,
parameters, training's settings, metric. Of one task, k, mode and method only results of one setup stand beside each other: of that which
was asked for last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

GROUP = ("task", "k", "mode", "method")


def of_one_setup(
    found: Iterable[Mapping[str, Any]], latest: Sequence[str]
) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """Return the results that share their group's last setup, in their order, and the others.

    Args:
        found: rows or files, each with what ``GROUP`` names and perhaps a ``setup``; one without (of an older lmntk) fits any.
        latest: setups, the last run's first; one that is not among them comes after all that are.
    """
    found = list(found)
    order = {setup: place for place, setup in reversed(list(enumerate(latest)))}
    chosen: dict[tuple[Any, ...], str] = {}
    for one in found:
        group, setup = tuple(one[name] for name in GROUP), one.get("setup")
        if setup is not None and (
            group not in chosen or order.get(setup, len(order)) < order.get(chosen[group], len(order))
        ):
            chosen[group] = setup
    fitting = [one.get("setup") in (None, chosen.get(tuple(one[name] for name in GROUP))) for one in found]
    kept = [one for one, fits in zip(found, fitting, strict=True) if fits]
    return kept, [one for one, fits in zip(found, fitting, strict=True) if not fits]
