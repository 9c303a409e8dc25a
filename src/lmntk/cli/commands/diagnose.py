"""``lmntk diagnose``: whether fine-tuning behaves like its kernel."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from lmntk.cli.configured import (
    DEFAULT_OPTIMIZERS,
    ConfigurationArgument,
    OptimizersOption,
    experiment_of,
    experiment_options,
)
from lmntk.cli.options import JsonOption, given_path
from lmntk.cli.printing import print_verdicts, print_written
from lmntk.cli.running import run_experiment
from lmntk.errors import UserError

OF_RUNS = (
    "formulas",
    "solvers",
    "classes",
    "keep_kernels",
    "keep_factors",
    "save_models",
    "finetune",
    "diagnose",
)
OPTIONS = partial(experiment_options, without=OF_RUNS)


def diagnose(
    context: typer.Context,
    configuration: ConfigurationArgument = None,
    optimizers: OptimizersOption = None,
    finetuned: Annotated[
        Path | None,
        typer.Option(
            parser=given_path,
            metavar="PATH",
            help="a checkpoint that you fine-tuned, in place of training: its folder, a LoRA adapter's, or a file of weights",
            rich_help_panel="Fine-tuning",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say whether fine-tuning behaves like its kernel.

    The answer has three parts. The regime: it holds, is rough, or training leaves the kernel. The miss: by how
    many points the kernel missed fine-tuning. And the paper's three tests: does the kernel solve the task, does
    the linearized model recover fine-tuning's gain, do the features stay? Missing trainings and kernels are
    computed; what is in --out is used. Writes diagnoses/ and report.html. Started again, it resumes.

    Example: lmntk diagnose --model roberta-base --data data --tasks sst-2 --k 16 --optimizers sgd --out
    runs/sst-2
    """
    if configuration is None and "model" not in context.obj:
        raise UserError("diagnose: give --model and texts, or a TOML file: lmntk diagnose experiment.toml")
    from lmntk.experiment.configuration import read_toml

    over: dict[str, Any] = {"formulas": (), "solvers": None, "diagnose": True}
    if finetuned is not None:
        over["finetuned"] = finetuned
    in_file = {} if configuration is None else read_toml(configuration)
    if optimizers is not None:
        over["finetune"] = optimizers
    elif finetuned is not None or ("finetuned" in in_file and "finetune" not in in_file):
        over["finetune"] = ()  # a checkpoint that is there needs no training
    experiment = experiment_of(context.obj, configuration, over, {"finetune": DEFAULT_OPTIMIZERS})
    run_experiment(experiment)
    from lmntk.experiment.report import verdicts_of

    verdicts = verdicts_of(experiment.out)
    if as_json:
        print(json.dumps(verdicts, indent=1))
    else:
        print_verdicts(verdicts)
        print_written(experiment.out)
