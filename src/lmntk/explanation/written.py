"""Answers in a folder: JSON for programs, a page for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmntk.explanation.records import CHANGE_NAME, NAME, ChangeRecord, ExplainedText, ExplanationRecord
from lmntk.reports.explain_page import PAGE, write_explain_page
from lmntk.system.kept import write_record
from lmntk.system.notices import say

SHOWN = 5  # texts for and against a prediction on the page


def write(record: ExplanationRecord | ChangeRecord, folder: Path) -> Path:
    """Write an answer to a folder, and return the file that is best read: the page, where there is one."""
    if isinstance(record, ChangeRecord):
        write_record(folder / CHANGE_NAME, record.model_dump())
        return folder / CHANGE_NAME
    write_record(folder / NAME, record.model_dump())
    missing = write_explain_page(folder, contents_of(record))
    if missing:
        say(missing)
        return folder / NAME
    return folder / PAGE


def weights_of(explained: ExplainedText) -> list[float | None]:
    """Return how much each training text speaks for a prediction: its influence, or where none is known its contribution.

    On retrained halves of a few-shot training the influence foretold the outcome far better than the contribution: large ones cancel.
    """
    is_known = any(value is not None for value in explained.influence)
    return explained.influence if is_known else explained.contributions


def strongest(explained: ExplainedText, count: int) -> tuple[list[int], list[int]]:
    """Return the numbers of the training texts that speak most for a prediction, and of those that speak most against it."""
    known = [(value, number) for number, value in enumerate(weights_of(explained)) if value is not None]
    ordered = sorted(known, key=lambda pair: (-pair[0], pair[1]))
    return (
        [number for value, number in ordered[:count] if value > 0],
        [number for value, number in ordered[: -count - 1 : -1] if value < 0],
    )


def contents_of(record: ExplanationRecord) -> dict[str, Any]:
    """Return what the page shows, as plain data: of each prediction its texts for and against it."""
    whole = record.name.strip("'\"")  # a folder, of a run with the split
    return {
        "name": Path(whole).name or whole,
        "settings": {"what was trained": whole, **record.settings},
        "held_out": record.held_out,
        "trained": len(record.training),
        "regime": record.regime,
        "notes": record.notes,
        "texts": [_shown(record, explained) for explained in record.texts],
        "version": record.versions.get("lmntk", ""),
    }


def _shown(record: ExplanationRecord, explained: ExplainedText) -> dict[str, Any]:
    sides = strongest(explained, SHOWN)
    largest = max((abs(value) for value in weights_of(explained) if value is not None), default=0.0) or 1.0
    rest = sum(value for value in explained.contributions if value is not None) - sum(
        explained.contributions[number] or 0.0 for numbers in sides for number in numbers
    )
    return {
        **explained.model_dump(
            include={"text", "row", "label", "predicted", "runner_up", "margin", "offset"}
        ),
        "sides": [
            (name, [_line(record, explained, number, largest) for number in numbers])
            for name, numbers in zip(("for it", "against it"), sides, strict=True)
            if numbers
        ],
        "rest": rest,
        "layers": sorted((explained.layers or {}).items(), key=lambda pair: -abs(pair[1]))[:SHOWN],
    }


def _line(record: ExplanationRecord, explained: ExplainedText, number: int, largest: float) -> dict[str, Any]:
    weight, text = weights_of(explained)[number] or 0.0, record.training[number]
    other = explained.without[number]
    return {
        "text": text.text,
        "label": text.label,
        "row": text.row,
        "contribution": explained.contributions[number],
        "weight": weight_of(abs(weight) / largest),
        "without": other,
        "influence": explained.influence[number],
    }


def weight_of(share: float) -> str:
    """Return a word for a weight beside the largest one."""
    steps: Sequence[tuple[float, str]] = ((0.67, "strongly"), (0.33, "clearly"), (0.0, "a little"))
    return next(word for least, word in steps if share >= least)
