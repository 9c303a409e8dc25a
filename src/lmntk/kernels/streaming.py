"""From encoded texts to kernels, in bounded memory, tile by tile.

The row texts' factors are kept, in memory or on disk; the column texts stream past in chunks, each captured once, contracted with
all rows that want it, and dropped. What a chunk comes to is a *tile*; finished tiles are kept, so that a run that was cut short goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from lmntk.errors import UserError
from lmntk.kernels.calibration import rates_of
from lmntk.kernels.capturing import Capturing
from lmntk.kernels.contraction import kernel_names
from lmntk.kernels.estimate import Estimate, estimate
from lmntk.kernels.gram import EVERYTHING, Grouping, Panel, gram
from lmntk.kernels.schedule import Schedule, Trial, make_schedule
from lmntk.kernels.scratch import Scratch
from lmntk.memory import default_memory, trim
from lmntk.models.logit_model import LogitModel
from lmntk.prompts.encoding import EncodedText
from lmntk.tangents.coverage import Coverage
from lmntk.tangents.factors import Tangents
from lmntk.tangents.noise import NoiseSearch, silence

Pair = tuple[str, str]
Report = Callable[[int, int], None]  # texts captured, pairs of texts contracted, since the last call


@dataclass(frozen=True)
class Settings:
    """How to compute: none of it changes what is computed beyond rounding, but for ``drop_noise``.

    Attributes:
        batch_size: the most texts in one forward pass.
        memory: bytes that the process may hold, the model included.
        drop_noise: leave coordinates that are rounding noise out of the sign kernels.
        grouping: from a parameter's name to its group, for per-group values.
        scratch: a folder for row factors that do not fit into memory, and for finished tiles; without one there is neither.
        keep_factors: leave all texts' factors in the scratch folder.
    """

    batch_size: int = 32
    memory: int = field(default_factory=default_memory)
    drop_noise: bool = True
    grouping: Grouping | None = None
    scratch: Path | None = None
    keep_factors: bool = False

    def cut(self) -> dict[str, object]:
        """Returns what the cut of the work depends on, and so its numbers' last bits."""
        return {"batch_size": self.batch_size, "memory": self.memory, "keep_factors": self.keep_factors}


@dataclass(frozen=True)
class Streamed:
    """What ``stream_kernels`` returns.

    Attributes:
        kernels: ``{(row group, column group): {kernel name: {parameter group: [n, c, m, d] float64}}}``.
        logits: ``{group: [n, c] float64}`` of every text, in the order given.
        coverage: how the gradients were captured; None when every tile was there from an earlier run.
        noise: by row group, the number of coordinates left out of its sign kernels.
        schedule: how the work was cut.
    """

    kernels: dict[Pair, dict[str, dict[str, Tensor]]]
    logits: dict[str, Tensor]
    coverage: Coverage
    noise: dict[str, int]
    schedule: Schedule


@dataclass
class _Rows:
    """The row texts of one group: their factors, silenced and not, and their order."""

    batches: list[Tangents]
    silenced: list[Tangents]
    order: list[int]


class _Work:
    """One call of ``stream_kernels``: the texts, how they are captured and cut, and what is kept on the way."""

    def __init__(
        self,
        capturing: Capturing,
        texts: Mapping[str, Sequence[EncodedText]],
        formulas: Sequence[str],
        schedule: Schedule,
        settings: Settings,
        scratch: Scratch | None,
        report: Report,
    ) -> None:
        self.capturing, self.texts, self.formulas, self.schedule = capturing, texts, formulas, schedule
        self.settings, self.scratch, self.report = settings, scratch, report
        self.rows: dict[str, _Rows] = {}
        self.noise: dict[str, int] = {}

    def captured(self, group: str, texts: Sequence[EncodedText], start: int, on_disk: bool, search: NoiseSearch | None = None) -> _Rows:
        """Returns the tangents of texts, in memory or on disk, where earlier ones are taken as they are."""
        found: list[Tangents] = []
        order: list[int] = []
        for chosen in self.capturing.batches(texts):
            place = start + len(order)
            stored = self.scratch.factors(group, place, self.capturing.device) if on_disk and self.scratch is not None else None
            if stored is not None and len(stored) == len(chosen):
                batches = [stored]
            else:
                batches = self.capturing.of_batch([texts[index] for index in chosen])
            for batch in batches:
                if search is not None:
                    search.add(batch)
                if on_disk and batch is not stored:
                    assert self.scratch is not None
                    batch = self.scratch.save_factors(group, place, batch, self.capturing.device)
                place += len(batch)
                found.append(batch)
            order += chosen
            self.report(len(chosen), 0)
        return _Rows(found, found, order)

    def take_rows(self, names: Sequence[str]) -> None:
        """Captures the row groups that are not there yet."""
        for name in names:
            if name in self.rows:
                continue
            search = NoiseSearch() if self.settings.drop_noise and set(self.formulas) != {"sgd"} else None
            rows = self.captured(name, self.texts[name], 0, self.schedule.rows_on_disk, search)
            masks = {} if search is None else search.masks()
            # a zero on the row side leaves a coordinate out of every product, so columns get no mask, not even those
            # that are rows of other kernels: a kernel does not depend on what else is computed beside it
            rows.silenced = [silence(batch, masks) for batch in rows.batches]
            if search is not None:
                self.noise[name] = sum(int(mask.sum()) for mask in masks.values())
            self.rows[name] = rows

    def tile(self, rows: Sequence[str], column: str, start: int, stop: int) -> dict[str, Tensor]:
        """Returns the kernels of all row groups with a chunk of a column group, and the chunk's logits, in the texts' order."""
        self.take_rows(rows)
        if column in self.rows:
            columns = self.rows[column]
        else:
            columns = self.captured(column, self.texts[column][start:stop], start, self.settings.keep_factors)
        panel = Panel([batch for row in rows for batch in self.rows[row].silenced])
        found = gram(panel, panel if list(rows) == [column] else Panel(columns.batches), self.formulas, self.settings.grouping)
        self.report(0, len(panel) * len(columns.order))
        values = {"logits": _in_order(torch.cat([batch.logits for batch in columns.batches]), columns.order).double().cpu()}
        offset = 0
        for row in rows:
            order = self.rows[row].order
            for name, groups in found.items():
                for group, block in groups.items():
                    part = block[offset : offset + len(order)].cpu()
                    target = torch.empty_like(part)
                    target[torch.tensor(order)[:, None], :, torch.tensor(columns.order)[None, :]] = part.permute(0, 2, 1, 3)
                    values[_SEPARATOR.join((row, name, group))] = target
            values[_SEPARATOR.join((row, _NOISE))] = torch.tensor(self.noise.get(row, -1))
            offset += len(order)
        return values


_SEPARATOR, _NOISE = "\t", "noise"
MACHINE = "machine.json"  # this machine's speed, beside the scratch folder


def stream_kernels(
    model: LogitModel,
    texts: Mapping[str, Sequence[EncodedText]],
    pairs: Sequence[Pair],
    formulas: Sequence[str],
    trainable: Mapping[str, torch.nn.Parameter],
    pad_id: int,
    settings: Settings | None = None,
    report: Report = lambda captured, contracted: None,
    key: str = "",
    announce: Callable[[Estimate], None] | None = None,
) -> Streamed:
    """Returns the kernels between the named groups of texts, and the logits of every text in a pair.

    Args:
        model: from a batch to logits [n, c].
        texts: groups of encoded texts by name; the kernels' axes follow their order.
        pairs: (row group, column group) for each kernel wanted; rows are training texts.
        formulas: of ``sgd``, ``signgd``, ``asigngd``.
        trainable: the parameters that count.
        pad_id: the padding token.
        settings: batch size, memory, noise, grouping, scratch.
        report: called with the texts captured and the pairs contracted since the last call.
        key: a hash of all that the numbers depend on; the settings' scratch folder is used only with it.
        announce: told what the work will take, before it starts; this machine's speed is measured for it, and kept.

    Cost: every text is captured once; see ``gram``. Row factors on disk are read once a tile.

    Raises:
        UserError: the memory, or the disk, is too small.
    """
    settings = settings or Settings()
    every = list(dict.fromkeys(name for pair in pairs for name in pair))
    names = kernel_names(formulas)
    capturing = Capturing(model, trainable, pad_id, [text for name in every for text in texts[name]], settings.batch_size)
    scratch = Scratch(settings.scratch, key) if settings.scratch is not None and key else None
    row_names = list(dict.fromkeys(row for row, _ in pairs))
    schedule = _schedule(capturing, texts, pairs, formulas, settings, scratch, announce)
    capturing.batch_size = schedule.batch_size
    work = _Work(capturing, texts, formulas, schedule, settings, scratch, report)
    kernels: dict[Pair, dict[str, dict[str, Tensor]]] = {}
    logits: dict[str, list[Tensor]] = {}
    noise: dict[str, int] = {}
    for column in dict.fromkeys(column for _, column in pairs):
        rows = [row for row in row_names if (row, column) in set(pairs)]
        size = len(texts[column]) if column in row_names else schedule.chunk
        for start in range(0, len(texts[column]), size):
            stop = min(start + size, len(texts[column]))
            name = f"{column}-{start:06d}"
            tile = None if scratch is None else scratch.tile(name)
            if tile is None:
                tile = work.tile(rows, column, start, stop)
                if scratch is not None:
                    scratch.save_tile(name, tile)
                trim()
            else:
                report(stop - start, sum(len(texts[row]) for row in rows) * (stop - start))
            logits.setdefault(column, []).append(tile.pop("logits"))
            for label, values in tile.items():
                row, *what = label.split(_SEPARATOR)
                if what == [_NOISE]:
                    noise |= {row: int(values)} if int(values) >= 0 else {}
                    continue
                target = kernels.setdefault((row, column), {}).setdefault(what[0], {})
                if what[1] not in target:
                    n, c, _, d = values.shape
                    target[what[1]] = torch.empty(n, c, len(texts[column]), d, dtype=torch.float64)
                target[what[1]][:, :, start:stop] = values
    for name in every:
        if name not in logits:  # a row group that is no column
            work.take_rows([name])
            own = work.rows[name]
            logits[name] = [_in_order(torch.cat([batch.logits for batch in own.batches]), own.order).double().cpu()]
    assert all(set(kernels[pair]) == set(names) for pair in pairs)
    return Streamed(kernels, {name: torch.cat(parts) for name, parts in logits.items()}, capturing.coverage, noise, schedule)


def finish(settings: Settings, key: str) -> None:
    """Removes the scratch files of a piece of work whose kernels are kept elsewhere now; with ``keep_factors`` not the factors."""
    if settings.scratch is not None and key:
        Scratch(settings.scratch, key).remove(settings.keep_factors)


def plan_kernels(
    model: LogitModel,
    texts: Mapping[str, Sequence[EncodedText]],
    pairs: Sequence[Pair],
    formulas: Sequence[str],
    trainable: Mapping[str, torch.nn.Parameter],
    pad_id: int,
    settings: Settings | None = None,
    rates: Path | None = None,
) -> Estimate:
    """Returns what ``stream_kernels`` would take, with the same arguments; ``rates`` is where this machine's speed is kept.

    Cost: the start-up check, and a few batches.

    Raises:
        UserError: the memory is too small.
    """
    settings = settings or Settings()
    every = [text for name in dict.fromkeys(name for pair in pairs for name in pair) for text in texts[name]]
    capturing = Capturing(model, trainable, pad_id, every, settings.batch_size)
    trial = capturing.try_out()
    schedule = _cut(trial, capturing, texts, pairs, formulas, settings, settings.scratch is not None)
    return estimate(capturing, trial, schedule, texts, pairs, formulas, rates_of(capturing.device, rates))


def _cut(
    trial: Trial,
    capturing: Capturing,
    texts: Mapping[str, Sequence[EncodedText]],
    pairs: Sequence[Pair],
    formulas: Sequence[str],
    settings: Settings,
    has_scratch: bool,
) -> Schedule:
    rows = list(dict.fromkeys(row for row, _ in pairs))
    columns = [column for column in dict.fromkeys(column for _, column in pairs) if column not in rows]
    return make_schedule(
        trial,
        [text.length for name in rows for text in texts[name]],
        [text.length for name in columns for text in texts[name]],
        len(kernel_names(formulas)) * sum(len(texts[row]) * len(texts[column]) for row, column in pairs),
        settings.batch_size if capturing.coverage.batched else 1,
        settings.memory,
        has_scratch=has_scratch,
        keep_factors=settings.keep_factors,
    )


def _schedule(
    capturing: Capturing,
    texts: Mapping[str, Sequence[EncodedText]],
    pairs: Sequence[Pair],
    formulas: Sequence[str],
    settings: Settings,
    scratch: Scratch | None,
    announce: Callable[[Estimate], None] | None,
) -> Schedule:
    """Returns an earlier run's schedule, or makes one and writes it down."""
    earlier = None if scratch is None else scratch.schedule()
    if earlier is not None:
        return Schedule.of(earlier)
    if settings.keep_factors and scratch is None:
        raise UserError("keep-factors: there is no folder for them; name one with --scratch")
    trial = capturing.try_out()
    schedule = _cut(trial, capturing, texts, pairs, formulas, settings, scratch is not None)
    if announce is not None:
        kept = None if scratch is None else scratch.root.parent / MACHINE
        announce(estimate(capturing, trial, schedule, texts, pairs, formulas, rates_of(capturing.device, kept)))
    if scratch is not None:
        if schedule.disk:
            scratch.check_room(schedule.disk)
        scratch.keep_schedule(schedule.as_dict())
    return schedule


def _in_order(values: Tensor, order: Sequence[int]) -> Tensor:
    """Returns rows that were computed in ``order`` in the order of the texts."""
    restored = torch.empty_like(values)
    restored[torch.as_tensor(order, device=values.device)] = values
    return restored


def whole(groups: Mapping[str, Tensor]) -> Tensor:
    """Returns a kernel's values, summed over its parameter groups."""
    return groups[EVERYTHING] if set(groups) == {EVERYTHING} else torch.stack(list(groups.values())).sum(0)
