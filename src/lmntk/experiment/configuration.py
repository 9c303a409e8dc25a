"""What an experiment is: one typed configuration, from flags, from a TOML file, or from both."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from lmntk.errors import UserError
from lmntk.system.memory import parse_bytes
from lmntk.tasks import SEEDS, TASKS

Mode = Literal["prompt", "head"]
Kind = Literal["auto", "masked", "causal", "seq2seq", "classifier"]
Reduce = Literal["first", "mean"]
Formula = Literal["sgd", "signgd", "asigngd"]
Optimizer = Literal["sgd", "adamw", "signgd"]
Solver = Literal["ridge", "logistic", "row-logistic", "svc", "svr", "asym"]

FILTERS = (
    "without_embeddings",
    "without_head",
    "biases_only",
    "include",
    "exclude",
)  # fields that choose parameters


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


class OwnTask(BaseModel):
    """A task of the user's own: where its texts are, and its prompt.

    Either ``train`` (and ``test``), or ``texts_of``: one of the 14 tasks, whose texts, splits, labels and metric it takes, with a prompt of
    its own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    train: str = ""
    test: str | None = None
    texts_of: str | None = None
    text_column: str = "text"
    text_b_column: str | None = None
    label_column: str = "label"
    labels: tuple[str, ...] | None = None
    template: str | tuple[str, ...] | None = None
    label_words: tuple[str, ...] | None = None
    metric: Literal["accuracy", "f1"] = "accuracy"
    max_length: int | None = Field(None, gt=0)
    text_a_limit: int | None = Field(None, gt=0)

    @field_validator("labels", "label_words", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """Commas separate, as in flags."""
        return _parts(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _from_somewhere(self) -> OwnTask:
        if bool(self.train) == bool(self.texts_of):
            raise ValueError("train: give the file of its texts, or with texts_of one of the 14 tasks")
        if self.texts_of is not None and self.texts_of not in TASKS:
            raise ValueError(f"texts_of: {self.texts_of!r} is not one of {', '.join(TASKS)}")
        return self


class FineTuning(BaseModel):
    """How an experiment fine-tunes, in all splits; see ``lmntk.finetuning``.

    Attributes:
        learning_rates: for every optimizer, or by optimizer; without, the paper's.
        batch_sizes: the grid's other axis; larger ones than there are train texts are cut.
        steps: of each training, exactly.
        eval_every: steps between two looks at dev.
        loss: cross-entropy or squared.
        schedule: linear, down to zero, or constant.
        max_grad_norm: gradients are scaled down to this norm; 0 leaves them.
        dropout: as the checkpoint has it; False trains without.
        linearized: train the linearized model as well.
        lora_rank: train a fresh LoRA of this rank; the experiment's filters of parameters do not go with it.
        lora_alpha: its scale is alpha / rank.
        freeze_layers: the embeddings and so many bottom layers do not train.
        seed: of the texts' order, dropout and LoRA; without, the split's.
        save_weights: keep the best weights.
        export: keep them as a model's folder too.
        checkpoint_seconds: time between two checkpoints of a training.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    learning_rates: tuple[float, ...] | dict[Optimizer, tuple[float, ...]] | None = None
    batch_sizes: tuple[int, ...] = (2, 4, 8)
    steps: int = Field(default=1000, gt=0)
    eval_every: int = Field(default=100, gt=0)
    loss: Literal["cross-entropy", "squared"] = "cross-entropy"
    schedule: Literal["linear", "constant"] = "linear"
    max_grad_norm: float = Field(default=1.0, ge=0)
    dropout: bool = True
    linearized: bool = False
    lora_rank: int | None = Field(default=None, gt=0)
    lora_alpha: float = Field(default=16.0, gt=0)
    freeze_layers: int = Field(default=0, ge=0)
    seed: int | None = Field(default=None, ge=0, lt=2**32)
    save_weights: bool = False
    export: bool = False
    checkpoint_seconds: float = Field(default=60.0, ge=0)

    @field_validator("learning_rates", "batch_sizes", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """One value is a list of one; commas separate."""
        if isinstance(value, str):
            return _parts(value)
        return (value,) if isinstance(value, int | float) else value

    @field_validator("learning_rates")
    @classmethod
    def _rates(cls, value: Any) -> Any:
        for rates in [] if value is None else value.values() if isinstance(value, dict) else [value]:
            if (
                not rates
                or len(set(rates)) != len(rates)
                or any(not 0 < rate < float("inf") for rate in rates)
            ):
                raise ValueError("give at least one rate above 0, each once")
        return value

    @field_validator("batch_sizes")
    @classmethod
    def _sizes(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or len(set(value)) != len(value) or any(size < 1 for size in value):
            raise ValueError("give at least one size from 1 up, each once")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> FineTuning:
        if self.lora_rank is not None and self.freeze_layers:
            raise ValueError(
                "freeze_layers: LoRA leaves all of the network's own parameters as they are; give one of the two"
            )
        return self

    def rates_of(self, optimizer: str) -> tuple[float, ...] | None:
        """Returns the learning rates that were given for an optimizer."""
        if not isinstance(self.learning_rates, dict):
            return self.learning_rates
        return next((rates for name, rates in self.learning_rates.items() if name == optimizer), None)


class Experiment(BaseModel):
    """Any number of tasks x k x seeds x modes x formulas on one model.

    Attributes are the configuration's fields; a TOML file has the same names.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    kind: Kind = "auto"
    revision: str | None = None
    base: str | None = None
    data: str | None = None
    out: Path = Path("runs/lmntk")
    tasks: tuple[str, ...] = ()
    own_tasks: tuple[OwnTask, ...] = ()
    k: tuple[int, ...] = (16,)
    seeds: tuple[int, ...] = SEEDS
    modes: tuple[Mode, ...] = ("prompt",)
    formulas: tuple[Formula, ...] = ("sgd", "signgd", "asigngd")
    solvers: tuple[Solver, ...] | None = None
    finetune: tuple[Optimizer, ...] = ()
    finetuning: FineTuning = FineTuning()
    diagnose: bool = False
    finetuned: Path | None = None
    template: str | tuple[str, ...] | None = None
    label_words: tuple[str, ...] | None = None
    label_words_reduce: Reduce | None = None
    max_length: int | None = Field(None, gt=0)
    test_limit: int = Field(1000, gt=0)
    features: Literal["read", "mean"] = "read"
    all_logits: bool = False
    untie_head: bool = False
    without_embeddings: bool = False
    without_head: bool = False
    biases_only: bool = False
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    groups: bool = False
    keep_noise: bool = False
    keep_kernels: bool = True
    save_models: bool = False
    dtype: Literal["float32", "float64"] = "float32"
    attention: str | None = None
    batch_size: int = Field(32, gt=0)
    memory: str | None = None
    scratch: Path | None = None
    keep_factors: bool = False
    device: str = "auto"
    device_memory: str | None = None
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    engine: Literal["local", "ray"] = "local"
    address: str | None = None
    workers: int | None = Field(None, gt=0)

    @field_validator(
        "k",
        "seeds",
        "tasks",
        "modes",
        "formulas",
        "solvers",
        "finetune",
        "label_words",
        "include",
        "exclude",
        mode="before",
    )
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """One value is a list of one; commas separate; ``none`` is an empty list."""
        if isinstance(value, str):
            return () if value.strip() == "none" else _parts(value)
        return (value,) if isinstance(value, int) else value

    @field_validator("seeds")
    @classmethod
    def _seeds(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(not 0 <= seed < 2**32 for seed in value):
            raise ValueError("a seed must be from 0 to 4294967295")
        return value

    @field_validator("k")
    @classmethod
    def _positive(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(k < 1 for k in value):
            raise ValueError("k must be at least 1")
        return value

    @field_validator("tasks")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in TASKS:
                near = difflib.get_close_matches(name, TASKS, n=2)
                raise ValueError(
                    f"{name!r} is not one of {', '.join(TASKS)}"
                    + (f"; did you mean {near[0]!r}?" if near else "")
                )
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Experiment:
        if not self.tasks and not self.own_tasks:
            raise ValueError("tasks: name at least one task, or texts of your own with train and test")
        if (self.tasks or any(task.texts_of for task in self.own_tasks)) and self.data is None:
            raise ValueError("data: tasks need the folder that holds <task>/train.jsonl.gz")
        for name in ("k", "seeds", "modes", "formulas", "solvers"):
            values = getattr(self, name)
            is_optional = name == "formulas" and bool(self.finetune or self.finetuned)
            if values is not None and (not (values or is_optional) or len(set(values)) != len(values)):
                raise ValueError(f"{name}: give at least one value, each once")
        if len(set(self.finetune)) != len(self.finetune):
            raise ValueError("finetune: give each optimizer once")
        if self.diagnose and not (self.finetune or self.finetuned):
            raise ValueError("diagnose: it is fine-tuning that is diagnosed; add finetune, such as sgd")
        if self.finetuned is not None and not self.diagnose:
            raise ValueError(
                "finetuned: a checkpoint is there to be diagnosed; add diagnose, or use lmntk diagnose"
            )
        filters = [name for name in FILTERS if getattr(self, name)]
        if self.finetune and self.finetuning.lora_rank is not None and filters:
            raise ValueError(
                f"{filters[0]}: LoRA trains what it adds, unfiltered; leave out {', '.join(filters)}, or lora_rank"
            )
        if (self.template or self.label_words) and len(self.tasks) + len(self.own_tasks) > 1:
            raise ValueError("template: one prompt for several tasks; set it on one task, or run them apart")
        names = [*self.tasks, *(task.name for task in self.own_tasks)]
        if len(set(names)) != len(names):
            raise ValueError("own_tasks: a name is used twice")
        if self.memory is not None:
            parse_bytes(self.memory)
        if self.device_memory is not None:
            parse_bytes(self.device_memory, "device-memory")
        return self


def make_experiment(values: dict[str, Any], origin: str = "") -> Experiment:
    """Returns the checked configuration.

    Raises:
        UserError: one line that names the first wrong field, its value and what is allowed.
    """
    try:
        return Experiment(**values)
    except ValidationError as error:
        first = error.errors()[0]
        named = [
            part for part in first["loc"] if isinstance(part, int) or str(part).isidentifier()
        ]  # not pydantic's own, such as tuple[float]
        field = ".".join(str(part) for part in named)
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            near = difflib.get_close_matches(field, Experiment.model_fields, n=1)
            message = "no such field" + (f"; did you mean {near[0]!r}?" if near else "")
        given = (
            ""
            if not field or first["type"] in ("missing", "extra_forbidden")
            else f" (given: {first['input']!r})"
        )
        raise UserError(f"{origin}{field + ': ' if field else ''}{message}{given}") from None


def read_toml(path: Path) -> dict[str, Any]:
    """Returns what a configuration's file says, unchecked.

    Raises:
        UserError: no such file, or broken TOML (with its line).
    """
    if not path.is_file():
        raise UserError(f"configuration: no file {str(path)!r}; give a TOML file, or flags")
    try:
        return tomllib.loads(path.read_text(encoding="utf8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"configuration: {path} is not valid TOML: {error}") from None


def load_experiment(
    path: Path, overrides: dict[str, Any], defaults: dict[str, Any] | None = None
) -> Experiment:
    """Returns the configuration in a TOML file, with the overrides (flags) put on top, and defaults for what neither says.

    Raises:
        UserError: no such file, broken TOML (with its line), or a wrong field.
    """
    values = read_toml(path)
    # what is wrong with a flag is no mistake of the file's
    flags = [name for name in overrides if name != "finetuning"] + [
        f"finetuning.{name}" for name in overrides.get("finetuning") or ()
    ]
    if "finetuning" in overrides and isinstance(values.get("finetuning"), dict):  # single fields of the table
        overrides = overrides | {"finetuning": values["finetuning"] | overrides["finetuning"]}
    try:
        return make_experiment((defaults or {}) | values | overrides, f"{path}: ")
    except UserError as error:
        wrong = str(error).removeprefix(f"{path}: ")
        is_flag = any(wrong.startswith((f"{name}:", f"{name}.")) for name in flags)
        raise (UserError(wrong.removeprefix("finetuning.")) if is_flag else error) from None
