"""Which fields are a command's options, and the configuration that comes of what was given."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lmntk.cli.options import LIST, FieldOption, given_path, options_of
from lmntk.errors import UserError

if TYPE_CHECKING:
    from lmntk.experiment.configuration import Experiment

ConfigurationArgument = Annotated[
    Path | None,
    typer.Argument(parser=given_path, help="a TOML file with the fields below; flags override it"),
]
DEFAULT_OPTIMIZERS = "sgd,adamw"
OptimizersOption = Annotated[
    str | None,
    typer.Option(
        help="optimizers: sgd, adamw, signgd",
        rich_help_panel="Fine-tuning",
        metavar=LIST,
        show_default=DEFAULT_OPTIMIZERS,
    ),
]


def experiment_options(without: Collection[str] = ()) -> list[FieldOption]:
    """Return the options of an experiment, of one own task and of fine-tuning, but for those named."""
    from lmntk.experiment.configuration import Experiment, FineTuning, OwnTask

    options = [
        *options_of(Experiment),
        *options_of(OwnTask, "own_tasks"),
        *options_of(FineTuning, "finetuning"),
    ]
    return [option for option in options if option.name not in without]


def some_options(names: Collection[str]) -> list[FieldOption]:
    """Return these options of an experiment, for commands that run none."""
    return [option for option in experiment_options() if option.name in names]


def kernel_options() -> list[FieldOption]:
    """Return the options of kernels of texts in files and of kept factors."""
    from lmntk.experiment.configuration import FactorKernels, TextKernels

    options = options_of(TextKernels)
    return options + [
        option for option in options_of(FactorKernels) if option.name not in TextKernels.model_fields
    ]


def experiment_of(
    given: Mapping[str, Any],
    configuration: Path | None,
    over: Mapping[str, Any] | None = None,
    under: Mapping[str, Any] | None = None,
) -> Experiment:
    """Return the checked configuration of an experiment.

    Args:
        given: fields from the command line, as ``taking`` gives them.
        configuration: a TOML file.
        over: fields that go over the command line and the file.
        under: fields for what neither of them says.
    """
    from lmntk.experiment.configuration import load_experiment, make_experiment

    fields = dict(given)
    training = fields.pop("finetuning", {})
    own_task = fields.pop("own_tasks", {})
    described = [name for name in own_task if name != "name"]
    if described:
        if "train" not in own_task:
            raise UserError(
                f"--{described[0].replace('_', '-')} describes your own texts; give them with --train FILE"
            )
        fields["own_tasks"] = [{"name": "own"} | own_task]
    fields |= over or {}
    if training:
        fields["finetuning"] = training
    if configuration is None and "model" not in fields:
        raise UserError("run: give --model and texts, or a TOML file: lmntk run experiment.toml")
    asked = fields.get("template") or ()
    several = [] if isinstance(asked, str) else list(dict.fromkeys(asked))
    under = dict(under or {})
    experiment = (
        make_experiment(under | fields)
        if configuration is None
        else load_experiment(configuration, fields, under)
    )
    if (
        len(several) > 1 and not experiment.ensemble
    ):  # in a file a list of templates has always been their mean
        raise UserError(
            f"template: {len(several)} templates are given; --ensemble takes the mean of their logits, and lmntk prompts says which is best"
        )
    if training and not experiment.finetune:
        name = next(iter(training)).replace("_", "-")
        raise UserError(
            f"run: --{name} belongs to fine-tuning, and nothing is trained; add --finetune sgd (for diagnose: --optimizers sgd)"
        )
    return experiment
