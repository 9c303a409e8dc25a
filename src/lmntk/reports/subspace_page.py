"""The page of ``lmntk subspace``: what to take and why, plots, and the table, from its record alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmntk import __version__
from lmntk.reports.page import PAGE, fill, missing_libraries
from lmntk.system.files import write_text

FEW = "There are too few texts to hold any out: give five of each class or more for a recommendation."
COLUMNS = (
    ("numbers", "trained"),
    ("held out", "%, ± error"),
    ("distance", "± deviation"),
    ("to adapted", "distance"),
    ("CKA", "cosine"),
    ("condition", "number"),
    ("loss", "emulated"),
    ("stable rate", "gradient descent"),
    ("of full", "ratio"),
    ("minima", "r(r+1)/2 > CN"),
)


def write_subspace_page(folder: Path, record: Mapping[str, Any]) -> str:
    """Write the page of a record into its folder; returns why not where a library is missing, else nothing."""
    missing = missing_libraries()
    if missing:
        return f"{missing}, then the same command writes {PAGE}"
    write_text(folder / PAGE, build_subspace_page(record))
    return ""


def build_subspace_page(record: Mapping[str, Any]) -> str:
    """Return the page of a ``SubspaceRecord`` as HTML."""
    return fill("subspace.html", _contents(record))


def _contents(record: Mapping[str, Any]) -> dict[str, Any]:
    from lmntk.reports.drawing import style
    from lmntk.reports.subspace_plots import accuracy_plot, distance_plot, share_plot

    rows, taken = record["candidates"], record["recommendation"]
    name = None if taken is None else taken["name"]
    with style():
        drawn = (distance_plot("d", rows), accuracy_plot("a", rows, name), share_plot("s", record["shares"]))
    return {
        "file": Path(record["file"]).name,
        "model": Path(record["model"]["name"]).name,
        "facts": [
            ("texts", sum(record["counts"].values())),
            ("classes", len(record["counts"])),
            ("chance", f"{100 / len(record['counts']):.1f} %"),
            ("mode", record["mode"]),
            ("candidates", len(rows)),
            ("random starts", record["draws"]),
        ],
        "heading": "Too few texts" if taken is None else _heading(taken),
        "sentence": FEW if taken is None else taken["sentence"],
        "lora_config": record["lora_config"],
        "plots": [plot for plot in drawn if plot is not None],
        "columns": COLUMNS,
        "rows": [{"name": row["name"], "taken": row["name"] == name, "cells": _values(row)} for row in rows],
        "draws": record["draws"],
        "version": __version__,
    }


def _heading(taken: Mapping[str, Any]) -> str:
    return "It cannot be told" if taken["outcome"] == "cannot be told" else f"Take {taken['name']}"


def _values(row: Mapping[str, Any]) -> list[str]:
    minima = row["escapes_minima"]
    return [
        f"{row['parameters']:,}",
        _spread(row["accuracy"], row["accuracy_error"], 100, 1),
        _spread(row["distance"], row["distance_deviation"], 1, 3),
        _number(row["distance_to_adapted"], ".3f"),
        _number(row["cka"], ".2f"),
        _number(row["condition"], ".3g"),
        _number(row["loss"], ".3f"),
        _number(row["stable_rate"], ".2e"),
        _number(row["rate_ratio"], ".3g"),
        "–" if minima is None else "yes" if minima else "no",
    ]


def _spread(value: float | None, error: float | None, scale: float, digits: int) -> str:
    if value is None:
        return "–"
    return f"{scale * value:.{digits}f}" + ("" if error is None else f" ± {scale * error:.{digits}f}")


def _number(value: float | str | None, form: str) -> str:
    if value is None:
        return "–"
    return "∞" if isinstance(value, str) else format(value, form)
