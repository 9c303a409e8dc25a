"""The configuration of ``lmntk fit``: one labelled file, and how its texts are put to the model."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from lmntk.experiment.configuration.parts import (
    LABEL_COLUMN,
    LABEL_WORDS,
    LABEL_WORDS_REDUCE,
    LABELS,
    MAX_LENGTH,
    TEMPLATE,
    TEXT_B_COLUMN,
    TEXT_COLUMN,
    ClassWords,
    OnMachine,
    Parameters,
    Part,
    Words,
)


class LabelledFile(Part):
    """The labelled file, and its columns."""

    GROUP: ClassVar[str] = "Data"

    file: str = Field(
        description="labelled texts: CSV, TSV, JSONL, Parquet, or hf:NAME",
        json_schema_extra={"no_option": "it is the command's argument"},
    )
    text_column: str = Field(default="text", description=TEXT_COLUMN)
    text_b_column: str | None = Field(default=None, description=TEXT_B_COLUMN)
    label_column: str = Field(default="label", description=LABEL_COLUMN)
    labels: Words | None = Field(default=None, description=LABELS)


class FitPrompt(Part):
    """The way in which texts are put to the model."""

    GROUP: ClassVar[str] = "Prompt"

    template: str | None = Field(
        default=None,
        description=TEMPLATE.removesuffix("; given several times, their mean"),
        json_schema_extra={"metavar": "TEMPLATE"},
    )
    label_words: ClassWords | None = Field(default=None, description=LABEL_WORDS)
    label_words_reduce: Literal["first", "mean"] | None = Field(
        default=None, description=LABEL_WORDS_REDUCE, json_schema_extra={"unset": "an error"}
    )
    mode: Literal["auto", "prompt", "head"] = Field(
        default="auto", description="prompt, head, or auto: with label words the better of both, else head"
    )
    max_length: int | None = Field(
        default=None, gt=0, description=MAX_LENGTH, json_schema_extra={"unset": "128"}
    )


class ClassesOfFit(Part):
    """Whether the classes share a kernel."""

    GROUP: ClassVar[str] = "Kernels"

    classes: Literal["auto", "full", "shared"] = Field(
        default="auto", description="full, shared: one kernel for all classes, or auto: shared by more than 6"
    )


class FitOutput(Part):
    """Where the fitted model goes."""

    GROUP: ClassVar[str] = "Output"

    out: Path = Field(
        default=Path("runs/fit"), description="the folder of the fitted model, for lmntk predict"
    )
    seed: int = Field(default=0, ge=0, description="of the folds that are held out, and of head mode's head")


class Fit(FitOutput, ClassesOfFit, FitPrompt, LabelledFile, Parameters, OnMachine):
    """A classifier of one labelled file, by the ``sgd`` kernel."""

    @property
    def prompted(self) -> bool:
        """Whether the texts are put to the model with a prompt."""
        return self.mode != "head" and self.label_words is not None
