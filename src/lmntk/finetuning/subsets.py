"""Which parameters train: those of a filter or a target, without bottom layers, a fresh LoRA, or a random subspace."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import nn

from lmntk.errors import UserError
from lmntk.finetuning.intrinsic import intrinsic
from lmntk.finetuning.lora import lora
from lmntk.finetuning.trained import Trained, own_head
from lmntk.models.filters import ParameterFilter
from lmntk.models.logit_model import LogitModel
from lmntk.models.parts import parts_of
from lmntk.models.targets import depth, is_above, parameters_of


@dataclass(frozen=True)
class Subset:
    """A choice of what trains.

    Attributes:
        parameters: of the model as it is; with LoRA all, for there is nothing to choose from.
        freeze_layers: the embeddings and so many bottom layers do not train.
        train_only: of these a target alone (``biases``, ``top-2``; see ``models.targets``), and a head that was put on the network.
        lora_rank: train a fresh LoRA of this rank, and a head that was put on the network; a classifier's own
            head, which is the network's, stays as it is. None trains the parameters themselves.
        lora_alpha: its scale is alpha / rank.
        lora_targets: what LoRA adapts; None: where peft puts it.
        dimension: train so many coordinates of a random subspace of the chosen parameters; see ``finetuning.intrinsic``.
        seed: of LoRA's random A, and of the subspace.
    """

    parameters: ParameterFilter = field(default_factory=ParameterFilter)
    freeze_layers: int = 0
    lora_rank: int | None = None
    lora_alpha: float = 16.0
    seed: int = 0
    train_only: str | None = None
    lora_targets: str | None = None
    dimension: int | None = None

    @property
    def is_random(self) -> bool:
        """Return whether the choice has a seed."""
        return self.lora_rank is not None or self.dimension is not None

    @property
    def is_filter(self) -> bool:
        """Return whether what trains are parameters of the model, chosen by the run's own filter alone."""
        return not self.suffix()

    def suffix(self) -> str:
        """Return the ending of a method's name that names the choice, beyond the run's own filter."""
        adapted = "" if self.lora_targets is None else f" on {self.lora_targets}"
        scaled = "" if self.lora_alpha == Subset.lora_alpha else f" alpha={self.lora_alpha:g}"
        parts = [
            f" ({self.train_only})" if self.train_only is not None else "",
            f" (without {self.freeze_layers} bottom layers)" if self.freeze_layers else "",
            f" (lora r={self.lora_rank}{scaled}{adapted})" if self.lora_rank is not None else "",
            f" (intrinsic dimension {self.dimension})" if self.dimension is not None else "",
        ]
        return "".join(parts)

    def as_dict(self) -> dict[str, object]:
        """Return the choice as plain data."""
        plain = self.parameters.as_dict()
        if self.freeze_layers:
            plain |= {"freeze_layers": self.freeze_layers}
        if self.train_only is not None:
            plain |= {"train_only": self.train_only}
        if self.lora_rank is not None:
            plain |= {"lora_rank": self.lora_rank, "lora_alpha": self.lora_alpha, "lora_draw": "kaiming"}
        if self.lora_targets is not None:
            plain |= {"lora_targets": self.lora_targets}
        if self.dimension is not None:
            plain |= {"intrinsic_dimension": self.dimension}
        return plain

    @contextmanager
    def chosen(self, model: LogitModel) -> Iterator[Trained]:
        """Yield the parameters that train.

        With LoRA the network has its layers while the body runs, and afterwards its own again.

        Raises:
            UserError: nothing is left, or LoRA with a filter, with frozen layers, or on a network that has an
                adapter already.
        """
        if self.lora_rank is not None:
            self._check_alone()
            with lora(model, self.lora_rank, self.lora_alpha, self.lora_targets, self.seed) as trained:
                yield trained
            return
        if self.lora_targets is not None:
            raise UserError(
                f"lora-targets: {self.lora_targets!r} asks for LoRA; give the rank too, with lora-rank"
            )
        selected = self.parameters.select(model)
        if self.train_only is not None:
            selected = of_target(model, selected, self.train_only)
        if self.freeze_layers:
            selected = without_bottom(model, selected, self.freeze_layers)
        if self.dimension is None:
            yield Trained(model, selected, dict)
        else:
            yield intrinsic(model, selected, self.dimension, self.seed)

    def _check_alone(self) -> None:
        """Refuse LoRA beside what chooses among the model's own parameters."""
        if self.freeze_layers:
            raise UserError(
                "freeze-layers: LoRA leaves all of the network's own parameters as they are; "
                "give one of the two"
            )
        for option, value in (("train-only", self.train_only), ("intrinsic-dimension", self.dimension)):
            if value is not None:
                raise UserError(f"{option}: LoRA trains what it adds; give one of {option} and lora-rank")
        if self.parameters != ParameterFilter():
            described = self.parameters.describe()
            raise UserError(
                "lora-rank: LoRA trains what it adds, unfiltered; "
                f"leave out the filter ({described}), or lora-rank"
            )


def of_target(model: LogitModel, chosen: Mapping[str, nn.Parameter], target: str) -> dict[str, nn.Parameter]:
    """Return the chosen parameters that a target takes, and those of a head that was put on the network.

    Raises:
        UserError: a target that matches nothing.
    """
    head = own_head(model)
    names = {*parameters_of(target, parts_of(model, chosen)), *head}
    return {name: parameter for name, parameter in chosen.items() if name in names}


def without_bottom(
    model: LogitModel, chosen: Mapping[str, nn.Parameter], layers: int
) -> dict[str, nn.Parameter]:
    """Return the chosen parameters but the embeddings' and the first ``layers`` layers'.

    A decoder tied to the embeddings goes with them.

    Of an encoder-decoder the first layers of both.

    Raises:
        UserError: there are not so many layers, or nothing is left.
    """
    parts = parts_of(model)
    deepest = depth(parts)
    if layers > deepest:
        raise UserError(f"freeze-layers: {layers} of the network's {deepest} layers; give at most {deepest}")
    left = {name: parameter for name, parameter in chosen.items() if is_above(name, parts[name], layers)}
    if not left:
        raise UserError(f"freeze-layers: nothing is left to train above {layers} layers; give fewer")
    return left
