"""Kernels from factors on disk, without the model: any formula, any choice of parameters, any candidates for what to train."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import Tensor

from lmntk.engine.factor_files import open_tangents
from lmntk.engine.tiles import in_order
from lmntk.engine.work import FactorIndex, read_record
from lmntk.engine.work_folder import WorkFolder
from lmntk.errors import UserError
from lmntk.kernels.gram import Grouping, Panel, gram
from lmntk.kernels.subspaces import Subspaces
from lmntk.models.parts import is_bias
from lmntk.system.precision import FULL, products
from lmntk.tangents.factors import Tangents
from lmntk.tangents.form import Factors
from lmntk.tangents.noise import noise_coordinates, silence


@dataclass(frozen=True)
class Choice:
    """The parameters that count, by name."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    biases_only: bool = False

    def takes(self, name: str) -> bool:
        """Return whether a parameter counts."""
        return (
            (not self.biases_only or is_bias(name))
            and (not self.include or any(fnmatchcase(name, pattern) for pattern in self.include))
            and not any(fnmatchcase(name, pattern) for pattern in self.exclude)
        )


class _Chosen(Mapping[str, Factors]):
    """The factors that count, read when they are asked for."""

    def __init__(self, factors: Mapping[str, Factors], takes: Callable[[str], bool]) -> None:
        self.factors, self.names = factors, {name: None for name in factors if takes(name)}

    def __getitem__(self, name: str) -> Factors:
        if name not in self.names:
            raise KeyError(name)
        return self.factors[name]

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


class StoredFactors:
    """A folder of factors.

    Args:
        folder: that ``keep_factors`` left: the scratch folder, or the one piece of work in it.

    Raises:
        UserError: no factors there, or those of several pieces of work.
    """

    def __init__(self, folder: Path) -> None:
        works = _indexed([folder]) or _indexed(sorted(folder.glob("*")))
        if not works:
            raise UserError(
                f"factors: {str(folder)!r} holds none; keep some with `lmntk kernel ... --keep-factors`"
            )
        if len(works) > 1:
            names = ", ".join(path.name for path, _ in works[:4])
            raise UserError(f"factors: {str(folder)!r} holds {len(works)} pieces of work; name one: {names}")
        self.folder, self.index = works[0]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The pairs of groups of texts whose kernels the work was about."""
        return self.index.pairs

    @property
    def precision(self) -> str:
        """Precision of the passes that the factors come from."""
        return self.index.precision

    def kernels(
        self,
        pair: tuple[str, str],
        formulas: Sequence[str],
        choice: Choice | None = None,
        grouping: Grouping | None = None,
        drop_noise: bool = True,
    ) -> tuple[dict[str, dict[str, Tensor]], int]:
        """Return ``{kernel name: {group: [n, c, m, d]}}`` of a pair, and how many coordinates were noise.

        The axes follow the texts' order. Cost: the contraction alone; see ``gram``. Memory: the factors of one parameter, of all texts
        of the pair, and what ``gram`` copies of them.

        Raises:
            UserError: no such pair, nothing left of the choice, a damaged file, or signs of passes in low precision.
        """
        takes = (choice or Choice()).takes
        values, noise, _ = self._contracted(pair, formulas, takes, drop_noise, grouping)
        return values, noise

    def subspaces(
        self, pair: tuple[str, str], formulas: Sequence[str], subspaces: Subspaces, drop_noise: bool = True
    ) -> tuple[dict[str, dict[str, Tensor]], int]:
        """Return ``{candidate: {kernel name: [n, c, m, d]}}`` of a pair, and how many coordinates were noise; see ``kernels``.

        Raises:
            UserError: as ``kernels``; a candidate's parameter is not there, or has no rows of a gradient for LoRA.
        """
        subspaces.check(self._names(pair[0]))
        names = {name for candidate in subspaces.candidates for name in candidate.parameters}
        _, noise, kernels = self._contracted(
            pair, formulas, names.__contains__, drop_noise, lambda _: None, subspaces
        )
        return kernels, noise

    def _contracted(
        self,
        pair: tuple[str, str],
        formulas: Sequence[str],
        takes: Callable[[str], bool],
        drop_noise: bool,
        grouping: Callable[[str], str | None] | None,
        subspaces: Subspaces | None = None,
    ) -> tuple[dict[str, dict[str, Tensor]], int, dict[str, dict[str, Tensor]]]:
        """Return kernels by group, the number of noise coordinates, and kernels by candidate."""
        if pair not in self.pairs:
            kept = "; ".join(map(",".join, self.pairs))
            raise UserError(f"pair: {','.join(pair)!r} is not there; there are {kept}")
        if self.precision != FULL and drop_noise and set(formulas) != {"sgd"}:
            raise UserError(
                f"factors: they were taken in {self.precision}, which hides noise; ask for sgd alone, or add --keep-noise"
            )
        sides = [self._batches(group, takes) for group in pair]
        (rows, row_order), (columns, column_order) = sides
        masks = noise_coordinates(rows) if drop_noise and set(formulas) != {"sgd"} else {}
        silenced = Panel([silence(batch, masks) for batch in rows])
        others = silenced if pair[0] == pair[1] else Panel(columns)
        with products(FULL):
            blocks = gram(silenced, others, formulas, grouping, subspaces=subspaces)
        values = {
            name: {
                group: in_order(in_order(block, row_order).transpose(0, 2), column_order).transpose(0, 2)
                for group, block in groups.items()
            }
            for name, groups in blocks.items()
        }
        kernels, by_candidate = (values, {}) if subspaces is None else subspaces.split(values)
        return kernels, sum(int(mask.sum()) for mask in masks.values()), by_candidate

    def adaptable(self, choice: Choice | None = None) -> tuple[str, ...]:
        """Return the names of the linear maps that count, which LoRA can adapt.

        Raises:
            UserError: nothing is left of the choice.
        """
        names = tuple(filter((choice or Choice()).takes, self.index.adaptable))
        if not names:
            like = f"; names look like {self.index.adaptable[0]!r}" if self.index.adaptable else ""
            raise UserError(f"parameters: the choice leaves no linear map for LoRA{like}")
        return names

    def logits(self, group: str) -> Tensor:
        """Return the pre-trained logits [n, c] of a group of texts."""
        batches, order = self._batches(group, lambda _: True)
        return in_order(torch.cat([batch.logits for batch in batches]), order).double()

    def _names(self, group: str) -> list[str]:
        """Return the names of the parameters that have factors."""
        path = next(iter(WorkFolder.at(self.folder).factor_files(group)), None)
        return [] if path is None else list(open_tangents(path, verify=False).factors)

    def _batches(self, group: str, takes: Callable[[str], bool]) -> tuple[list[Tangents], list[int]]:
        order = self.index.orders[group]
        batches = []
        for path in WorkFolder.at(self.folder).factor_files(group):
            batch = open_tangents(path)
            chosen = _Chosen(batch.factors, takes)
            if not chosen and batch.factors:
                raise UserError(
                    f"parameters: the choice leaves nothing; names look like {next(iter(batch.factors))!r}"
                )
            batches.append(replace(batch, factors=chosen))
        if sum(map(len, batches)) != len(order):
            raise UserError(
                f"factors: files of {group!r} are missing in {str(self.folder)!r}; compute them again with --keep-factors"
            )
        return batches, order


def _indexed(folders: Sequence[Path]) -> list[tuple[Path, FactorIndex]]:
    """Return the folders whose factors were kept, with what they hold."""
    indices = ((folder, read_record(folder).factors) for folder in folders)
    return [(folder, index) for folder, index in indices if index is not None]
