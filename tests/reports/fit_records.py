"""Records of fits that no model made: plain data as ``fit.json`` has it, with numbers that are made up and mean nothing."""

from __future__ import annotations

from typing import Any

import numpy as np


def fit_record(
    labels: tuple[str, ...] = ("bad", "good"), each: int = 20, text: str = "text"
) -> dict[str, Any]:
    """Return a record of so many texts of each class; every fourth is decided as the next class."""
    count, classes = each * len(labels), len(labels)
    held = [
        {
            "text": f"{text} {number}", "label": labels[number % classes],
            "decided": labels[(number + (number % 4 == 0)) % classes], "right": float(number % 4 > 0),
            "probability": 0.1 + 0.8 * number / count, "confidence": 0.5 + 0.5 * number / count,
        }
        for number in range(count)
    ]  # fmt: skip
    speaker = {"row": 2, "text": f"{text} 1", "label": labels[1], "value": 0.25}
    doubtful = [
        {
            "kind": kind, "row": row, "text": f"{text} {row - 1}", "label": labels[0], "rival": labels[1], "decided": labels[row % 2],
            "probability": 0.2, "speak_for": [speaker], "speak_against": [{**speaker, "value": -0.5}] if row < 3 else [],
        }
        for row, kind in enumerate(("hardest", "hardest", "doubtful"), 1)
    ]  # fmt: skip
    chance = {"name": "chance", "accuracy": 1 / classes, "lead": 0.25, "error": 0.0625}
    rivals = [{"name": "the linear probe", "accuracy": 0.7, "lead": 0.05, "error": 0.04}, chance]
    points = [
        {
            "labels": count * part / 4,
            "trained": count * part / 5,
            "draws": 4,
            "accuracy": 0.5 + 0.06 * part,
            "error": 0.05,
        }
        for part in (1, 2, 3, 4)
    ]
    return {
        "file": f"data/{text}.csv", "counts": dict.fromkeys(labels, each), "mode": "prompt", "template": "{a} It was {mask}.",
        "label_words": {label: f"word of {label}" for label in labels}, "setting": {"mode": "prompt", "regularization": 0.1},
        "standing": {
            "accuracy": 0.75, "low": 0.66, "high": 0.82, "texts": count, "chance": 1 / classes, "rivals": rivals, "is_estimate": True,
            "outcome": "undecided", "sentence": "This cannot be told from the linear probe.", "condition": "It holds.",
        },
        "training_accuracy": 1.0, "held_out": held, "rough": False, "parameters": {}, "model": {"name": "models/made-up"},
        "doubtful": doubtful,
        "suspects": [{"row": 4, "text": f"{text} 3", "label": labels[0], "proposed": labels[1], "probability": 0.05}],
        "curve": {"points": points, "gain": 0.1, "error": 0.04, "chance": 1 / classes, "answer": "yes", "sentence": "More would help."},
        "cost": {
            "texts": count, "forward": count, "backward": 2 * count, "kernel_seconds": 61.5, "choice_seconds": 2.25, "curve_seconds": 0.5,
        },
        "versions": {"lmntk": "0.2.0"},
    }  # fmt: skip


def picture(labels: tuple[str, ...], each: int = 4) -> dict[str, Any]:
    """Return a kernel of texts of these classes, as its picture has it."""
    numbers = np.repeat(np.arange(len(labels)), each)
    kernel = 5.0 + 1.0 * (numbers[:, None] == numbers) + 3.0 * np.eye(len(numbers))
    return {"before": kernel.tolist(), "labels": [labels[number] for number in numbers]}


def audit_record(text: str = "text", named: int = 3, count: int = 60) -> dict[str, Any]:
    """Return the record of an audit of so many texts, the first of them named."""
    rows = [
        {
            "row": number + 1, "text": f"{text} {number}", "label": f"bad {text}", "proposed": "good", "probability": number / count,
            "named": number < named,
        }
        for number in range(count)
    ]  # fmt: skip
    return {
        "file": f"data/{text}.csv", "counts": {f"bad {text}": 30, "good": 30}, "accuracy": 0.8, "low": 0.66, "high": 0.9, "named": named,
        "expected_false": 0.1, "false_discoveries": 0.2, "wrong_share": 0.1, "rows": rows,
        "contradictions": [text], "setting": {"mode": text},
        "model": {"name": f"models/{text}"}, "regime": {"sentence": f"the regime was not measured of {text}"},
        "versions": {"lmntk": "0"},
    }  # fmt: skip
