"""The record of a survey: what each candidate comes to, and which one to take."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from lmntk.kernels.lora import LoraStart
from lmntk.subspaces.adapter import lora_config
from lmntk.subspaces.likeness import escapes_minima
from lmntk.subspaces.measures import Measures
from lmntk.subspaces.recommendation import Contender, recommend
from lmntk.subspaces.survey import Entry, Survey
from lmntk.system.hashing import versions
from lmntk.system.kept import write_record

FORMAT = "lmntk subspace 1"
NAME = "subspace.json"


class SubspaceRecord(BaseModel):
    """The record of a survey.

    Attributes:
        format: of this file.
        file: the labelled file.
        mode: prompt or head.
        counts: texts of each class.
        candidates: a row each as ``row_of`` has it, all parameters first.
        recommendation: name, outcome, lead, error and sentence; None where nothing was held out.
        lora_config: peft's configuration of the recommended candidate, to be copied; None where it is no LoRA.
        shares: of each layer and each type in the whole kernel's trace.
        start: of LoRA.
        draws: of each rank.
        model: its name and fingerprint.
        versions: of what computed it.
    """

    format: str
    file: str
    mode: str
    counts: dict[str, int]
    candidates: list[dict[str, Any]]
    recommendation: dict[str, Any] | None
    lora_config: str | None
    shares: dict[str, float]
    start: dict[str, Any]
    draws: int
    model: dict[str, Any]
    versions: dict[str, str]


def record_of(
    survey: Survey,
    *,
    tolerance: float,
    start: LoraStart,
    modules: dict[str, list[str] | str],
    about: dict[str, Any],
) -> SubspaceRecord:
    """Return the record of a survey.

    Args:
        survey: of all candidates.
        tolerance: of the recommendation.
        start: of LoRA.
        modules: peft's ``target_modules`` of each target.
        about: the record's fields that say what was surveyed.
    """
    recommendation, config = None, None
    by_name = {entry.contestant.name: entry for entry in survey.entries}
    if not any(math.isnan(value) for value in survey.everything.correct):
        contenders = [
            Contender(entry.contestant.name, entry.contestant.parameters, entry.correct)
            for entry in survey.entries
        ]
        taken = recommend(contenders, tolerance)
        recommendation = vars(taken)
        contestant = by_name[taken.name].contestant
        if contestant.rank is not None:
            config = lora_config(modules[contestant.target], contestant.rank, start)
    return SubspaceRecord(
        format=FORMAT,
        candidates=[row_of(entry, survey) for entry in survey.entries],
        recommendation=recommendation,
        lora_config=config,
        shares=dict(survey.shares),
        start={"init": start.init, "scaling": start.scaling, "alpha": start.alpha},
        versions=versions(),
        **about,
    )


def row_of(entry: Entry, survey: Survey) -> dict[str, Any]:
    """Return a candidate's row: means over its draws, and where it matters their deviation."""
    texts = len(entry.correct)
    outputs = entry.draws[0].outputs
    rank = entry.contestant.rank
    accuracy = float(entry.correct.mean())
    rate, of_all = entry.mean(_rate), survey.everything.mean(_rate)
    ratio = None if rate is None or of_all is None or not math.isfinite(rate / of_all) else rate / of_all
    adapted = entry.mean(lambda draw: None if draw.to_adapted is None else draw.to_adapted.distance)
    values = {
        "name": entry.contestant.name,
        "target": entry.contestant.target,
        "rank": rank,
        "parameters": entry.contestant.parameters,
        "accuracy": accuracy,
        "accuracy_error": float(entry.correct.std(ddof=1) / math.sqrt(texts)) if texts > 1 else None,
        "distance": entry.mean(lambda draw: draw.to_all.distance),
        "distance_deviation": entry.deviation(lambda draw: draw.to_all.distance),
        "distance_to_adapted": adapted,
        "cka": entry.mean(lambda draw: draw.to_all.cka),
        "scale": entry.mean(lambda draw: draw.to_all.scale),
        "condition": entry.mean(lambda draw: draw.condition),
        "stable_rate": rate,
        "rate_ratio": ratio,
        "loss": entry.mean(lambda draw: float(draw.loss[-1])),
        "adam_scale": entry.mean(lambda draw: None if draw.adam is None else draw.adam.scale),
        "escapes_minima": None if rank is None else escapes_minima(rank, texts, outputs),
    }
    return {name: _plain(value) for name, value in values.items()}


def write_survey(folder: Path, record: SubspaceRecord) -> None:
    """Write the record to a folder."""
    write_record(folder / NAME, record.model_dump())


def _plain(value: Any) -> Any:
    """Return a value that JSON has; infinity as a word, not-a-number as None."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf"
    return value


def _rate(draw: Measures) -> float:
    return draw.stable_rate
