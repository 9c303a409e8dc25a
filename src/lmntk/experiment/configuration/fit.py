"""The configuration of ``lmntk fit``: one labelled file, and how its texts are put to the model."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from lmntk.experiment.configuration.parts import (
    CHAT,
    LABEL_WORDS,
    LABEL_WORDS_REDUCE,
    MAX_LENGTH,
    MEAN,
    MOST_RANK,
    TEMPLATE,
    Classes,
    ClassWords,
    FileColumns,
    OnMachine,
    Parameters,
    Part,
    WordSets,
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
        description=TEMPLATE.removesuffix(MEAN),
        json_schema_extra={"metavar": "TEMPLATE"},
    )
    chat: bool = Field(default=False, description=CHAT)
    label_words: ClassWords | None = Field(default=None, description=LABEL_WORDS)
    label_words_reduce: Literal["first", "mean"] | None = Field(
        default=None, description=LABEL_WORDS_REDUCE, json_schema_extra={"unset": "an error"}
    )
    mode: Literal["auto", "prompt", "head"] = Field(
        default="auto",
        description="prompt, head, or auto: the better of both if there are label words, else head",
    )
    max_length: int | None = Field(
        default=None, gt=0, description=MAX_LENGTH, json_schema_extra={"unset": "128"}
    )


class SeveralPrompts(FitPrompt):
    """The same with several templates and several sets of label words: each template is put together with each set."""

    template: str | tuple[str, ...] | None = Field(  # type: ignore[assignment]
        default=None, description=f"{TEMPLATE.removesuffix(MEAN)}; given several times, the best is chosen",
        json_schema_extra={"metavar": "TEMPLATE"},
    )  # fmt: skip
    templates: Path | None = Field(default=None, description="a file of further templates, one a line")
    label_words: WordSets | None = Field(  # type: ignore[assignment]
        default=None, description=f"{LABEL_WORDS}; given several times, the best is chosen", json_schema_extra={"repeated": True}
    )  # fmt: skip


class ClassesOfFit(Classes):
    """The same choice, by default the cheaper for many classes."""

    classes: Literal["auto", "full", "contrasts", "shared"] = Field(
        default="auto", description=Classes.model_fields["classes"].description
    )


class FitTraining(Part):
    """The part of the model whose training the classifier stands for; by default all of it."""

    GROUP: ClassVar[str] = "Kernels"

    lora_rank: int | None = Field(
        default=None,
        gt=0,
        le=MOST_RANK,
        description="use the kernel of LoRA of this rank, at its random start",
    )
    lora_targets: str | None = Field(
        default=None,
        description="what LoRA adapts: query+value, attention, mlp, all-linear, attention&top-2, ...",
        json_schema_extra={"unset": "all-linear", "metavar": "TARGET"},
    )
    lora_alpha: float = Field(
        default=16.0, gt=0, description="alpha of LoRA; its scale is alpha over the rank"
    )
    train_only: str | None = Field(
        default=None,
        description="train only these: biases, norms, attention, top-2, ..., joined by +",
        json_schema_extra={"metavar": "TARGET"},
    )

    @model_validator(mode="after")
    def _is_one_thing(self) -> FitTraining:
        if self.lora_rank is None and self.lora_targets is not None:
            raise ValueError("lora_targets: it belongs to LoRA; give the rank too, with lora_rank")
        if self.lora_rank is not None and self.train_only is not None:
            raise ValueError("train_only: LoRA trains what it adds, on lora_targets; give one of the two")
        return self


class FitOutput(Part):
    """The folder of the fitted model, and the seed."""

    GROUP: ClassVar[str] = "Output"

    out: Path = Field(
        default=Path("runs/fit"), description="the folder of the fitted model, for lmntk predict"
    )
    seed: int = Field(default=0, ge=0, description="seed of the folds, and of the head in head mode")


class Fit(
    FitOutput, FitTraining, ClassesOfFit, SeveralPrompts, FileColumns, LabelledFile, Parameters, OnMachine
):
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
    wrong_share: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="the share of labels assumed wrong beforehand; the promise rests on it",
    )
    trust: Literal["check"] | None = Field(
        default=None,
        description="check: compare a short real training with its emulation",
        json_schema_extra={"metavar": "check", "unset": "the regime is not measured"},
    )
    out: Path = Field(
        default=Path("runs/audit"), description="the folder of audit.json, audit.csv and audit.html"
    )


class Audit(Discoveries, Fit):
    """A look for wrong labels in one labelled file."""
