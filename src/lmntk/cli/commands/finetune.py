"""``lmntk finetune``: real fine-tuning alone."""

from __future__ import annotations

import inspect
import json
from typing import Annotated, Any

import typer

from lmntk.cli.commands.run import experiment_of, run
from lmntk.cli.options import given
from lmntk.cli.printing import print_summary, print_written, with_bars
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
    "no_kernels",
)
APART = (*OF_KERNELS, "save_models", "finetune", "save_weights", "diagnose")
DEFAULT = "sgd,adamw"


def finetune(
    optimizers: Annotated[
        str | None, typer.Option(help=f"of sgd, adamw, signgd  [default: {DEFAULT}]")
    ] = None,
    save: Annotated[
        bool,
        typer.Option(
            "--save",
            help="keep the best weights: OUT/finetuning/*/weights.safetensors, and a model's folder beside it",
        ),
    ] = False,
    **options: Any,
) -> None:
    """Fine-tune for real, on the same splits as the kernels: a grid of trainings a split, the best on dev, its test metric.

    Beside zero-shot and a linear probe. Of a run's --out, its rows stand beside the kernels'. Run again, it resumes, a training that was
    interrupted too.

    Example: lmntk finetune --model roberta-base --data data --tasks sst-2 --k 16 --optimizers sgd --learning-rates 1e-3,5e-3
    --out runs/sst-2
    """
    if options["configuration"] is None and options["model"] is None:
        raise UserError("finetune: give --model and texts, or a TOML file: lmntk finetune experiment.toml")
    absent = {
        name: parameter.default
        for name, parameter in inspect.signature(run).parameters.items()
        if name in APART
    }
    fields: dict[str, Any] = {"formulas": (), "solvers": None} | given(finetune=optimizers)
    fields |= {"diagnose": False, "finetuned": None}  # which a file may ask for, and lmntk diagnose does
    absent |= {"save_weights": save, "export": save}
    experiment = experiment_of(options | absent, fields, {"finetune": DEFAULT})
    from lmntk.experiment.run import run as run_experiment

    rows = with_bars(lambda progress: run_experiment(experiment, progress))
    if options["as_json"]:
        print(json.dumps(rows, indent=1))
    else:
        print_summary(rows)
        print()
        print_written(experiment.out)


def _signature() -> inspect.Signature:
    """Returns run's options without those of kernels, and this command's own behind the configuration file."""
    own = [
        p
        for p in inspect.signature(finetune, eval_str=True).parameters.values()
        if p.kind is not p.VAR_KEYWORD
    ]
    shared = [p for name, p in inspect.signature(run, eval_str=True).parameters.items() if name not in APART]
    return inspect.Signature([*shared[:1], *own, *shared[1:]])


_both = _signature()
finetune.__signature__ = _both  # type: ignore[attr-defined]
finetune.__annotations__ = {name: parameter.annotation for name, parameter in _both.parameters.items()}
