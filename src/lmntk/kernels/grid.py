"""Grids of candidates on one model: targets by name, with ranks and seeds of LoRA; and its parts by layer and by type."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from lmntk.errors import UserError
from lmntk.kernels.groups import group_of_layer
from lmntk.kernels.lora import LoraStart
from lmntk.kernels.subspaces import Candidate, Subspaces
from lmntk.models.filters import has_adapter
from lmntk.models.logit_model import LogitModel
from lmntk.models.parts import Part, parts_of
from lmntk.models.targets import check_rank, parameters_of

ON_ADAPTER = (
    "lora: the model is an adapter already; give its base model, or let the adapter's own parameters train"
)


@dataclass(frozen=True)
class SubspaceGrid:
    """Candidates by the names of their targets, before there is a model.

    Attributes:
        lora: targets that LoRA adapts, at each rank with each seed.
        ranks: LoRA's.
        seeds: of LoRA's random A.
        start: how A is drawn, and LoRA's scaling.
        plain: targets whose parameters train themselves.
        by_part: the parts of each layer and of each type beside them.

    Example:
        >>> SubspaceGrid(("query+value", "mlp"), ranks=(1, 8), seeds=(0, 1), plain=("biases",)).ranks
        (1, 8)
    """

    lora: tuple[str, ...] = ()
    ranks: tuple[int, ...] = ()
    seeds: tuple[int, ...] = (0,)
    start: LoraStart = field(default_factory=LoraStart)
    plain: tuple[str, ...] = ()
    by_part: bool = False

    def on(self, model: LogitModel, names: Iterable[str] | None = None) -> Subspaces:
        """Return the candidates on a model, of all its parameters or of the named ones.

        Raises:
            UserError: a target that matches nothing, a rank that is larger than a layer, LoRA on an adapter, or no candidate.
        """
        parts = parts_for_lora(model, names) if self.lora else parts_of(model, names)
        return self.among(parts)

    def among(self, parts: Mapping[str, Part]) -> Subspaces:
        """Return the candidates of parameters that are known, such as those of kept factors; raises as ``on``."""
        if bool(self.lora) != bool(self.ranks):
            raise UserError("subspaces: LoRA has targets and ranks; give both, or neither")
        candidates = (
            lora_candidates(parts, self.lora, self.ranks, self.seeds, self.start) if self.lora else []
        )
        candidates += plain_candidates(parts, self.plain)
        candidates += part_candidates(parts) if self.by_part else []
        if not candidates:
            raise UserError("subspaces: there is no candidate; give targets")
        return Subspaces(tuple(candidates))

    def as_dict(self) -> dict[str, Any]:
        """Return the grid as plain data, for keys and provenance."""
        return asdict(self)


def lora_candidates(
    parts: Mapping[str, Part],
    targets: Iterable[str],
    ranks: Sequence[int],
    seeds: Sequence[int] = (0,),
    start: LoraStart | None = None,
) -> list[Candidate]:
    """Return LoRA on each target at each rank with each seed, called ``query+value r=8 seed=0``.

    Raises:
        UserError: a target without linear maps, or a rank that is larger than a layer.
    """
    candidates = []
    for target in targets:
        names = parameters_of(target, parts, low_rank=True)
        check_rank(max(ranks), target, names, parts)
        candidates += [
            Candidate(f"{target} r={rank} seed={seed}", names, rank, seed, start or LoraStart())
            for rank in ranks
            for seed in seeds
        ]
    return candidates


def plain_candidates(parts: Mapping[str, Part], targets: Iterable[str]) -> list[Candidate]:
    """Return the parameters of each target as a candidate of its name.

    Raises:
        UserError: a target that matches nothing.
    """
    return [Candidate(target, parameters_of(target, parts)) for target in targets]


def part_candidates(parts: Mapping[str, Part]) -> list[Candidate]:
    """Return the parts of each layer and of each type, called ``layer: layer.03`` and ``type: attention``.

    The layers' kernels sum to the whole one, and so do the types'.
    """
    groups: dict[str, list[str]] = {}
    for name, part in parts.items():
        layer = "embeddings" if part.kind == "table" and part.layer is None else group_of_layer(name)
        groups.setdefault(f"layer: {layer}", []).append(name)
    for name, part in parts.items():
        groups.setdefault(f"type: {part.type}", []).append(name)
    return [Candidate(group, tuple(names)) for group, names in groups.items()]


def parts_for_lora(model: LogitModel, names: Iterable[str] | None = None) -> dict[str, Part]:
    """Return what the model's parameters are, of a model that LoRA can adapt.

    Raises:
        UserError: it is an adapter already.
    """
    if has_adapter(model):
        raise UserError(ON_ADAPTER)
    return parts_of(model, names)
