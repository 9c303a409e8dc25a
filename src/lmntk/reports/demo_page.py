"""The page of the demonstration: its lines, the real and the emulated training, three predictions taken apart, and links."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lmntk import __version__
from lmntk.reports.closeups import close_ups
from lmntk.reports.drawing import Plot, style
from lmntk.reports.page import PAGE, fill, missing_libraries
from lmntk.runs.reading import read_runs
from lmntk.system.files import write_text

SHOWN = ("Learning curves", "Real and emulated training")


def write_demo_page(
    folder: Path,
    trained: Path,
    lines: Mapping[str, str],
    bars: Sequence[tuple[str, float]],
    predictions: Sequence[Mapping[str, Any]],
) -> str:
    """Write the page into the demonstration's folder; returns why not where a library is missing, else nothing.

    Args:
        folder: with a folder of each part.
        trained: that of the run.
        lines: what is said, by what it is about.
        bars: accuracies in percent, by what has them.
        predictions: each with its text, the class, and the texts for and against it.
    """
    missing = missing_libraries()
    if not missing:
        contents = {
            "lines": lines,
            "bars": bars,
            "predictions": predictions,
            "trained": trained.name,
            "plots": curves(trained),
            "version": __version__,
        }
        write_text(folder / PAGE, fill("demo.html", contents))
    return missing


def curves(folder: Path) -> list[Plot]:
    """Return the plots of the first training of a run."""
    with style():
        made, _ = close_ups(read_runs([folder]), {}, [])
    return [plot for plot in made[0].plots if plot.title in SHOWN] if made else []
