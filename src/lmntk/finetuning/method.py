"""One way of fine-tuning: the settings of its trainings, the grid to choose from, and what trains."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from lmntk.finetuning.settings import TrainingSettings
from lmntk.finetuning.subsets import Subset

GRID_AXES = ("learning_rate", "batch_size")  # settings that the grid sets


@dataclass(frozen=True)
class FineTuningMethod:
    """One way of fine-tuning.

    Attributes:
        settings: of each training, but for the grid's two axes.
        learning_rates: one axis of the grid.
        batch_sizes: the other; ``all`` takes all train texts in each step.
        subset: the parameters that train.
        linearized: train the linearized model.
    """

    settings: TrainingSettings
    learning_rates: tuple[float, ...]
    batch_sizes: tuple[int | Literal["all"], ...]
    subset: Subset
    linearized: bool

    @property
    def method(self) -> str:
        """The name in tables."""
        ending = " (linearized)" if self.linearized else ""
        return f"{self.settings.optimizer} fine-tuning{self.subset.suffix()}{ending}"

    def as_dict(self) -> dict[str, Any]:
        """Return all that the results depend on, beside the split."""
        settings = {name: value for name, value in asdict(self.settings).items() if name not in GRID_AXES}
        return settings | {
            "learning_rates": self.learning_rates,
            "batch_sizes": self.batch_sizes,
            "parameters": self.subset.as_dict(),
            "lora_seed": self.subset.seed if self.subset.is_random else None,
            "linearized": self.linearized,
        }

    def but_seeds(self) -> dict[str, Any]:
        """Return what trainings must share to be splits of one method."""
        return {name: value for name, value in self.as_dict().items() if name not in ("seed", "lora_seed")}
