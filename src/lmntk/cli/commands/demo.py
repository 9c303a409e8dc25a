"""``lmntk demo``: the whole way on what is bundled."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lmntk.bundled import EXAMPLES, MODEL, PROMPTS, SHOTS
from lmntk.cli.options import JsonOption, given_path
from lmntk.cli.printing import print_summary, print_written
from lmntk.cli.running import run_experiment

if TYPE_CHECKING:
    from lmntk.experiment.configuration import Experiment


def demo(
    out: Annotated[
        Path, typer.Option(parser=given_path, metavar="PATH", help="the output folder; a rerun resumes it")
    ] = Path("runs/demo"),
    seeds: Annotated[str, typer.Option(help="of the splits")] = "13,21",
    as_json: JsonOption = False,
) -> None:
    """Go the whole way on the bundled model and texts.

    In under two minutes: no network, no other files.

    Example: lmntk demo
    """
    experiment = demo_experiment(out, seeds)
    rows = run_experiment(experiment)
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    print_summary(rows)
    print(explain(rows))
    print_written(experiment.out)


def demo_experiment(out: Path, seeds: str) -> Experiment:
    """Return the demonstration: both bundled tasks at k = 8, prompt and head, all three formulas."""
    from lmntk.experiment.configuration import make_experiment

    tasks = [
        {
            "name": name,
            "train": str(EXAMPLES / name / "train.jsonl"),
            "test": str(EXAMPLES / name / "test.jsonl"),
            "text_column": "text_a",
            "template": template,
            "label_words": words,
        }
        for name, (template, words) in PROMPTS.items()
    ]
    values = {
        "model": str(MODEL),
        "own_tasks": tasks,
        "k": [SHOTS],
        "seeds": seeds,
        "modes": ["prompt", "head"],
        "test_limit": 80,
        "out": out,
    }
    return make_experiment(values)


def explain(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return lines that tell a newcomer what the demonstration's table says."""
    lines = []
    for task in dict.fromkeys(row["task"] for row in rows):
        means = {}
        for mode, method in dict.fromkeys(
            (row["mode"], row["method"]) for row in rows if row["task"] == task
        ):
            accuracies = [
                row["test"]
                for row in rows
                if (row["task"], row["mode"], row["method"]) == (task, mode, method)
            ]
            means[mode, method] = 100 * sum(accuracies) / len(accuracies)
        best = max(means, key=lambda key: means[key])
        lines.append(
            f"{task}: without training the prompt alone gets {means['prompt', 'zero-shot']:.0f} % of the test texts right; "
            f"what training to the end in the kernel regime would reach from {SHOTS} texts a class, by the kernel alone, "
            f"is {means['prompt', 'sgd ridge']:.0f} % (sgd), {means['prompt', 'signgd ridge']:.0f} % (signgd) and "
            f"{means['prompt', 'asigngd asym']:.0f} % (asigngd, Adam's early steps); a linear probe gets "
            f"{means['head', 'linear probe']:.0f} %. Best here: {best[1]} in {best[0]} mode, {means[best]:.0f} %."
        )
    return "\n".join(lines)
