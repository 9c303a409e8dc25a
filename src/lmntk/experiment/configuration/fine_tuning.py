"""The fine-tuning of an experiment."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from lmntk.experiment.configuration.parts import MOST_RANK, Part, parts_of

Optimizer = Literal["sgd", "adamw", "signgd"]
SELDOM = {"no_option": "it is seldom another one, and then the file says so"}


class FineTuning(Part):
    """The fine-tuning of an experiment, in all splits; see ``lmntk.finetuning``.

    ``learning_rates`` are for every optimizer, or by optimizer. Batch sizes larger than there are train texts are cut. With ``lora_rank``
    the experiment chooses no parameters: LoRA trains what it adds, at the scale ``lora_alpha`` / ``lora_rank``.
    """

    GROUP: ClassVar[str] = "Fine-tuning"

    learning_rates: tuple[float, ...] | dict[Optimizer, tuple[float, ...]] | None = Field(
        default=None,
        description="learning rates of the grid: 1e-3,5e-3",
        json_schema_extra={"unset": "the paper's, by optimizer", "metavar": "A,B,..."},
    )
    batch_sizes: tuple[int, ...] = Field(default=(2, 4, 8), description="batch sizes of the grid")
    steps: int = Field(default=1000, gt=0, description="steps of each training")
    eval_every: int = Field(default=100, gt=0, description="steps between two looks at dev")
    loss: Literal["cross-entropy", "squared"] = Field(
        default="cross-entropy", description="cross-entropy or squared"
    )
    schedule: Literal["linear", "constant"] = Field(
        default="linear",
        description="of the learning rate: linear, down to zero, or constant",
        json_schema_extra=dict(SELDOM),
    )
    max_grad_norm: float = Field(
        default=1.0,
        ge=0,
        description="gradients are scaled down to this norm; 0 leaves them",
        json_schema_extra=dict(SELDOM),
    )
    dropout: bool = Field(
        default=True,
        description="as the checkpoint has it; false trains without",
        json_schema_extra=dict(SELDOM),
    )
    linearized: bool = Field(default=False, description="train the linearized model as well")
    lora_rank: int | None = Field(
        default=None, gt=0, le=MOST_RANK, description="train a fresh LoRA of this rank"
    )
    lora_alpha: float = Field(
        default=16.0, gt=0, description="LoRA's scale is this over its rank", json_schema_extra=dict(SELDOM)
    )
    freeze_layers: int = Field(
        default=0, ge=0, description="so many bottom layers and the embeddings do not train"
    )
    seed: int | None = Field(
        default=None,
        ge=0,
        lt=2**32,
        description="of the texts' order, dropout and LoRA; without, the split's",
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

    @field_validator("learning_rates", "batch_sizes", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
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

    @field_validator("batch_sizes")
    @classmethod
    def _are_sizes(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or len(set(value)) != len(value) or any(size < 1 for size in value):
            raise ValueError("give at least one size from 1 up, each once")
        return value

    @model_validator(mode="after")
    def _is_consistent(self) -> FineTuning:
        if self.lora_rank is not None and self.freeze_layers:
            raise ValueError(
                "freeze_layers: LoRA leaves all of the network's own parameters as they are; give one of the two"
            )
        return self

    def rates_of(self, optimizer: str) -> tuple[float, ...] | None:
        """Return the learning rates that were given for an optimizer."""
        if not isinstance(self.learning_rates, dict):
            return self.learning_rates
        return next((rates for name, rates in self.learning_rates.items() if name == optimizer), None)
