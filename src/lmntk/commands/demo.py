"""``lmntk demo``: the whole way on what is bundled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lmntk.options import JsonOption, numbers
from lmntk.printing import print_summary, with_bars


def demo(
    out: Annotated[Path, typer.Option(help="the output folder; a rerun resumes it")] = Path("runs/demo"),
    seeds: Annotated[str, typer.Option(help="of the splits")] = "13,21",
    as_json: JsonOption = False,
) -> None:
    """The whole way on the bundled model and texts, in under two minutes: no network, no other files.

    Example: lmntk demo
    """
    from lmntk.bundled import demo_experiment, explain

    experiment = demo_experiment(out, numbers("seeds", seeds) or [])
    from lmntk.experiment import run as run_experiment

    rows = with_bars(lambda progress: run_experiment(experiment, progress))
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    print_summary(rows)
    print(explain(rows))
    print(f"Written to {experiment.out}: results.csv, summary.md, kernels, predictions")
