"""Tiles are made here: row texts' factors are taken once and kept, column texts' as their tile is made.

A ``TileMaker`` is all that a process needs to make tiles, so that any process can: it holds the model and the texts.
"""

from __future__ import annotations

import atexit
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmntk.engine.batches import Capturer
from lmntk.engine.kernel_work import KernelWork
from lmntk.engine.schedule import Schedule
from lmntk.engine.tiles import GroupReport, Job, Tile, in_order
from lmntk.engine.work_folder import WorkFolder
from lmntk.errors import UserError
from lmntk.kernels.gram import Grouping, Panel, first_not_finite, gram, not_finite
from lmntk.prompts.encoding import EncodedText
from lmntk.system.devices import copy_to
from lmntk.system.kept import DamagedError
from lmntk.system.memory import keep_freed, trim
from lmntk.system.precision import FULL, Precision, products
from lmntk.tangents.coverage import Coverage
from lmntk.tangents.factors import Tangents, packed
from lmntk.tangents.noise import NoiseSearch, silence
from lmntk.tangents.rules import RULES

HOST = torch.device("cpu")


def report_nothing(group: str, start: int, captured: int, contracted: int) -> None:
    """Take a report and do nothing."""


@dataclass
class TileMaker:
    """Everything that the tiles of a piece of work depend on; called, it is ready to make them.

    In another process it stands for itself: models, rules of the user's own and texts go along.

    Attributes:
        work: which model's kernels, between which texts.
        schedule: how the work is cut.
        coverage: how the gradients are captured.
        scratch: root and key of the work's folder; None where there is none.
        is_roomy: freed memory may be kept.
        drop_noise, grouping, keep_factors, precision: as in the settings.
        report: told of texts captured and pairs contracted, in this process.
        rules: of modules, the user's own among them.
    """

    work: KernelWork
    schedule: Schedule
    coverage: Coverage
    scratch: tuple[Path, str] | None
    is_roomy: bool
    drop_noise: bool = True
    grouping: Grouping | None = None
    keep_factors: bool = False
    precision: Precision = FULL
    report: GroupReport = report_nothing
    rules: Mapping[Any, Any] = field(default_factory=lambda: dict(RULES))
    _has_worker: bool = False

    def __call__(self, device: torch.device | None = None) -> TileWorker:
        """Return a worker in this process; on a device that is not the model's, or taken, with a copy of it."""
        RULES.update(self.rules)
        if self.is_roomy:
            keep_freed()
        if device is None or not self._is_taken(device):
            return TileWorker(self)
        return TileWorker(replace(self, work=self._work_on(device)))

    def _is_taken(self, device: torch.device) -> bool:
        """Return whether another worker has the model, or the model is on another device."""
        taken, self._has_worker = self._has_worker, True
        return taken or self._device != device

    @property
    def _device(self) -> torch.device:
        return next(self.work.model.parameters()).device

    def _work_on(self, device: torch.device) -> KernelWork:
        """Return the work with a copy of the model on a device."""
        model, trainable = copy_to(device, self.work.model, self.work.trainable)
        return replace(self.work, model=model, trainable=trainable)

    def __getstate__(self) -> dict[str, Any]:
        work = self.work if self._device == HOST else self._work_on(HOST)  # there may be no GPU, or another
        return self.__dict__ | {"work": work, "report": report_nothing, "_has_worker": False}


@dataclass
class _Rows:
    """The row texts of one group: their factors, silenced and not, and their order."""

    batches: list[Tangents]
    silenced: list[Tangents]
    order: list[int]


class TileWorker:
    """Make tiles in this process; the row texts' factors stay from one to the next."""

    def __init__(self, maker: TileMaker) -> None:
        work = maker.work
        every = work.texts_of(work.groups)
        size = maker.schedule.batch_size
        self.capturer = Capturer(
            work.model, work.trainable, work.pad_id, every, size, maker.coverage, maker.precision
        )
        self.is_fed = maker.schedule.gpu_peak > 0  # a GPU, whose row factors may lie elsewhere
        self.maker, self.texts, self.formulas = maker, work.texts, work.formulas
        self.folder = None if maker.scratch is None else WorkFolder(*maker.scratch)
        # on another disk than the process that wrote the schedule down
        self.is_apart = self.folder is not None and self.folder.record().schedule is None
        if maker.scratch is not None and self.is_apart:
            self.folder = WorkFolder.of_this_process(maker.scratch[0])
            atexit.register(self.close)
        self.rows: dict[str, _Rows] = {}
        self.noise: dict[str, int] = {}

    def __call__(self, job: Job) -> Tile:
        """Return a tile; capture row factors again that are on disk and turn out damaged.

        Raises:
            UserError: what is written to the disk does not come back, twice; factors are to be kept, on a disk that nobody else sees.
        """
        if self.is_apart and self.maker.keep_factors:
            raise UserError(
                f"keep-factors: {platform.node()} does not see the scratch folder; name one that all machines see, with --scratch"
            )
        try:
            tile = self.tile(job.rows, job.column, job.start, job.stop)
        except (DamagedError, FileNotFoundError):
            self.rows.clear()  # files that are whole are found again, and checked
            try:
                tile = self.tile(job.rows, job.column, job.start, job.stop)
            except (DamagedError, FileNotFoundError) as error:
                raise UserError(
                    f"scratch: the disk does not return what was written ({error}); name another with --scratch"
                ) from error
        if not self.maker.is_roomy:
            trim()
        return tile

    def close(self) -> None:
        """Remove what this process wrote to a disk that nobody else sees."""
        if self.is_apart and self.folder is not None:
            self.folder.remove()

    def captured(
        self,
        group: str,
        texts: Sequence[EncodedText],
        start: int,
        on_disk: bool,
        search: NoiseSearch | None = None,
        on_host: bool = False,
    ) -> _Rows:
        """Return the tangents of texts.

        Args:
            group: the texts' group.
            texts: of the group, or of a chunk of it.
            start: the first text's index in the group.
            on_disk: leave the factors there; earlier ones are taken as they are.
            search: is shown each batch, in full precision.
            on_host: leave the factors in the host's memory, not on the GPU.
        """
        taken: list[Tangents] = []
        order: list[int] = []
        device, transfers = self.capturer.device, self.capturer.transfers
        read_to = HOST if self.is_fed else device
        parts = [(chosen, [texts[index] for index in chosen]) for chosen in self.capturer.batches(texts)]
        for (chosen, part), (_, following) in zip(parts, [*parts[1:], ([], [])], strict=True):
            first = start + len(order)
            stored = (
                self.folder.factors(group, first, read_to) if on_disk and self.folder is not None else None
            )
            if stored is not None and len(stored) == len(chosen):
                batches = [stored]
            else:
                self.capturer.expect(following)
                batches = [packed(batch) for batch in self.capturer.of_batch(part)]
            if search is not None:  # what cancels to rounding error is only seen in full precision
                for batch in (
                    batches if self.maker.precision == FULL else self.capturer.of_batch_in_full(part)
                ):
                    search.add(batch)
            for batch in batches:
                if (
                    batch is not stored
                    and list(self.formulas) == ["signgd"]
                    and (where := first_not_finite(Panel([batch])))
                ):
                    raise not_finite(where)  # other kernels show it themselves; the sign of no number is zero
                if on_disk and batch is not stored:
                    assert self.folder is not None
                    batch = self.folder.save_factors(group, first, batch, read_to)
                if on_disk and self.is_fed:
                    batch = transfers.fetching(batch)
                elif on_host:
                    batch = transfers.parked(batch)
                first += len(batch)
                taken.append(batch)
            batches.clear()  # what lies on disk, or parked, is not held beside the next
            order += chosen
            self.maker.report(group, start, len(chosen), 0)
        return _Rows(taken, taken, order)

    def take_rows(self, names: Sequence[str]) -> None:
        """Capture the row groups that are not there yet."""
        schedule = self.maker.schedule
        for name in names:
            if name in self.rows:
                continue
            search = NoiseSearch() if self.maker.drop_noise and set(self.formulas) != {"sgd"} else None
            rows = self.captured(
                name, self.texts[name], 0, schedule.rows_on_disk, search, schedule.rows_on_host
            )
            masks = {} if search is None else search.masks()
            masks = {parameter: mask.to(self.capturer.device) for parameter, mask in masks.items()}
            # a zero on the row side leaves a coordinate out of every product, so columns get no mask, not even those
            # that are rows of other kernels: a kernel does not depend on what else is computed beside it
            rows.silenced = [silence(batch, masks) for batch in rows.batches]
            if search is not None:
                self.noise[name] = sum(int(mask.sum()) for mask in masks.values())
            self.rows[name] = rows

    def tile(self, rows: Sequence[str], column: str, start: int, stop: int) -> Tile:
        """Return the kernels of all row groups with a chunk of a column group, and all logits."""
        self.take_rows([*rows, *([column] if column in self.maker.work.row_groups else [])])
        if column in self.rows:
            columns = self.rows[column]
        else:
            columns = self.captured(column, self.texts[column][start:stop], start, self.maker.keep_factors)
        panel = Panel([batch for row in rows for batch in self.rows[row].silenced])
        other = panel if list(rows) == [column] else Panel(columns.batches)
        with products(self.maker.precision):
            maker = self.maker
            blocks = gram(
                panel, other, self.formulas, maker.grouping, maker.schedule.tile_bytes, maker.work.subspaces
            )
        self.maker.report(column, start, 0, len(panel) * len(columns.order))
        kernels: dict[tuple[str, str, str], Tensor] = {}
        offset = 0
        for row in rows:
            order = self.rows[row].order
            for name, groups in blocks.items():
                for group, block in groups.items():
                    part = block[offset : offset + len(order)].cpu()
                    target = torch.empty_like(part)
                    target[torch.tensor(order)[:, None], :, torch.tensor(columns.order)[None, :]] = (
                        part.permute(0, 2, 1, 3)
                    )
                    kernels[row, name, group] = target
            offset += len(order)
        row_logits = {row: _logits(self.rows[row]) for row in rows}
        return Tile(kernels, _logits(columns), row_logits, {row: self.noise.get(row) for row in rows})


def _logits(rows: _Rows) -> Tensor:
    """Return texts' logits, in the order of the texts."""
    logits = torch.cat([batch.logits for batch in rows.batches])
    return in_order(logits, rows.order).double().cpu()
