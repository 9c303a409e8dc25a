"""The page of an audit: the labels that are probably wrong, and how well the others are told."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmntk.reports.page import fill, missing_libraries
from lmntk.system.files import write_text

PAGE = "audit.html"
NAMED, OTHERS = 50, 20  # texts that are shown


def write_audit_page(folder: Path, record: Mapping[str, Any], sentence: str) -> str:
    """Write the page of an audit into its folder; returns why not where a library is missing, else nothing.

    Args:
        folder: of the audit.
        record: plain data, the entries of ``audit.json``.
        sentence: how many labels are named, and how far to believe it.
    """
    missing = missing_libraries()
    if not missing:
        write_text(folder / PAGE, fill("audit.html", contents_of(record, sentence)))
    return missing


def contents_of(record: Mapping[str, Any], sentence: str) -> dict[str, Any]:
    """Return all that the page shows, as plain data."""
    rows, named, model = record["rows"], record["named"], record["model"]["name"]
    return {
        "title": Path(record["file"]).name,
        "model": Path(model).name,
        "sentence": f"{sentence[:1].upper()}{sentence[1:]}.",
        "figures_shown": [
            (str(named), "labels probably wrong"),
            (f"{100 * record['accuracy']:.1f} %", "held-out accuracy"),
            (f"{100 / len(record['counts']):.1f} %", "by guessing"),
            (str(len(rows)), "texts"),
        ],
        "low": record["low"],
        "high": record["high"],
        "named": rows[: min(named, NAMED)],
        "unshown": max(named - NAMED, 0),
        "others": rows[named : named + OTHERS],
        "contradictions": record["contradictions"],
        "regime": record["regime"]["sentence"],
        "settings": {
            "model": model,
            "texts": record["file"],
            **{name.replace("_", " "): value for name, value in record["setting"].items()},
            "share of labels that are taken to be wrong": record["wrong_share"],
            "promised share of false ones among the named": record["false_discoveries"],
            "lmntk": record["versions"].get("lmntk", ""),
        },
        "version": record["versions"].get("lmntk", ""),
    }
