"""The pictures of docs/results/prompts.md, from the table of prompts_study.py.

    python benchmarks/prompts_plots.py prompts.csv docs/images

One picture for each set of prompts, of means over its seeds: left the kernels' held-out accuracy against the test accuracy after real
training, right mean |chi| before training against what the linearization misses of the logits' move after it.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from lmntk.system.files import write_text

OPTIMIZERS = {"sgd": ("SGD", "#1f6f8b", "o"), "adamw": ("AdamW", "#b4532a", "^")}
STYLE = {
    "svg.hashsalt": "lmntk",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
Rows = Sequence[Mapping[str, str]]


def main() -> None:
    """Write the pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    with options.table.open(encoding="utf8") as file:
        rows = list(csv.DictReader(file))
    for name in dict.fromkeys(row["task"] for row in rows):
        with rc_context(STYLE):
            picture = drawn([row for row in rows if row["task"] == name])
        write_text(options.folder / f"prompts-{name}.svg", picture)


def drawn(rows: Rows) -> str:
    """Return the picture of one set as SVG."""
    figure = Figure(figsize=(8.2, 3.4), facecolor="white", layout="constrained")
    left, right = figure.subplots(1, 2)
    for optimizer, (title, colour, marker) in OPTIMIZERS.items():
        style = {"color": colour, "marker": marker, "label": title, "s": 26, "alpha": 0.85, "linewidths": 0}
        ended = [row for row in rows if row[optimizer]]
        left.scatter(means(ended, "kernel", 100), means(ended, optimizer, 100), **style)
        right.scatter(means(ended, "chi"), means(ended, f"{optimizer}_logit_error"), **style)
    left.set(xlabel="kernel, held out before training (%)", ylabel="really fine-tuned, test (%)")
    right.set(
        xlabel="mean |chi| of the prompt before training", ylabel="missed by the linearization", yscale="log"
    )
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper left", ncols=2, frameon=False)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def means(rows: Rows, field: str, scale: float = 1.0) -> np.ndarray:
    """Return each prompt's mean over seeds."""
    by_prompt: dict[str, list[float]] = {}
    for row in rows:
        by_prompt.setdefault(row["arm"], []).append(scale * float(row[field]))
    return np.asarray([np.mean(values) for values in by_prompt.values()])


if __name__ == "__main__":
    main()
