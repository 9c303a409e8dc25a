"""How kernels will be cut to fit into memory, as an earlier run has begun them or anew, and what they will take."""

from __future__ import annotations

from lmntk.engine.batches import Capturing
from lmntk.engine.budget import Budget
from lmntk.engine.estimate import Estimate, estimate
from lmntk.engine.kernel_phases import KernelSizes
from lmntk.engine.kernel_work import KernelWork, groups_of
from lmntk.engine.phases import Trial
from lmntk.engine.progress import Listener
from lmntk.engine.rates import rates_of
from lmntk.engine.schedule import Schedule, make_schedule
from lmntk.engine.settings import Settings
from lmntk.engine.work_folder import WorkFolder
from lmntk.errors import UserError
from lmntk.system.device_memory import DeviceMemory, device_budget, least_budget, memory_of
from lmntk.system.executors.threads import Devices
from lmntk.system.memory import shown_bytes
from lmntk.system.precision import FULL


def plan_kernels(work: KernelWork, settings: Settings | None = None) -> Estimate:
    """Return what ``stream_kernels`` would take for the same work and settings.

    Cost: the start-up check, and a few batches.

    Raises:
        UserError: the memory is too small.
    """
    settings = settings or Settings()
    capturing = capturing_of(work, settings)
    trial = capturing.try_out()
    schedule = cut_work(work, settings, capturing, trial, settings.scratch is not None)
    return _estimate(work, settings, capturing, trial, schedule)


def capturing_of(work: KernelWork, settings: Settings) -> Capturing:
    """Return what captures the texts of all groups. Cost: the start-up check."""
    return Capturing(
        work.model,
        work.trainable,
        work.pad_id,
        work.texts_of(work.groups),
        settings.batch_size,
        precision=settings.precision,
        card=settings.card,
    )


def begun_or_new_schedule(
    work: KernelWork,
    settings: Settings,
    capturing: Capturing,
    scratch: WorkFolder | None,
    listener: Listener,
) -> Schedule:
    """Return an earlier run's schedule if it fits into the memory; else make one, and drop what followed the other.

    Raises:
        UserError: the memory, or the disk, is too small.
    """
    earlier = None if scratch is None else scratch.record().schedule
    if scratch is not None and earlier is not None:
        if (reason := _unfit(earlier, capturing, settings)) is None:
            scratch.write_down(settings.owner)  # who goes on with it is not always who began it
            return earlier
        listener.note(f"what is begun was cut for {reason}: it begins anew")
    if scratch is not None:
        scratch.remove()  # factors of another cut, or of one that nobody knows any more, are of other texts
    if settings.keep_factors and scratch is None:
        raise UserError("keep-factors: there is no folder for them; name one with --scratch")
    trial = capturing.try_out()
    schedule = cut_work(work, settings, capturing, trial, scratch is not None)
    if listener.announce is not None:
        listener.announce(_estimate(work, settings, capturing, trial, schedule))
    if scratch is not None:
        if schedule.disk:
            scratch.check_room(schedule.disk)
        scratch.write_down(settings.owner, schedule=schedule)
    return schedule


def cut_work(
    work: KernelWork, settings: Settings, capturing: Capturing, trial: Trial, has_scratch: bool
) -> Schedule:
    """Return the cut of the work that fits into the settings' memory, by what a few texts took.

    Raises:
        UserError: the memory is too small; says the least that works.
    """
    rows = work.row_groups
    kernels = len(work.kernel_names) * groups_of(settings.grouping, work.trainable)
    sizes = KernelSizes(
        trial,
        rows=work.lengths_of(rows),
        columns=work.lengths_of([column for column in work.column_groups if column not in rows]),
        blocks=kernels * work.text_pairs(),
        kernels=kernels,
        batch_size=settings.batch_size if capturing.coverage.batched else 1,
        weights=sum(parameter.nbytes for parameter in work.model.parameters()),
        copies=settings.copies,
        has_scratch=has_scratch,
        keep_factors=settings.keep_factors,
        lower=settings.precision != FULL,
    )
    return make_schedule(sizes, _budget(capturing, settings))


def _budget(capturing: Capturing, settings: Settings, begun: bool = False) -> Budget:
    """Return what may be held; work that is begun goes on as long as it can, in all that is free of the GPUs."""
    if capturing.card is None:
        device_memory = device_budget(
            capturing.device, None, settings.device_memory
        )  # there is none to bound
    else:
        others = _other_cards(capturing, settings)
        device_memory = least_budget(capturing.card, others, settings.device_memory, begun)
    return Budget(settings.share, device_memory, settings.processes)


def _estimate(
    work: KernelWork, settings: Settings, capturing: Capturing, trial: Trial, schedule: Schedule
) -> Estimate:
    rates = rates_of(capturing.device, settings.rates, settings.precision)
    return estimate(work, settings, capturing, trial, schedule, rates)


def _other_cards(capturing: Capturing, settings: Settings) -> list[DeviceMemory]:
    """Return the memories of the cards that will get a copy of the model."""
    devices = settings.executor.devices if isinstance(settings.executor, Devices) else ()
    found = (memory_of(device) for device in devices if device != capturing.device)
    return [card for card in found if card is not None]


def _unfit(found: Schedule, capturing: Capturing, settings: Settings) -> str | None:
    """Return what an earlier run's cut is for that is not there now; None where it will do."""
    if (found.card_peak > 0) != (capturing.card is not None):
        return f"{'a card' if found.card_peak else 'a processor'}, and this is {capturing.device.type}"
    if found.copies < settings.copies:  # each holds row factors of its own
        return f"{found.copies} at work, and there are {settings.copies}"
    if found.peak > settings.share:
        each = "" if settings.processes == 1 else f" each of {settings.processes} processes"
        return f"{shown_bytes(found.peak)} of memory, and {shown_bytes(settings.share)} are allowed{each}"
    allowed = _budget(capturing, settings, begun=True).device_memory or 0
    if found.card_peak > allowed:
        return f"{shown_bytes(found.card_peak)} of a card's memory, and {shown_bytes(allowed)} are allowed"
    return None
