"""A part of the model that trains alone: a target, or LoRA on it; its kernel, and the way back to the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor, nn

from lmntk.kernels.grid import lora_candidates, parts_for_lora
from lmntk.kernels.lora import Draw, Draws, LoraStart
from lmntk.kernels.subspaces import Candidate, Subspaces
from lmntk.models.logit_model import LogitModel
from lmntk.models.parts import Part as Role
from lmntk.models.parts import parts_of
from lmntk.models.targets import parameters_of
from lmntk.tangents.factors import Tangents

USUAL_TARGETS = "all-linear"
LORA, HEAD = "lora", "head"  # the names of a part's candidates


@dataclass(frozen=True)
class TrainedPart:
    """A choice of what trains, as the options have it.

    Attributes:
        lora_rank: LoRA's; None trains the parameters themselves.
        lora_targets: what LoRA adapts, such as ``query+value``; None: all linear maps.
        lora_alpha: LoRA's scale is this over its rank; it counts beside a head, which trains at a scale of its own.
        train_only: a target alone, such as ``biases``.
        seed: of LoRA's random A.
    """

    lora_rank: int | None = None
    lora_targets: str | None = None
    lora_alpha: float = 16.0
    train_only: str | None = None
    seed: int = 0

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> TrainedPart:
        """Return the choice that ``as_dict`` described."""
        return cls(**plain)

    @property
    def is_all(self) -> bool:
        """Return whether everything trains."""
        return self.lora_rank is None and self.train_only is None

    def as_dict(self) -> dict[str, Any]:
        """Return the choice as plain data, without what it does not use."""
        if self.lora_rank is None:
            return {} if self.train_only is None else {"train_only": self.train_only}
        plain = {name: value for name, value in asdict(self).items() if name != "train_only"}
        return plain | {"lora_targets": self.lora_targets or USUAL_TARGETS}

    def on(self, model: LogitModel, names: tuple[str, ...], trains_head: bool) -> tuple[str, ...] | LowRank:
        """Return the names of the parameters that train, or LoRA on them.

        Args:
            model: which.
            names: of the parameters that count.
            trains_head: a new head trains beside whatever trains.

        Raises:
            UserError: a target that matches nothing, a rank larger than a layer, or LoRA on an adapter.
        """
        if self.lora_rank is None:
            parts = parts_of(model, names)
            chosen = names if self.train_only is None else parameters_of(self.train_only, parts)
            return tuple(dict.fromkeys((*chosen, *_head_of(parts, trains_head))))
        parts = parts_for_lora(model, names)
        start = LoraStart("kaiming", "alpha/r", self.lora_alpha)
        targets = (self.lora_targets or USUAL_TARGETS,)
        (candidate,) = lora_candidates(parts, targets, (self.lora_rank,), (self.seed,), start)
        return LowRank(candidate, _head_of(parts, trains_head))


@dataclass(frozen=True)
class LowRank:
    """LoRA at its start, B = 0, on a model, and a head that trains beside it.

    The kernel is (alpha / r)^2 sum <G A^T, G' A^T> over the adapted weights, and the head's own. A solution's direction in B is
    (alpha / r) V A^T of its direction V in the weight itself, and moves the weight by (alpha / r)^2 V A^T A: so a classifier by LoRA's
    kernel is a linearized model of the weights as they are.

    Attributes:
        candidate: the adapted weights, rank, seed and start.
        head: the names of the head's parameters.
    """

    candidate: Candidate
    head: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters whose gradients are needed."""
        return tuple(dict.fromkeys((*self.candidate.parameters, *self.head)))

    @property
    def subspaces(self) -> Subspaces:
        """The candidates whose kernels are added up."""
        head = (Candidate(HEAD, self.head),) if self.head else ()
        return Subspaces((replace(self.candidate, name=LORA), *head))

    def summed(self, kernels: Mapping[str, Mapping[str, Tensor]]) -> Tensor:
        """Return the kernel [n, c, m, d], of ``Streamed.subspaces`` of a pair of groups."""
        total = kernels[LORA]["sgd"]
        return total + kernels[HEAD]["sgd"] if self.head else total

    def projected(self, tangents: Tangents) -> Tangents:
        """Return LoRA's own gradients, those of B, and the head's: their products are the kernel."""
        draws, factor = Draws([(self._draw, self._rank)]), self._factor
        factors = {}
        for name, values in tangents.factors.items():
            if name in self.candidate.parameters:
                values = draws.projected(name, values).with_inputs(lambda _, inputs: factor * inputs, name)
            elif name not in self.head:
                continue
            factors[name] = values
        return replace(tangents, factors=factors)

    def moved(self, direction: Mapping[str, Tensor], model: LogitModel) -> dict[str, Tensor]:
        """Return the motion of the model's own weights that a direction V in them is through LoRA: (alpha / r)^2 V A^T A.

        Cost: 4 r operations a coordinate.
        """
        moved = {}
        for name, values in direction.items():
            if name not in self.candidate.parameters:
                moved[name] = values
                continue
            is_transposed = _is_transposed(model, name)
            rows = (values.T if is_transposed else values).double()  # (o, i)
            a = self._factor * self._draw.matrix(name, self._rank, rows.shape[1]).to(rows.device)  # (r, i)
            change = ((rows @ a.T) @ a).to(values.dtype)
            moved[name] = change.T.contiguous() if is_transposed else change
        return moved

    @property
    def _rank(self) -> int:
        assert self.candidate.rank is not None
        return self.candidate.rank

    @property
    def _draw(self) -> Draw:
        return Draw(self.candidate.seed, self.candidate.start.init)

    @property
    def _factor(self) -> float:
        """The factor of Z in the gradients of B."""
        return self.candidate.start.scale(self._rank) * self.candidate.start.size(self._rank)


Part = tuple[str, ...] | LowRank | None  # names of what trains, or LoRA; None: all that counts


def names_in(part: Part, every: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """Return the parameters whose gradients a part needs, of all that count."""
    if part is None:
        return dict(every)
    return {name: every[name] for name in (part.names if isinstance(part, LowRank) else part)}


def subspaces_of(part: Part) -> Subspaces | None:
    """Return the candidates that the engine is asked for; None where the kernel of the parameters themselves is wanted."""
    return part.subspaces if isinstance(part, LowRank) else None


def _head_of(parts: Mapping[str, Role], trains_head: bool) -> tuple[str, ...]:
    return tuple(name for name, part in parts.items() if part.place == "head") if trains_head else ()


def _is_transposed(model: LogitModel, name: str) -> bool:
    from transformers.pytorch_utils import Conv1D

    module: nn.Module = model.get_submodule(name.rpartition(".")[0])
    return isinstance(module, Conv1D)
