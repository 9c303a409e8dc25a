"""The commands of one labelled file: its options, its configuration, and the texts, read before anything heavy is imported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from lmntk.cli.options import FieldOption, options_of
from lmntk.errors import UserError

if TYPE_CHECKING:
    from lmntk.estimator.given import FitInput
    from lmntk.experiment.configuration import Fit, Prompts, Subspace

    Kind = TypeVar("Kind", bound=Fit | Subspace | Prompts)

LabelledFile = Annotated[str, typer.Argument(help="labelled texts: CSV, TSV, JSONL, Parquet, or hf:NAME")]


def labelled_options(kind: type[Fit] | type[Subspace] | type[Prompts]) -> list[FieldOption]:
    """Return the options of a configuration; factors are kept by other commands."""
    return [option for option in options_of(kind) if option.name != "keep_factors"]


def read_labelled_file(context: typer.Context, file: str, kind: type[Kind]) -> tuple[Kind, FitInput]:
    """Return the configuration that was given, and the file's texts.

    Raises:
        UserError: no model, or a mistake in the options, the file or its labels.
    """
    from lmntk.experiment.configuration import from_flags

    given = context.obj
    if "model" not in given:
        raise UserError(
            "model: --model is missing; give a Hugging Face model folder, a GGUF file, or a hub name"
        )
    options = from_flags(kind, given | {"file": file})
    from lmntk.estimator.given import read_input

    return options, read_input(options)
