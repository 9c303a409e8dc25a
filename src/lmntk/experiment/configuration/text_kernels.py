"""The configuration of ``lmntk kernel``: kernels of texts in files, or once more of factors that were kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field, field_validator

from lmntk.experiment.configuration.parts import (
    CHAT,
    LABEL_WORDS,
    LABEL_WORDS_REDUCE,
    MAX_LENGTH,
    MOST_RANK,
    TEMPLATE,
    ClassWords,
    Computation,
    FileColumns,
    Kernels,
    NamedParameters,
    Part,
    Several,
    parts_of,
)


class Files(Part):
    """The files of the texts."""

    GROUP: ClassVar[str] = "Data"

    train: Path = Field(description="training texts: CSV, TSV, JSONL, Parquet; labels are optional")
    evaluate: Path = Field(description="evaluation texts", json_schema_extra={"flag": "--eval"})


class FilePrompt(Part):
    """The prompt of the texts; what does not fit the tokenizer shows when it is made."""

    GROUP: ClassVar[str] = "Prompt"

    template: str | tuple[str, ...] = Field(description=TEMPLATE, json_schema_extra={"metavar": "TEMPLATE"})
    label_words: ClassWords = Field(description=LABEL_WORDS)
    chat: bool = Field(default=False, description=CHAT)
    label_words_reduce: str | None = Field(
        default=None, description=LABEL_WORDS_REDUCE, json_schema_extra={"unset": "an error"}
    )
    max_length: int | None = Field(
        default=None, gt=0, description=MAX_LENGTH, json_schema_extra={"unset": "128"}
    )


class KernelFolder(Part):
    """Where the kernels' files go."""

    GROUP: ClassVar[str] = "Output"

    out: Path = Field(description="the output folder")

    @field_validator("formulas", check_fields=False)
    @classmethod
    def _has_formulas(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("give at least one of sgd, signgd, asigngd")
        return value


class TextKernels(KernelFolder, FilePrompt, FileColumns, Files, Computation):
    """Kernels of the texts in two files."""


class FactorKernels(KernelFolder, Kernels, NamedParameters):
    """Kernels of factors that ``keep_factors`` left, without the model."""

    GROUP: ClassVar[str] = "Kernels"

    factors: Path = Field(
        description="a folder that --keep-factors left, in place of model, texts and prompt"
    )
    pair: Annotated[tuple[str, ...], BeforeValidator(parts_of)] = Field(
        default=(),
        description="which factors of a run: ROWS,COLUMNS",
        json_schema_extra={"metavar": "ROWS,COLUMNS"},
    )
    lora_rank: Several[Annotated[int, Field(gt=0, le=MOST_RANK)]] = Field(
        default=(), description="with factors: ranks of LoRA's kernels at its start, B = 0"
    )
    targets: Several[str] = Field(
        default=(),
        description="with factors: what trains, or LoRA adapts: query+value, attention, mlp, all-linear, biases, norms, top-2",
    )
    seed: int = Field(default=0, description="seed of LoRA's random A")
