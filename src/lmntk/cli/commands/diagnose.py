"""``lmntk diagnose``: whether fine-tuning behaves like its kernel."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from lmntk.cli.commands.run import experiment_of, run
from lmntk.cli.options import given
from lmntk.cli.printing import print_verdicts, print_written, with_bars
from lmntk.errors import UserError

DEFAULT = "sgd,adamw"
APART = ("formulas", "solvers", "no_kernels", "keep_factors", "save_models", "finetune", "diagnose")


def diagnose(
    optimizers: Annotated[
        str | None, typer.Option(help=f"of sgd, adamw, signgd  [default: {DEFAULT}]")
    ] = None,
    finetuned: Annotated[
        Path | None,
        typer.Option(
            help="a checkpoint that you fine-tuned: its folder, a LoRA adapter's, or a file of weights; no training"
        ),
    ] = None,
    **options: Any,
) -> None:
    """Does fine-tuning behave like its kernel? Three tests, and a verdict a task: kernel-like, not, or undecided.

    Does the kernel solve the task, does the linearized model recover fine-tuning's gain, do the features stay? Trains what is not trained
    yet and computes the kernels that are missing; of a run's --out, it takes what is there. Writes diagnosis/ and report.html. Run again,
    it resumes.

    Example: lmntk diagnose --model roberta-base --data data --tasks sst-2 --k 16 --optimizers sgd --out runs/sst-2
    """
    if options["configuration"] is None and options["model"] is None:
        raise UserError("diagnose: give --model and texts, or a TOML file: lmntk diagnose experiment.toml")
    absent = {
        name: parameter.default
        for name, parameter in inspect.signature(run).parameters.items()
        if name in APART
    }
    fields = {"formulas": (), "solvers": None, "diagnose": True} | given(
        finetune=optimizers, finetuned=finetuned
    )
    from lmntk.experiment.configuration import read_toml

    said = {} if options["configuration"] is None else read_toml(options["configuration"])
    if optimizers is None and (finetuned is not None or ("finetuned" in said and "finetune" not in said)):
        fields["finetune"] = ()  # a checkpoint that is there needs no training
    experiment = experiment_of(options | absent, fields, {"finetune": DEFAULT})
    from lmntk.experiment.report import verdicts_of
    from lmntk.experiment.run import run as run_experiment

    with_bars(lambda progress: run_experiment(experiment, progress))
    found = verdicts_of(experiment.out)
    if options["as_json"]:
        print(json.dumps(found, indent=1))
    else:
        print_verdicts(found)
        print_written(experiment.out)


def _signature() -> inspect.Signature:
    """Returns run's options without those that a diagnosis has no use for, and this command's own behind the configuration file."""
    own = [
        p
        for p in inspect.signature(diagnose, eval_str=True).parameters.values()
        if p.kind is not p.VAR_KEYWORD
    ]
    shared = [p for name, p in inspect.signature(run, eval_str=True).parameters.items() if name not in APART]
    return inspect.Signature([*shared[:1], *own, *shared[1:]])


_both = _signature()
diagnose.__signature__ = _both  # type: ignore[attr-defined]
diagnose.__annotations__ = {name: parameter.annotation for name, parameter in _both.parameters.items()}
