"""From encoded texts to kernels, in bounded memory, tile by tile.

The row texts' factors are kept, in memory or on disk; the column texts stream past in chunks, each captured once, contracted with
all rows that want it, and dropped. What a chunk comes to is a *tile*; finished tiles are kept, so that a run that was cut short goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypedDict, TypeVar

import torch
from torch import Tensor

from lmntk.engine.assembly import Pair, assembled, index_of, jobs_of
from lmntk.engine.batches import Capturing
from lmntk.engine.budget import LOSS_TEXTS, Schedule, Trial, make_schedule
from lmntk.engine.card_schedule import make_card_schedule
from lmntk.engine.estimate import Estimate, estimate
from lmntk.engine.precision_loss import Loss, measured_loss
from lmntk.engine.progress import Account
from lmntk.engine.rates import rates_of
from lmntk.engine.settings import SCRATCH, Settings
from lmntk.engine.tiles import Report, TileMaker
from lmntk.engine.work import Scratch, sweep
from lmntk.errors import UserError
from lmntk.kernels.contraction import kernel_names
from lmntk.kernels.gram import EVERYTHING, Grouping
from lmntk.models.logit_model import LogitModel
from lmntk.prompts.encoding import EncodedText
from lmntk.system.device_memory import DeviceMemory, device_budget, least_budget, memory_of, saying_full_card
from lmntk.system.executors.threads import Devices
from lmntk.system.memory import shown_bytes
from lmntk.system.precision import FULL
from lmntk.tangents.coverage import Coverage

Result = TypeVar("Result")


@dataclass(frozen=True)
class Streamed:
    """What ``stream_kernels`` returns.

    Attributes:
        kernels: ``{(row group, column group): {kernel name: {parameter group: [n, c, m, d] float64}}}``.
        logits: ``{group: [n, c] float64}`` of every text, in the order given.
        coverage: how the gradients were captured.
        noise: by row group, the number of coordinates left out of its sign kernels.
        schedule: how the work was cut.
        loss: what a lower precision than float32 costs, measured on a few texts; None in full precision.
    """

    kernels: dict[Pair, dict[str, dict[str, Tensor]]]
    logits: dict[str, Tensor]
    coverage: Coverage
    noise: dict[str, int]
    schedule: Schedule
    loss: Loss | None = None


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
    note: Callable[[str], None] = lambda line: None,
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
        note: told what is worth reading once.

    Cost: every text is captured once; see ``gram``. Row factors on disk are read once a tile.

    Raises:
        UserError: the memory, or the disk, is too small.
    """
    settings = settings or Settings()
    every = list(dict.fromkeys(name for pair in pairs for name in pair))
    names = kernel_names(formulas)
    capturing = Capturing(
        model, trainable, pad_id, [text for name in every for text in texts[name]], settings.batch_size,
        precision=settings.precision, card=settings.card,
    )  # fmt: skip
    scratch = Scratch(settings.scratch, key) if settings.scratch is not None and key else None
    row_names = list(dict.fromkeys(row for row, _ in pairs))
    schedule = _schedule(capturing, texts, pairs, formulas, settings, scratch, announce, note)
    loss = None
    if settings.precision != FULL:
        capturing.batch_size = schedule.batch_size  # larger ones may not fit
        of_rows = [text for name in row_names for text in texts[name]]
        loss = measured_loss(
            capturing, of_rows, formulas, settings.drop_noise, schedule.loss_texts or LOSS_TEXTS
        )
    jobs = jobs_of(texts, pairs, row_names, schedule.chunk)
    account = Account(texts, row_names, jobs, report)
    maker = TileMaker(
        model,
        trainable,
        pad_id,
        {name: texts[name] for name in every},
        list(formulas),
        schedule,
        capturing.coverage,
        settings.drop_noise,
        settings.grouping,
        settings.keep_factors,
        schedule.has_room(settings.share),
        None if scratch is None or settings.scratch is None else (settings.scratch, key),
        row_names,
        account.told,
        precision=settings.precision,
    )
    tiles: dict[str, dict[str, Tensor]] = {}
    for job in jobs:
        earlier = None if scratch is None else scratch.tile(job.name)
        if earlier is not None:
            tiles[job.name] = earlier
            account.settle(job, with_rows=False)
    missing = [job for job in jobs if job.name not in tiles]
    for place, tile in _saying_full(settings.executor.run(maker, missing)):
        if scratch is not None:
            scratch.save_tile(missing[place].name, tile)
        tiles[missing[place].name] = tile
        account.settle(missing[place])
    account.close()
    kernels, logits, noise = assembled(jobs, tiles, texts)
    if scratch is not None and settings.keep_factors:
        scratch.keep_index(index_of(capturing, texts, pairs, jobs, row_names))
    assert all(set(kernels[pair]) == set(names) for pair in pairs)
    return Streamed(kernels, logits, capturing.coverage, noise, schedule, loss)


def _saying_full(results: Iterator[Result]) -> Iterator[Result]:
    """Yields results; a card without room for one becomes a line that says what to do.

    Raises:
        UserError: the card is full.
    """
    with saying_full_card():
        yield from results


def finish(settings: Settings, key: str) -> None:
    """Removes the scratch files of a piece of work whose kernels are kept elsewhere now; with ``keep_factors`` not the factors."""
    if settings.scratch is not None and key:
        Scratch(settings.scratch, key).remove(settings.keep_factors)


def finish_all(settings: Settings) -> None:
    """Removes all scratch files of the settings' owner, whose kernels are kept elsewhere now: those begun under other settings too."""
    if settings.owner is not None:
        own = settings.owner.out.resolve() / SCRATCH  # where they are, if no folder was named
        sweep([own, *([] if settings.scratch is None else [settings.scratch])], settings.owner)


def plan_kernels(
    model: LogitModel,
    texts: Mapping[str, Sequence[EncodedText]],
    pairs: Sequence[Pair],
    formulas: Sequence[str],
    trainable: Mapping[str, torch.nn.Parameter],
    pad_id: int,
    settings: Settings | None = None,
) -> Estimate:
    """Returns what ``stream_kernels`` would take, with the same arguments.

    Cost: the start-up check, and a few batches.

    Raises:
        UserError: the memory is too small.
    """
    settings = settings or Settings()
    every = [text for name in dict.fromkeys(name for pair in pairs for name in pair) for text in texts[name]]
    capturing = Capturing(
        model, trainable, pad_id, every, settings.batch_size, precision=settings.precision, card=settings.card
    )
    trial = capturing.try_out()
    schedule = _cut(trial, capturing, texts, pairs, formulas, settings, settings.scratch is not None)
    rates = rates_of(capturing.device, settings.rates, settings.precision)
    return estimate(
        capturing, trial, schedule, texts, pairs, formulas, rates, settings.copies, settings.drop_noise
    )


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
    kernels = len(kernel_names(formulas)) * groups_of(settings.grouping, capturing.trainable)
    work = (
        trial,
        [[text.length for text in texts[name]] for name in rows],
        [[text.length for text in texts[name]] for name in columns],
        kernels * sum(len(texts[row]) * len(texts[column]) for row, column in pairs),
        settings.batch_size if capturing.coverage.batched else 1,
        settings.share,
    )
    may: _May = {
        "has_scratch": has_scratch,
        "keep_factors": settings.keep_factors,
        "copies": settings.copies,
        "processes": settings.processes,
        "lower": settings.precision != FULL,
    }
    if capturing.card is not None:
        card = least_budget(capturing.card, _other_cards(capturing, settings), settings.device_memory)
        return make_card_schedule(*work, card, kernels=kernels, **may)
    device_budget(capturing.device, None, settings.device_memory)  # there is none to bound
    weights = sum(parameter.nbytes for parameter in capturing.model.parameters())
    return make_schedule(*work, weights=weights, **may)


def groups_of(grouping: Grouping | None, trainable: Mapping[str, torch.nn.Parameter], alone: int = 1) -> int:
    """Returns how many groups of parameters have kernels of their own; ``alone`` where all are summed."""
    return alone if grouping is None else len({grouping(name) for name in trainable})


def _other_cards(capturing: Capturing, settings: Settings) -> list[DeviceMemory]:
    """Returns the memories of the cards that will get a copy of the model."""
    devices = settings.executor.devices if isinstance(settings.executor, Devices) else ()
    found = (memory_of(device) for device in devices if device != capturing.device)
    return [card for card in found if card is not None]


class _May(TypedDict):
    has_scratch: bool
    keep_factors: bool
    copies: int
    processes: int
    lower: bool


def _schedule(
    capturing: Capturing,
    texts: Mapping[str, Sequence[EncodedText]],
    pairs: Sequence[Pair],
    formulas: Sequence[str],
    settings: Settings,
    scratch: Scratch | None,
    announce: Callable[[Estimate], None] | None,
    note: Callable[[str], None],
) -> Schedule:
    """Returns an earlier run's schedule, if it fits into the memory; or makes one and writes it down, and drops what followed the other."""
    earlier = None if scratch is None else scratch.schedule()
    if scratch is not None and earlier is not None:
        with suppress(TypeError):  # of another version
            found = Schedule.of(earlier)
            if (reason := _unfit(found, capturing, settings)) is None:
                if (
                    settings.owner is not None
                ):  # who goes on with it, in a scratch folder of several, is not always who began it
                    scratch.claim(settings.owner)
                return found
            note(f"what is begun was cut for {reason}: it begins anew")
    if scratch is not None:
        scratch.remove()  # factors of another cut, or of one that nobody knows any more, are of other texts
    if settings.keep_factors and scratch is None:
        raise UserError("keep-factors: there is no folder for them; name one with --scratch")
    trial = capturing.try_out()
    schedule = _cut(trial, capturing, texts, pairs, formulas, settings, scratch is not None)
    if announce is not None:
        rates = rates_of(capturing.device, settings.rates, settings.precision)
        announce(
            estimate(
                capturing,
                trial,
                schedule,
                texts,
                pairs,
                formulas,
                rates,
                settings.copies,
                settings.drop_noise,
            )
        )
    if scratch is not None:
        if schedule.disk:
            scratch.check_room(schedule.disk)
        if settings.owner is not None:
            scratch.claim(settings.owner)
        scratch.keep_schedule(schedule.as_dict())
    return schedule


def _unfit(found: Schedule, capturing: Capturing, settings: Settings) -> str | None:
    """Returns what an earlier run's cut is for that is not there now; None where it will do."""
    if (found.card_peak > 0) != (capturing.card is not None):
        return f"{'a card' if found.card_peak else 'a processor'}, and this is {capturing.device.type}"
    if found.copies < settings.copies:  # each holds row factors of its own
        return f"{found.copies} at work, and there are {settings.copies}"
    if found.peak > settings.share:
        each = "" if settings.processes == 1 else f" each of {settings.processes} processes"
        return f"{shown_bytes(found.peak)} of memory, and {shown_bytes(settings.share)} are allowed{each}"
    others = _other_cards(capturing, settings)
    card = (
        0
        if capturing.card is None
        else least_budget(capturing.card, others, settings.device_memory, begun=True)
    )
    if found.card_peak > card:
        return f"{shown_bytes(found.card_peak)} of a card's memory, and {shown_bytes(card)} are allowed"
    return None


def whole(groups: Mapping[str, Tensor]) -> Tensor:
    """Returns a kernel's values, summed over its parameter groups. Memory: the sum."""
    if set(groups) == {EVERYTHING}:
        return groups[EVERYTHING]
    first, *others = groups.values()
    total = first.clone()
    for part in others:
        total += part
    return total
