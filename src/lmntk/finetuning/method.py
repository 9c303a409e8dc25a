"""One way of fine-tuning: the settings of its trainings, the grid that they are chosen from, and what trains."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from lmntk.finetuning.settings import TrainingSettings
from lmntk.finetuning.subsets import Subset


@dataclass(frozen=True)
class FineTuningMethod:
    """One way of fine-tuning, of every split.

    Attributes:
        settings: of all trainings, but for the learning rate and the batch size.
        learning_rates: the outer axis of the grid.
        batch_sizes: the inner one; larger ones than there are texts are cut.
        subset: which parameters train.
        linearized: train the linearized model.
    """

    settings: TrainingSettings
    learning_rates: tuple[float, ...]
    batch_sizes: tuple[int, ...]
    subset: Subset
    linearized: bool = False

    @property
    def method(self) -> str:
        """Its name in tables."""
        ending = " (linearized)" if self.linearized else ""
        return f"{self.settings.optimizer} fine-tuning{self.subset.suffix()}{ending}"

    def as_dict(self) -> dict[str, Any]:
        """Return all that its numbers depend on, beside the split."""
        in_grid = ("learning_rate", "batch_size")
        settings = {name: value for name, value in asdict(self.settings).items() if name not in in_grid}
        return settings | {
            "learning_rates": self.learning_rates,
            "batch_sizes": self.batch_sizes,
            "parameters": self.subset.as_dict(),
            "lora_seed": self.subset.seed if self.subset.lora_rank is not None else None,
            "linearized": self.linearized,
        }
