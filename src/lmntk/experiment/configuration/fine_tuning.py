"""The fine-tuning of an experiment."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from lmntk.experiment.configuration.parts import MOST_RANK, Part, parts_of

Optimizer = Literal["sgd", "adamw", "signgd"]
SELDOM = {"no_option": "it is seldom another one, and then the file says so"}
Size = int | Literal["all"]
Rates = tuple[float, ...] | dict[Optimizer, tuple[float, ...]] | None
ONE_OF = {  # what LoRA leaves no place for
    "freeze_layers": "LoRA leaves all of the network's own parameters as they are",
    "train_only": "LoRA trains what it adds, on lora_targets",
    "intrinsic_dimension": "LoRA trains what it adds, and no random subspace",
}


class Arm(Part):
    """The choice of what trains: parameters, a fresh LoRA, or a random subspace; see ``lmntk.finetuning.subsets``.

    With ``lora_rank`` the experiment chooses no parameters: LoRA trains what it adds, at the scale ``lora_alpha`` / ``lora_rank``.
    """

    GROUP: ClassVar[str] = "Fine-tuning"

    lora_rank: int | None = Field(
        default=None, gt=0, le=MOST_RANK, description="train a fresh LoRA of this rank"
    )
    lora_targets: str | None = Field(
        default=None,
        description="what LoRA adapts: query+value, attention, mlp, all-linear, attention&top-2, ...",
        json_schema_extra={"unset": "where peft puts it", "metavar": "TARGET"},
    )
    lora_alpha: float = Field(
        default=16.0, gt=0, description="alpha of LoRA; its scale is alpha over the rank"
    )
    train_only: str | None = Field(
        default=None,
        description="train only these: biases, norms, attention, top-2, ..., joined by +",
        json_schema_extra={"metavar": "TARGET"},
    )
    freeze_layers: int = Field(
        default=0, ge=0, description="freeze this many bottom layers, and the embeddings"
    )
    intrinsic_dimension: int | None = Field(
        default=None, gt=0, description="train this many coordinates of a random subspace"
    )
    rate_factor: float = Field(
        default=1.0,
        gt=0,
        description="multiply the grid's learning rates by this",
        json_schema_extra={
            "no_option": "it belongs to arms that share a grid; a single choice uses --learning-rates"
        },
    )

    @model_validator(mode="after")
    def _is_one_thing(self) -> Arm:
        if self.lora_rank is None and self.lora_targets is not None:
            raise ValueError("lora_targets: it belongs to LoRA; give the rank too, with lora_rank")
        for name, reason in ONE_OF.items():
            if self.lora_rank is not None and getattr(self, name):
                raise ValueError(f"{name}: {reason}; give one of the two")
        return self


class FineTuning(Arm):
    """The fine-tuning of an experiment, in all splits; see ``lmntk.finetuning``.

    ``learning_rates`` are for every optimizer, or by optimizer. Batch sizes larger than there are train texts are cut; ``all`` is all of
    them in each step. With ``arms`` each of them trains, by every optimizer, at these rates times its own factor.
    """

    learning_rates: Rates = Field(
        default=None,
        description="learning rates of the grid: 1e-3,5e-3",
        json_schema_extra={"unset": "the paper's, by optimizer", "metavar": "A,B,..."},
    )
    batch_sizes: tuple[Size, ...] = Field(
        default=(2, 4, 8), description="batch sizes of the grid; all is every training text in each step"
    )
    steps: int = Field(default=1000, gt=0, description="steps of each training")
    eval_every: int = Field(default=100, gt=0, description="steps between two looks at dev")
    loss: Literal["cross-entropy", "squared"] = Field(
        default="cross-entropy", description="cross-entropy or squared"
    )
    schedule: Literal["linear", "constant"] = Field(
        default="linear",
        description="schedule of the learning rate: linear (down to zero) or constant",
    )
    max_grad_norm: float = Field(
        default=1.0,
        ge=0,
        description="scale gradients down to this norm; 0 does not",
    )
    dropout: bool = Field(
        default=True,
        description="use the checkpoint's dropout; false trains without",
        json_schema_extra={"flag": "--no-dropout", "help": "train without dropout"},
    )
    linearized: bool = Field(default=False, description="train the linearized model as well")
    arms: tuple[Arm, ...] = Field(
        default=(),
        description="several choices of what trains, side by side",
        json_schema_extra={"no_option": "a table each; on the command line there is one choice"},
    )
    seed: int | None = Field(
        default=None,
        ge=0,
        lt=2**32,
        description="seed of the texts' order, dropout, LoRA and random subspaces; the default is the split's",
        json_schema_extra=dict(SELDOM),
    )
    save_weights: bool = Field(default=False, description="keep the best weights")
    export: bool = Field(
        default=False,
        description="keep the best weights as a model's folder too",
        json_schema_extra={"no_option": "finetune --save asks for it together with the weights"},
    )
    checkpoint_seconds: float = Field(
        default=60.0,
        ge=0,
        description="time between two checkpoints of a training",
        json_schema_extra=dict(SELDOM),
    )

    @field_validator("learning_rates", mode="before")
    @classmethod
    def _are_listed(cls, value: Any) -> Any:
        """One value is a list of one; commas separate."""
        return (value,) if isinstance(value, int | float) else parts_of(value)

    @field_validator("learning_rates")
    @classmethod
    def _are_rates(cls, value: Any) -> Any:
        for rates in [] if value is None else value.values() if isinstance(value, dict) else [value]:
            if (
                not rates
                or len(set(rates)) != len(rates)
                or any(not 0 < rate < float("inf") for rate in rates)
            ):
                raise ValueError("give at least one rate above 0, each once")
        return value

    @field_validator("batch_sizes", mode="before")
    @classmethod
    def _are_sizes_listed(cls, value: Any) -> Any:
        """One value is a list of one; commas separate."""
        listed = (value,) if isinstance(value, int) else parts_of(value)
        for size in listed if isinstance(listed, tuple | list) else ():
            if isinstance(size, str) and size != "all" and not size.isdecimal():
                raise ValueError(f"{size!r} is neither a number nor all")
        return listed

    @field_validator("batch_sizes")
    @classmethod
    def _are_sizes(cls, value: tuple[Size, ...]) -> tuple[Size, ...]:
        sizes = [size for size in value if size != "all"]
        if not value or len(set(value)) != len(value) or any(size < 1 for size in sizes):
            raise ValueError("give at least one size from 1 up, or all, each once")
        return value

    @model_validator(mode="after")
    def _is_one_choice(self) -> FineTuning:
        given = [name for name, field in Arm.model_fields.items() if getattr(self, name) != field.default]
        if self.arms and given:
            raise ValueError(f"{given[0]}: with arms each of them says what trains; give it there")
        trained = [arm.model_dump(exclude={"rate_factor"}) for arm in self.arms]
        if any(each in trained[:number] for number, each in enumerate(trained)):
            raise ValueError("arms: two of them train the same; put their rates into one")
        return self

    @property
    def choices(self) -> tuple[Arm, ...]:
        """The choices of what trains: each arm, or the one choice of this table."""
        return self.arms or (self,)

    def rates_of(self, optimizer: str) -> tuple[float, ...] | None:
        """Return the learning rates that were given for an optimizer."""
        if not isinstance(self.learning_rates, dict):
            return self.learning_rates
        return next((rates for name, rates in self.learning_rates.items() if name == optimizer), None)
