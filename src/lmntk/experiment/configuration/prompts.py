"""The configuration of ``lmntk prompts``: one labelled file, and the prompts that are compared on it."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from lmntk.experiment.configuration.fit import ClassesOfFit, LabelledFile, SeveralPrompts
from lmntk.experiment.configuration.parts import FileColumns, OnMachine, Parameters, Part

MOST_PROPOSED = 20


class ComparedPrompts(SeveralPrompts):
    """The prompts, and how many sets of label words the model proposes for each template."""

    mode: Literal["prompt"] = Field(  # type: ignore[assignment]
        default="prompt", json_schema_extra={"no_option": "prompts are compared, and nothing else"}
    )
    propose: int = Field(
        default=0,
        ge=0,
        le=MOST_PROPOSED,
        description="sets of label words that the model proposes for each template",
    )


class PromptsOutput(Part):
    """The folder of the results, and the seed."""

    GROUP: ClassVar[str] = "Output"

    out: Path = Field(default=Path("runs/prompts"), description="the folder of prompts.json and the kernels")
    seed: int = Field(default=0, ge=0, description="seed of the folds")


class Prompts(PromptsOutput, ClassesOfFit, ComparedPrompts, FileColumns, LabelledFile, Parameters, OnMachine):
    """A comparison of prompts on one labelled file."""
