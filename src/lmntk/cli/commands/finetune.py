"""``lmntk finetune``: real fine-tuning alone."""

from __future__ import annotations

import json
from functools import partial
from typing import Annotated, Any

import typer

from lmntk.cli.configured import (
    DEFAULT_OPTIMIZERS,
    ConfigurationArgument,
    OptimizersOption,
    experiment_of,
    experiment_options,
)
from lmntk.cli.options import JsonOption
from lmntk.cli.printing import print_summary, print_written
from lmntk.cli.running import run_experiment
from lmntk.errors import UserError

OF_KERNELS = (
    "formulas",
    "solvers",
    "memory",
    "keep_factors",
    "engine",
    "address",
    "workers",
    "groups",
    "keep_noise",
    "keep_kernels",
    "save_models",
)
OWN_WAY = ("finetune", "save_weights", "diagnose")  # which --optimizers, --save and lmntk diagnose say
OPTIONS = partial(experiment_options, without=(*OF_KERNELS, *OWN_WAY))


def finetune(
    context: typer.Context,
    configuration: ConfigurationArgument = None,
    optimizers: OptimizersOption = None,
    save: Annotated[
        bool,
        typer.Option(
            "--save",
            help="keep the best weights: OUT/finetunings/*/weights.safetensors, and a model's folder beside it",
            rich_help_panel="Output",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Fine-tune on the same splits as the kernels.

    Trains a grid for each split, takes the best on dev, and says its test metric, beside zero-shot and a linear
    probe. If --out is that of a run, the rows stand beside the kernels'. Started again, it resumes, also within a
    training.

    Example: lmntk finetune --model roberta-base --data data --tasks sst-2 --k 16 --optimizers sgd
    --learning-rates 1e-3,5e-3 --out runs/sst-2
    """
    given = context.obj
    if configuration is None and "model" not in given:
        raise UserError("finetune: give --model and texts, or a TOML file: lmntk finetune experiment.toml")
    # a file may ask for a diagnosis, which lmntk diagnose makes
    over: dict[str, Any] = {"formulas": (), "solvers": None, "diagnose": False, "finetuned": None}
    if optimizers is not None:
        over["finetune"] = optimizers
    if save:
        given = given | {"finetuning": given.get("finetuning", {}) | {"save_weights": True, "export": True}}
    experiment = experiment_of(given, configuration, over, {"finetune": DEFAULT_OPTIMIZERS})
    rows = run_experiment(experiment)
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        print_summary(rows)
        print()
        print_written(experiment.out)
