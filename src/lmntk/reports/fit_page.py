"""The page of a fit: what its classifier is worth, what the classes are, which texts are doubtful, and how far probabilities hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from lmntk import __version__
from lmntk.reports.page import PAGE, fill, missing_libraries
from lmntk.system.files import write_text

DOUBTFUL, BINS = 10, 5


def write_fit_page(folder: Path, record: Mapping[str, Any]) -> str:
    """Write the page of a fit into its folder; returns why not where a library is missing, else nothing.

    Args:
        folder: of the fit.
        record: plain data, the entries of ``fit.json``.
    """
    missing = missing_libraries()
    if not missing:
        write_text(folder / PAGE, fill("fit.html", contents_of(record)))
    return missing


def contents_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return all that the page shows, as plain data."""
    words, texts = record["label_words"] or {}, record["held_out"]
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
    return {
        "title": Path(record["file"]).name or "A classifier of labelled texts",
        "standing": record["standing"],
        "classes": [(label, words.get(label, ""), count) for label, count in record["counts"].items()],
        "has_words": bool(words),
        "doubtful": sorted(texts, key=lambda text: text["probability"])[:DOUBTFUL],
        "reliability": reliability(texts),
        "rough": record["rough"],
        "settings": settings,
        "version": __version__,
    }


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
