"""Grids of candidates on one model: targets by name, with ranks and seeds of LoRA; and its parts by layer and by type."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from lmntk.errors import UserError
from lmntk.kernels.groups import group_of_layer
from lmntk.kernels.lora import LoraStart
from lmntk.kernels.subspaces import Candidate
from lmntk.models.filters import has_adapter
from lmntk.models.logit_model import LogitModel
from lmntk.models.parts import Part, parts_of
from lmntk.models.targets import check_rank, parameters_of

ON_ADAPTER = (
    "lora: the model is an adapter already; give its base model, or let the adapter's own parameters train"
)


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
    for name in parts:
        groups.setdefault(f"layer: {group_of_layer(name)}", []).append(name)
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
