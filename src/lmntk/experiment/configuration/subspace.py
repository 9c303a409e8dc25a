"""The configuration of ``lmntk subspace``: one labelled file, and what of the model might train."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from lmntk.experiment.configuration.fit import FitPrompt, LabelledFile
from lmntk.experiment.configuration.parts import (
    FileColumns,
    OnMachine,
    Parameters,
    Part,
    Rank,
    Several,
)


class Candidates(Part):
    """The candidates, and how LoRA starts."""

    GROUP: ClassVar[str] = "Kernels"

    targets: Several[str] = Field(
        default=("query+value", "attention", "mlp", "all-linear"),
        description="what LoRA adapts: query, value, attention, mlp, all-linear, attention&top-2, ..., joined by +",
    )
    ranks: Several[Rank] = Field(default=(1, 4, 16, 64), description="LoRA's ranks")
    others: Several[str] = Field(
        default=("biases", "norms"),
        description="what trains without LoRA: biases, norms, top-2, ..., or none",
    )
    draws: int = Field(default=3, gt=0, le=1000, description="random starts of each rank")
    init: Literal["kaiming", "gaussian"] = Field(
        default="kaiming", description="distribution of LoRA's A; kaiming is peft's"
    )
    scaling: Literal["alpha/r", "alpha/sqrt(r)"] = Field(
        default="alpha/r", description="scale of LoRA; alpha/sqrt(r) is rsLoRA's"
    )
    alpha: float = Field(default=16.0, gt=0, description="LoRA's alpha")
    adam: bool = Field(
        default=False, description="also say how Adam's first steps scale (twice the products)"
    )
    tolerance: float = Field(
        default=0.02, ge=0, lt=1, description="held-out accuracy that the smallest candidate may lose"
    )


class SubspaceOutput(Part):
    """The folder of the results, and the seed."""

    GROUP: ClassVar[str] = "Output"

    out: Path = Field(default=Path("runs/subspace"), description="the folder of the results")
    seed: int = Field(default=0, ge=0, description="seed of the folds, and of the head in head mode")


class Subspace(SubspaceOutput, Candidates, FitPrompt, FileColumns, LabelledFile, Parameters, OnMachine):
    """A comparison of what might train, on one labelled file."""
