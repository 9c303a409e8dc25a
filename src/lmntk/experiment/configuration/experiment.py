"""An experiment: any number of tasks x k x seeds x modes x formulas on one model."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from lmntk.errors import UserError
from lmntk.experiment.configuration.fine_tuning import FineTuning, Optimizer
from lmntk.experiment.configuration.own_task import OwnTask
from lmntk.experiment.configuration.parts import (
    CHAT,
    LABEL_WORDS,
    LABEL_WORDS_REDUCE,
    MAX_LENGTH,
    MEAN,
    TEMPLATE,
    Classes,
    ClassWords,
    Computation,
    Parameters,
    Part,
    Rank,
    Several,
    parts_of,
)
from lmntk.tasks import SEEDS, TASKS

Mode = Literal["prompt", "head"]
Solver = Literal["ridge", "logistic", "row-logistic", "svc", "svr", "asym"]


def _numbers(example: str) -> BeforeValidator:
    """Return what reads a list of whole numbers with commas, or a single one."""

    def read(value: Any, info: Any) -> Any:
        if isinstance(value, int):
            return (value,)
        try:
            return tuple(map(int, parts_of(value))) if isinstance(value, str) else value
        except ValueError:
            raise UserError(
                f"{info.field_name}: {value!r} is not a list of whole numbers; write {example}"
            ) from None

    return BeforeValidator(read)


class Texts(Part):
    """The tasks and their splits."""

    GROUP: ClassVar[str] = "Data"

    data: str | None = Field(
        default=None,
        description="folder of the tasks' texts, <task>/train.jsonl.gz, LM-BFF's or GLUE's layout",
    )
    tasks: Several[str] = Field(default=(), description="tasks, of the 14: sst-2,mr,...")
    own_tasks: tuple[OwnTask, ...] = Field(
        default=(),
        description="tasks of your own",
        json_schema_extra={"no_option": "a task's fields are options of their own"},
    )
    k: Annotated[tuple[int, ...], _numbers("16,64")] = Field(
        default=(16,), description="texts of each class to train on, and as many for dev: 16,64"
    )
    seeds: Annotated[tuple[int, ...], _numbers("13,21")] = Field(
        default=SEEDS, description="seeds of the splits"
    )
    test_limit: int = Field(default=1000, gt=0, description="test texts at most")

    @field_validator("seeds")
    @classmethod
    def _are_seeds(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(not 0 <= seed < 2**32 for seed in value):
            raise ValueError("a seed must be from 0 to 4294967295")
        return value

    @field_validator("k")
    @classmethod
    def _is_positive(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(k < 1 for k in value):
            raise ValueError("k must be at least 1")
        return value

    @field_validator("tasks")
    @classmethod
    def _are_known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in TASKS:
                near = difflib.get_close_matches(name, TASKS, n=2)
                raise ValueError(
                    f"{name!r} is not one of {', '.join(TASKS)}"
                    + (f"; did you mean {near[0]!r}?" if near else "")
                )
        return value


class Prompt(Part):
    """The way in which texts are put to the model, and what is read off it."""

    GROUP: ClassVar[str] = "Prompt"

    modes: Several[Mode] = Field(default=("prompt",), description="prompt, head, or both")
    template: str | tuple[str, ...] | None = Field(
        default=None,
        description=TEMPLATE.replace(MEAN, f"{MEAN} with --ensemble"),
        json_schema_extra={"metavar": "TEMPLATE"},
    )
    ensemble: bool = Field(default=False, description="take the mean of the logits of several templates")
    chat: bool = Field(default=False, description=CHAT)
    label_words: ClassWords | None = Field(default=None, description=LABEL_WORDS)
    label_words_reduce: Literal["first", "mean"] | None = Field(
        default=None, description=LABEL_WORDS_REDUCE, json_schema_extra={"unset": "an error"}
    )
    max_length: int | None = Field(
        default=None, gt=0, description=MAX_LENGTH, json_schema_extra={"unset": "the task's, or 128"}
    )
    features: Literal["read", "mean"] = Field(
        default="read", description="head mode: read (first token, or a decoder's last), mean"
    )


class Solving(Part):
    """The solvers of the kernels."""

    GROUP: ClassVar[str] = "Kernels"

    solvers: Several[Solver] | None = Field(
        default=None,
        description="solvers: ridge, asym, logistic, row-logistic, svc, svr",
        json_schema_extra={"unset": "ridge; asym for asigngd"},
    )


class PartsOfModel(Part):
    """Parts of the model whose kernels are solved beside that of all parameters; see ``lmntk.kernels.low_rank``."""

    GROUP: ClassVar[str] = "Kernels"

    targets: Several[str] = Field(
        default=(),
        description="also LoRA on each of these, at each of the ranks: query+value, attention, mlp, all-linear, ...",
    )
    ranks: Several[Rank] = Field(default=(), description="LoRA's ranks on the targets: 1,8,64")
    others: Several[str] = Field(
        default=(), description="also each of these, trained alone: biases, norms, attention, top-2, ..."
    )


class Training(Part):
    """Fine-tuning beside the kernels, and its diagnosis."""

    GROUP: ClassVar[str] = "Fine-tuning"

    finetune: Several[Optimizer] = Field(
        default=(), description="also fine-tune, with these optimizers: sgd, adamw, signgd"
    )
    finetuning: FineTuning = Field(
        default_factory=FineTuning,
        description="how to fine-tune",
        json_schema_extra={"no_option": "its fields are options of their own"},
    )
    diagnose: bool = Field(default=False, description="say whether fine-tuning behaves like its kernel")
    finetuned: Path | None = Field(
        default=None,
        description="a checkpoint that you fine-tuned, in place of training: its folder, a LoRA adapter's, or a file of weights",
        json_schema_extra={"no_option": "a checkpoint can only be diagnosed: lmntk diagnose has the option"},
    )


class Output(Part):
    """Where results go, and which of them are kept."""

    GROUP: ClassVar[str] = "Output"

    out: Path = Field(default=Path("runs/lmntk"), description="the output folder; a rerun resumes it")
    keep_kernels: bool = Field(
        default=True,
        description="keep the kernels on disk",
        json_schema_extra={"flag": "--no-kernels", "help": "do not keep the kernels on disk"},
    )
    save_models: bool = Field(default=False, description="keep each solution as a model for lmntk predict")


class Experiment(Output, Training, PartsOfModel, Solving, Classes, Prompt, Texts, Computation):
    """Any number of tasks x k x seeds x modes x formulas on one model; a TOML file has the same fields."""

    @model_validator(mode="after")
    def _is_consistent(self) -> Experiment:
        if not self.tasks and not self.own_tasks:
            raise ValueError("tasks: name at least one task, or texts of your own with train and test")
        if (self.tasks or any(task.texts_of for task in self.own_tasks)) and self.data is None:
            raise ValueError("data: tasks need the folder that holds <task>/train.jsonl.gz")
        for name in ("k", "seeds", "modes", "formulas", "solvers"):
            values = getattr(self, name)
            has_rows = bool(self.finetune or self.finetuned) or "head" in self.modes  # the linear probe's
            is_optional = name == "formulas" and has_rows
            if values is not None and (not (values or is_optional) or len(set(values)) != len(values)):
                raise ValueError(f"{name}: give at least one value, each once")
        if (self.chat or any(task.chat for task in self.own_tasks)) and "prompt" not in self.modes:
            raise ValueError("chat: head mode reads no prompt; leave chat out, or add prompt to modes")
        if len(set(self.finetune)) != len(self.finetune):
            raise ValueError("finetune: give each optimizer once")
        if self.diagnose and not (self.finetune or self.finetuned):
            raise ValueError("diagnose: it diagnoses fine-tuning; add finetune, such as sgd")
        if self.finetuned is not None and not self.diagnose:
            raise ValueError(
                "finetuned: a checkpoint can only be diagnosed; add diagnose, or use lmntk diagnose"
            )
        filters = [name for name in Parameters.model_fields if getattr(self, name)]
        if self.finetune and filters and any(arm.lora_rank is not None for arm in self.finetuning.choices):
            raise ValueError(
                f"{filters[0]}: LoRA trains what it adds, unfiltered; leave out {', '.join(filters)}, or lora_rank"
            )
        if (self.template or self.label_words) and len(self.tasks) + len(self.own_tasks) > 1:
            raise ValueError("template: one prompt for several tasks; set it on one task, or run them apart")
        if bool(self.targets) != bool(self.ranks):
            raise ValueError("targets: LoRA has targets and ranks; give both, or neither")
        if (self.targets or self.others) and not self.formulas:
            raise ValueError("targets: their kernels have formulas; add one, such as sgd")
        if self.ensemble and not any(
            isinstance(given, tuple) and len(given) > 1 for given in self._templates()
        ):
            raise ValueError("ensemble: it needs several templates; give --template twice or more")
        names = [*self.tasks, *(task.name for task in self.own_tasks)]
        if len(set(names)) != len(names):
            raise ValueError("own_tasks: a name is used twice")
        return self

    def _templates(self) -> list[str | tuple[str, ...] | None]:
        """Return what is given as templates, of all tasks and of each."""
        return [self.template, *(task.template for task in self.own_tasks)]
