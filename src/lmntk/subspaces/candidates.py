"""The candidates of a comparison: LoRA on each target at each rank, and the parameters of some targets themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lmntk.errors import UserError
from lmntk.kernels.grid import lora_candidates, part_candidates, parts_for_lora, plain_candidates
from lmntk.kernels.lora import LoraStart
from lmntk.kernels.subspaces import Candidate, Subspaces
from lmntk.models.logit_model import LogitModel
from lmntk.models.parts import Part

EVERYTHING, HEAD = "all parameters", "the head"


@dataclass(frozen=True)
class Grid:
    """The grid that a user asks for.

    Attributes:
        targets: that LoRA adapts, such as ``query+value``.
        ranks: of each.
        draws: of each rank: seeds 0, 1, ...
        others: targets whose own parameters train, such as ``biases``.
        start: of LoRA.
    """

    targets: tuple[str, ...]
    ranks: tuple[int, ...]
    draws: int
    others: tuple[str, ...]
    start: LoraStart


@dataclass(frozen=True)
class Contestant:
    """A candidate with all of its draws.

    Attributes:
        name: such as ``query+value r=8``.
        target: of its parameters.
        rank: of LoRA, else None.
        parameters: how many numbers train.
        members: the names of its draws.
        adapted: the name of the candidate that trains the adapted weights in full; None where there is no LoRA.
    """

    name: str
    target: str
    rank: int | None
    parameters: int
    members: tuple[str, ...]
    adapted: str | None = None


@dataclass(frozen=True)
class Contest:
    """All contestants of one model, the candidates whose kernels they need, and the parts of the whole."""

    contestants: tuple[Contestant, ...]
    subspaces: Subspaces
    shares: tuple[str, ...]
    modules: dict[str, tuple[str, ...]]


def contest_of(model: LogitModel, names: Sequence[str], grid: Grid, *, trains_head: bool) -> Contest:
    """Return what is compared on a model.

    Args:
        model: which.
        names: of the parameters that count.
        grid: what is asked for.
        trains_head: a new head trains beside every candidate, as it does in real fine-tuning.

    Raises:
        UserError: a target that matches nothing, a rank larger than a layer, an adapter already, or no candidate.
    """
    if not (grid.targets and grid.ranks) and not grid.others:
        raise UserError("subspace: there is no candidate; give --targets with --ranks, or --others")
    parts = parts_for_lora(model, names)
    head = tuple(name for name, part in parts.items() if part.place == "head") if trains_head else ()
    added = sum(_size(parts[name]) for name in head)
    low_rank = lora_candidates(parts, grid.targets, grid.ranks, tuple(range(grid.draws)), grid.start)
    others = [
        replace(each, parameters=tuple(dict.fromkeys((*each.parameters, *head))))
        for each in plain_candidates(parts, grid.others)
    ]
    adapted = {each.parameters: Candidate(_adapted_name(each), each.parameters) for each in low_rank}
    shares = part_candidates(parts)
    of_head = [Candidate(HEAD, head)] if head else []
    contestants = [
        Contestant(EVERYTHING, "all", None, sum(_size(part) for part in parts.values()), (EVERYTHING,))
    ]
    contestants += [
        Contestant(
            each.name, each.name, None, sum(_size(parts[name]) for name in each.parameters), (each.name,)
        )
        for each in others
    ]
    for target in grid.targets:
        for rank in grid.ranks:
            draws = [each for each in low_rank if each.name.startswith(f"{target} r={rank} ")]
            size = sum(rank * sum(parts[name].shape) for name in draws[0].parameters)
            members = tuple(each.name for each in draws)
            whole = adapted[draws[0].parameters].name
            contestants.append(Contestant(f"{target} r={rank}", target, rank, size + added, members, whole))
    candidates = (*low_rank, *others, *adapted.values(), *shares, *of_head)
    modules = {
        target: low.parameters
        for target in grid.targets
        for low in low_rank
        if low.name.startswith(f"{target} r=")
    }
    return Contest(tuple(contestants), Subspaces(candidates), tuple(each.name for each in shares), modules)


def _adapted_name(candidate: Candidate) -> str:
    return f"adapted by {candidate.name.split(' r=')[0]}"


def _size(part: Part) -> int:
    size = 1
    for length in part.shape:
        size *= length
    return size
