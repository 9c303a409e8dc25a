"""The configuration of ``lmntk fit``: one labelled file, and how its texts are put to the model."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from lmntk.experiment.configuration.parts import (
    CHAT,
    LABEL_WORDS,
    LABEL_WORDS_REDUCE,
    MAX_LENGTH,
    TEMPLATE,
    Classes,
    ClassWords,
    FileColumns,
    OnMachine,
    Parameters,
    Part,
)


class LabelledFile(Part):
    """The labelled file."""

    GROUP: ClassVar[str] = "Data"

    file: str = Field(
        description="labelled texts: CSV, TSV, JSONL, Parquet, or hf:NAME",
        json_schema_extra={"no_option": "it is the command's argument"},
    )


class FitPrompt(Part):
    """The way in which texts are put to the model."""

    GROUP: ClassVar[str] = "Prompt"

    template: str | None = Field(
        default=None,
        description=TEMPLATE.removesuffix("; given several times, their mean"),
        json_schema_extra={"metavar": "TEMPLATE"},
    )
    chat: bool = Field(default=False, description=CHAT)
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


class ClassesOfFit(Classes):
    """The same choice, by default the cheaper for many classes; and the contrasts, which only decisions by softmax allow."""

    classes: Literal["auto", "full", "contrasts", "shared"] = Field(  # type: ignore[assignment]
        default="auto",
        description="full, contrasts: one logit less, shared: one kernel for all, or auto: shared by more than 6",
    )


class FitOutput(Part):
    """The folder of the fitted model, and the seed."""

    GROUP: ClassVar[str] = "Output"

    out: Path = Field(
        default=Path("runs/fit"), description="the folder of the fitted model, for lmntk predict"
    )
    seed: int = Field(default=0, ge=0, description="of the folds that are held out, and of head mode's head")


class Fit(FitOutput, ClassesOfFit, FitPrompt, FileColumns, LabelledFile, Parameters, OnMachine):
    """A classifier of one labelled file, by the ``sgd`` kernel."""


class Discoveries(Part):
    """The promise of an audit."""

    GROUP: ClassVar[str] = "Output"

    false_discoveries: float = Field(
        default=0.2,
        gt=0,
        lt=1,
        description="the share of right labels that may be among those named as wrong",
    )
    trust: Literal["check"] | None = Field(
        default=None,
        description="check: hold one short real training against its emulation",
        json_schema_extra={"metavar": "check", "unset": "the regime is not measured"},
    )
    out: Path = Field(default=Path("runs/audit"), description="the folder of audit.json and audit.csv")


class Audit(Discoveries, Fit):
    """A look for wrong labels in one labelled file."""
