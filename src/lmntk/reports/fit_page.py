"""The page of a fit: what its classifier is worth, what the classes are, which texts are doubtful, and how far probabilities hold."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from lmntk import __version__
from lmntk.reports.page import PAGE, fill, missing_libraries
from lmntk.system.files import write_text

BINS = 5


def write_fit_page(folder: Path, record: Mapping[str, Any], picture: Mapping[str, Any] | None = None) -> str:
    """Write the page of a fit into its folder; returns why not where a library is missing, else nothing.

    Args:
        folder: of the fit.
        record: plain data, the entries of ``fit.json``.
        picture: the kernel, as ``kernel_facts.kernel_picture`` has it.
    """
    missing = missing_libraries()
    if not missing:
        write_text(folder / PAGE, fill("fit.html", contents_of(record, picture)))
    return missing


def contents_of(record: Mapping[str, Any], picture: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return all that the page shows, as plain data and drawn plots."""
    from lmntk.reports.drawing import style
    from lmntk.reports.fit_plots import labels_plot, reliability_plot
    from lmntk.reports.kernel_plots import matrix_plot

    words, texts, curve = record["label_words"] or {}, record["held_out"], record.get("curve")
    model = record["model"]
    settings = {
        "model": model["name"],
        "texts": record["file"] or "given from Python",
        "mode": record["mode"],
        "prompt": record["template"] or "none",
        "what trains": trained_words(record["parameters"]),
        **{name.replace("_", " "): value for name, value in record["setting"].items() if name != "mode"},
        "right of its own texts": f"{100 * record['training_accuracy']:.1f} %",
        "lmntk": record["versions"].get("lmntk", __version__),
    }
    standing = record["standing"]
    is_estimate = standing is not None and standing["is_estimate"]
    groups = reliability(texts)
    with style():
        plots = {
            "reliability": reliability_plot("reliability", groups) if groups and is_estimate else None,
            "curve": labels_plot("curve", curve) if curve else None,
            "kernel": matrix_plot("kernel", picture) if picture else None,
        }
    return {
        "title": Path(record["file"]).name or "A classifier of labelled texts",
        "model": Path(model["name"]).name,
        "standing": standing,
        "is_estimate": is_estimate,
        "figures_shown": figures_of(standing) if is_estimate else [],
        "classes": [(label, words.get(label, ""), count) for label, count in record["counts"].items()],
        "has_words": bool(words),
        "confusion": confusion(list(record["counts"]), texts) if is_estimate else [],
        "doubtful": {
            kind: [text for text in record.get("doubtful", ()) if text["kind"] == kind]
            for kind in ("hardest", "doubtful")
        },
        "silence": silence(record["setting"]),
        "suspects": record.get("suspects"),
        "audit": f"lmntk audit {shlex.quote(record['file'])}" if record["file"] else "",
        "reliability": groups,
        "plots": plots,
        "curve": curve,
        "rough": record["rough"],
        "cost": cost_words(record.get("cost")),
        "settings": settings,
        "version": __version__,
    }


def silence(setting: Mapping[str, Any]) -> str:
    """Return why no text speaks for or against a label."""
    if "no_training" in setting:
        return "Nothing was trained, so no text speaks for or against."
    return "Without a ridge above 0 it is not said which texts speak for or against."


def figures_of(standing: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the accuracy and what it is read beside, each with its name."""
    return [
        (f"{100 * standing['accuracy']:.1f} %", "accuracy on new texts"),
        (f"± {100 * error_of(standing):.1f}", "points, its standard error"),
        (f"{100 * standing['chance']:.1f} %", "by guessing"),
        (str(standing["texts"]), "texts, held out in turn"),
    ]


def error_of(standing: Mapping[str, Any]) -> float:
    """Return the standard error of the accuracy: that of its lead over chance, which has none."""
    return float(next(rival["error"] for rival in standing["rivals"] if rival["name"] == "chance"))


def confusion(labels: Sequence[str], texts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return of each class how many of its held-out texts were decided as each class, and the share that was decided rightly."""
    rows = []
    for label in labels:
        decided = Counter(text["decided"] for text in texts if text["label"] == label)
        own = sum(decided.values())
        cells = [{"count": decided[other], "share": decided[other] / max(own, 1)} for other in labels]
        rows.append({"label": label, "cells": cells, "texts": own, "right": decided[label] / max(own, 1)})
    return rows


def cost_words(cost: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Return what a fit cost, in words; nothing where that is not known."""
    if not cost:
        return []
    passes = (
        f"{cost['forward']} forward and {cost['backward']} backward passes of a text"
        if cost["forward"]
        else "read from an earlier fit"
    )
    return [
        ("texts", str(cost["texts"])),
        ("kernels", f"{seconds(cost['kernel_seconds'])}: {passes}"),
        ("choice and estimate", seconds(cost["choice_seconds"])),
        ("learning curve", seconds(cost["curve_seconds"])),
    ]


def seconds(number: float) -> str:
    """Return a time in words."""
    if number < 100:
        return f"{number:.1f} s"
    return f"{number / 60:.0f} min" if number < 7200 else f"{number / 3600:.1f} h"


def trained_words(parameters: Mapping[str, Any]) -> str:
    """Return the part of the model that a fit stands for, in words, from the parameters of its estimator."""
    rank, target = parameters.get("lora_rank"), parameters.get("train_only")
    if rank is not None:
        return f"LoRA of rank {rank} on {parameters.get('lora_targets') or 'all-linear'}, alpha {parameters.get('lora_alpha', 16.0):g}"
    return "all parameters that count" if target is None else f"{target} alone"


def reliability(texts: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """Return in bins of equal mass, the least sure first, how sure the held-out decisions were and how many were right."""
    ordered = sorted(texts, key=lambda text: text["confidence"])
    bins = min(BINS, len(ordered))
    edges = [round(number * len(ordered) / max(bins, 1)) for number in range(bins + 1)]
    rows = []
    for start, end in pairwise(edges):
        some = ordered[start:end]
        mean = {name: sum(text[name] for text in some) / len(some) for name in ("confidence", "right")}
        rows.append({"texts": len(some), **mean})
    return rows
