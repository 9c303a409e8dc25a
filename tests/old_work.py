"""Folders of work as lmntk 0.1.0 left them: four files in place of ``work.json``."""

from __future__ import annotations

import json
from pathlib import Path

from lmntk.engine.work import WorkRecord, read_record


def four_files(folder: Path, record: WorkRecord) -> None:
    """Write a record down as 0.1.0 did."""
    claim, schedule, factors = record.claim, record.schedule, record.factors
    parts = {
        "schedule.json": schedule and schedule.as_dict(),
        "pieces.json": [{"cells": p.splits, "formulas": p.formulas, "work": p.work} for p in record.pieces],
        "owner.json": claim and {"out": claim.identity, "at": claim.path, "of": claim.purposes},
        "factors.json": factors
        and {
            "groups": {group: {"order": order} for group, order in factors.orders.items()},
            "pairs": factors.pairs,
            "adaptable": factors.adaptable,
            "precision": factors.precision,
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        if part:
            (folder / name).write_text(json.dumps(part))


def made_old(scratch: Path) -> int:
    """Turn every record in a scratch folder into four files; return how many there were."""
    paths = list(scratch.glob("*/work.json"))
    for path in paths:
        record = read_record(path.parent)
        path.unlink()
        four_files(path.parent, record)
    return len(paths)
