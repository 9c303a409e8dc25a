"""Candidates for what to train, whose kernels come from one pass over the texts: sets of parameters, or LoRA on them.

A kernel of a set is the sum of its parameters' kernels; one of LoRA at its start is a sum over columns (``lora``), so all ranks cost what
the largest does, and all sets of one seed share its columns. A pass fills *sums*, each with a label: one for each set of parameters, and
for each set that LoRA adapts with a seed one for the columns between two ranks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

from torch import Tensor

from lmntk.errors import UserError
from lmntk.kernels.lora import Draw, Draws, Init, LoraStart, columns_of, no_rows
from lmntk.kernels.sides import Placed

PREFIX = "\x1f"  # of a sum's label: no group of parameters begins so


@dataclass(frozen=True)
class Candidate:
    """A choice of what to train.

    Attributes:
        name: under which its kernels come back.
        parameters: the full names of those that train, or that LoRA adapts.
        rank: LoRA's; None trains the parameters themselves.
        seed: of LoRA's random A.
        start: LoRA's.
    """

    name: str
    parameters: tuple[str, ...]
    rank: int | None = None
    seed: int = 0
    start: LoraStart = field(default_factory=LoraStart)

    def as_dict(self) -> dict[str, Any]:
        """Return the candidate as plain data, for keys and provenance."""
        return asdict(self)


@dataclass(frozen=True)
class Spread:
    """LoRA of several ranks with one draw, on a set of parameters."""

    parameters: frozenset[str]
    seed: int
    init: Init
    ranks: tuple[int, ...]  # ascending

    def rank_above(self, column: int) -> int | None:
        """Return the least of its ranks that takes the columns before this one; None where none does."""
        return next((rank for rank in self.ranks if rank >= column), None)


@dataclass(frozen=True)
class Columns:
    """LoRA's columns of one parameter and draw, on both sides.

    Attributes:
        left, right: the factors of G Z^T.
        cuts: the columns from the first to before the last, and the labels of the sums that they are part of.
    """

    left: Placed
    right: Placed
    cuts: list[tuple[int, int, list[str]]]


@dataclass(frozen=True)
class Subspaces:
    """Candidates, to be computed together.

    Raises:
        UserError: two candidates of one name, one without parameters, or a rank below one.

    Example:
        >>> both = Subspaces((Candidate("head", ("head.weight",)), Candidate("lora", ("head.weight",), rank=8)))
        >>> [candidate.name for candidate in both.candidates]
        ['head', 'lora']
    """

    candidates: tuple[Candidate, ...]

    def __post_init__(self) -> None:
        """Refuse candidates that are none."""
        names = set()
        for candidate in self.candidates:
            if candidate.name in names:
                raise UserError(
                    f"subspaces: two candidates are called {candidate.name!r}; give each its own name"
                )
            names.add(candidate.name)
            if not candidate.parameters:
                raise UserError(f"subspaces: {candidate.name!r} has no parameters; give it at least one")
            if candidate.rank is not None and candidate.rank < 1:
                raise UserError(
                    f"subspaces: the rank of {candidate.name!r} is {candidate.rank}; give 1 or more"
                )

    def check(self, names: Collection[str], vectors: Collection[str] = ()) -> None:
        """Refuse candidates that cannot be computed.

        Args:
            names: of the parameters that count.
            vectors: of those whose gradients come by plain autograd, so that their rows are not known.

        Raises:
            UserError: a parameter does not count, or LoRA adapts one of the vectors.
        """
        for candidate in self.candidates:
            for name in candidate.parameters:
                if name not in names:
                    like = next(iter(names), "nothing")
                    raise UserError(
                        f"subspaces: {candidate.name!r} takes {name!r}, which does not count here; names look like {like!r}"
                    )
                if candidate.rank is not None and name in vectors:
                    raise no_rows(name)

    @cached_property
    def sets(self) -> tuple[frozenset[str], ...]:
        """The sets of parameters that train themselves."""
        return tuple(dict.fromkeys(frozenset(c.parameters) for c in self.candidates if c.rank is None))

    @cached_property
    def spreads(self) -> tuple[Spread, ...]:
        """The sets that LoRA adapts, each with a seed, an init and all ranks."""
        ranks: dict[tuple[frozenset[str], int, Init], set[int]] = {}
        for candidate in self.candidates:
            if candidate.rank is not None:
                ranks.setdefault(_spread_key(candidate), set()).add(candidate.rank)
        return tuple(Spread(*key, tuple(sorted(taken))) for key, taken in ranks.items())

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The labels of all sums."""
        plain = [_label(index) for index in range(len(self.sets))]
        return (*plain, *(_label(i, rank) for i, spread in enumerate(self.spreads) for rank in spread.ranks))

    def labels_of(self, parameter: str) -> list[str]:
        """Return the labels of the sums that a parameter's own kernels are part of."""
        return [_label(index) for index, chosen in enumerate(self.sets) if parameter in chosen]

    def low_rank(self, parameter: str, left: Placed, right: Placed) -> Iterator[Columns]:
        """Yield LoRA's columns of a parameter, draw by draw.

        Cost: 2 T i R operations a text, R being the columns of all draws. Memory: T R numbers a text.

        Raises:
            UserError: the gradients came by plain autograd, as vectors.
        """
        draws = self._draws_of(parameter)
        if not draws:
            return
        several = Draws([(Draw(*key), _bounds(spreads)[-1]) for key, spreads in draws.items()])
        projected = [(texts, several.projected(parameter, part)) for texts, part in left]
        others = projected
        if right is not left:
            others = [(texts, several.projected(parameter, part)) for texts, part in right]
        start = 0
        for spreads in draws.values():
            bounds = _bounds(spreads)
            cuts = []
            for first, last in pairwise(bounds):
                above = ((index, spread.rank_above(last)) for index, spread in spreads.items())
                cuts.append((first, last, [_label(index, rank) for index, rank in above if rank is not None]))
            stop = start + bounds[-1]
            mine = _cut(parameter, projected, start, stop)
            yield Columns(mine, mine if others is projected else _cut(parameter, others, start, stop), cuts)
            start = stop

    def columns_of(self, parameter: str) -> int:
        """Return LoRA's columns of a parameter, of all draws."""
        return sum(_bounds(spreads)[-1] for spreads in self._draws_of(parameter).values())

    @cached_property
    def most_columns(self) -> int:
        """The most columns of any parameter; 0 where LoRA adapts none."""
        adapted = {name for spread in self.spreads for name in spread.parameters}
        return max(map(self.columns_of, adapted), default=0)

    def _draws_of(self, parameter: str) -> dict[tuple[int, Init], dict[int, Spread]]:
        """Return the spreads, by their number, that adapt a parameter; those of one draw share its columns."""
        draws: dict[tuple[int, Init], dict[int, Spread]] = {}
        for index, spread in enumerate(self.spreads):
            if parameter in spread.parameters:
                draws.setdefault((spread.seed, spread.init), {})[index] = spread
        return draws

    def split(
        self, groups: Mapping[str, Mapping[str, Tensor]]
    ) -> tuple[dict[str, dict[str, Tensor]], dict[str, dict[str, Tensor]]]:
        """Return ``{kernel name: {group: K}}`` without the sums, and ``{candidate: {kernel name: K}}`` made of them.

        Memory: the candidates' kernels, and one kernel name's sums.
        """
        others: dict[str, dict[str, Tensor]] = {}
        kernels: dict[str, dict[str, Tensor]] = {candidate.name: {} for candidate in self.candidates}
        for name, sums in groups.items():
            others[name] = {group: values for group, values in sums.items() if not group.startswith(PREFIX)}
            up_to: dict[tuple[Spread, int], Tensor] = {}
            for index, spread in enumerate(self.spreads):
                for rank, before in zip(spread.ranks, (None, *spread.ranks), strict=False):
                    columns = sums[_label(index, rank)]
                    up_to[spread, rank] = columns if before is None else up_to[spread, before] + columns
            by_key = {(spread.parameters, spread.seed, spread.init): spread for spread in self.spreads}
            for candidate in self.candidates:
                if candidate.rank is None:
                    values = sums[_label(self.sets.index(frozenset(candidate.parameters)))]
                else:
                    values = up_to[by_key[_spread_key(candidate)], candidate.rank]
                    values = values * candidate.start.multiplier(name, candidate.rank)
                kernels[candidate.name][name] = values
        return others, kernels

    def as_dict(self) -> list[dict[str, Any]]:
        """Return the candidates as plain data, for keys and provenance."""
        return [candidate.as_dict() for candidate in self.candidates]


def _spread_key(candidate: Candidate) -> tuple[frozenset[str], int, Init]:
    return frozenset(candidate.parameters), candidate.seed, candidate.start.init


def _label(index: int, rank: int | None = None) -> str:
    return f"{PREFIX}{index}" if rank is None else f"{PREFIX}{index}/{rank}"


def _bounds(spreads: Mapping[int, Spread]) -> list[int]:
    """Return the numbers of columns between which these spreads' sums are cut."""
    return [0, *sorted({rank for spread in spreads.values() for rank in spread.ranks})]


def _cut(parameter: str, projected: Placed, first: int, last: int) -> Placed:
    return [(texts, columns_of(parameter, part, first, last)) for texts, part in projected]
