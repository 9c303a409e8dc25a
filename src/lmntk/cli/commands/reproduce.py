"""``lmntk reproduce``: the paper's tables and figures."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from lmntk.cli.configured import experiment_of, experiment_options
from lmntk.cli.options import JsonOption
from lmntk.cli.printing import print_summary, print_verdicts, print_written
from lmntk.cli.running import run_experiment
from lmntk.errors import UserError

# what an experiment is about is in its file; the command says on what, where, and how much of it
IN_ITS_FILE = (
    "train", "test", "name", "text_column", "text_b_column", "label_column", "labels", "metric", "template", "chat", "label_words",
    "label_words_reduce", "max_length", "formulas", "solvers", "finetune", "diagnose", "save_models", "linearized",
)  # fmt: skip
OPTIONS = partial(experiment_options, without=IN_ITS_FILE)


def reproduce(
    context: typer.Context,
    experiment: Annotated[
        str | None, typer.Argument(metavar="NAME", help="which experiment; --list shows them")
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="list the experiments")] = False,
    as_json: JsonOption = False,
) -> None:
    """Reproduce a table or figure of the paper.

    Runs kernels, fine-tuning, diagnosis and report, from one of lmntk's own configurations. Options make it
    smaller: other tasks, k, seeds, fewer test texts, a smaller grid. Started again, it resumes. Experiments with
    one --out share what they have in common.

    Example: lmntk reproduce main --model roberta-base --data data --out runs/main

    On two cores: lmntk reproduce main --model DIR --data data --tasks sst-2,mr --k 16 --seeds 13,21
    --test-limit 200 --learning-rates 1e-3 --batch-sizes 8 --steps 100
    """
    from lmntk.bundled.experiments import path_of, titles

    if show:
        by_name = titles()
        lines = "\n".join(f"{name:<16}{title}" for name, title in by_name.items())
        print(json.dumps(by_name, indent=1) if as_json else lines)
        return
    if experiment is None:
        raise UserError(f"reproduce: name an experiment: {', '.join(titles())}")
    path, given = path_of(experiment), context.obj
    absent = [name for name in ("model", "data") if name not in given]
    if absent:
        raise UserError(f"reproduce: give --{absent[0]}; see lmntk reproduce --help for an example")
    if "tasks" in given and "texts_of" in path.read_text(encoding="utf8"):
        raise UserError(
            f"reproduce: {experiment} compares prompts of one task, so --tasks does not fit; leave it out"
        )
    chosen = experiment_of({"out": Path("runs") / experiment} | given, path)
    rows = run_experiment(chosen)
    from lmntk.experiment.report import verdicts_of

    verdicts = verdicts_of(chosen.out)
    if as_json:
        print(json.dumps({"rows": rows, **verdicts}, indent=1))
        return
    print_summary(rows)
    print()
    print_verdicts(verdicts)
    print_written(chosen.out)
