"""The cut that kernels have, from an earlier run or made to fit into memory, and an estimate of what they take."""

from __future__ import annotations

from lmntk.engine.batches import Capturer
from lmntk.engine.budget import Budget
from lmntk.engine.estimate import Estimate, estimate
from lmntk.engine.kernel_phases import KernelSizes
from lmntk.engine.kernel_work import KernelWork
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
    capturer = capturer_of(work, settings)
    trial = capturer.try_out()
    schedule = cut_work(work, settings, capturer, trial, settings.scratch is not None)
    return _estimate(work, settings, capturer, trial, schedule)


def capturer_of(work: KernelWork, settings: Settings) -> Capturer:
    """Return what captures the texts of all groups. Cost: the start-up check, unless the work says how they are captured.

    Raises:
        UserError: a candidate of the work that cannot be computed.
    """
    if work.subspaces is not None:
        work.subspaces.check(work.trainable)
    capturer = Capturer(
        work.model,
        work.trainable,
        work.pad_id,
        work.texts_of(work.groups),
        settings.batch_size,
        work.coverage,
        settings.precision,
        settings.gpu,
    )
    if work.subspaces is not None:
        work.subspaces.check(work.trainable, capturer.coverage.fallback)
    return capturer


def begun_or_new_schedule(
    work: KernelWork,
    settings: Settings,
    capturer: Capturer,
    scratch: WorkFolder | None,
    listener: Listener,
) -> Schedule:
    """Return an earlier run's schedule if it fits into the memory; else make one, and drop what followed the other.

    Raises:
        UserError: the memory, or the disk, is too small.
    """
    earlier = None if scratch is None else scratch.record().schedule
    if scratch is not None and earlier is not None:
        if (reason := _unfit(earlier, capturer, settings)) is None:
            scratch.write_down(settings.owner)  # who goes on with it is not always who began it
            return earlier
        listener.note(f"unfinished work was cut for {reason}: it begins anew")
    if scratch is not None:
        scratch.remove()  # factors of another cut, or of one that nobody knows any more, are of other texts
    if settings.keep_factors and scratch is None:
        raise UserError("keep-factors: there is no folder for them; name one with --scratch")
    trial = capturer.try_out()
    schedule = cut_work(work, settings, capturer, trial, scratch is not None)
    if listener.announce is not None:
        listener.announce(_estimate(work, settings, capturer, trial, schedule))
    if scratch is not None:
        if schedule.disk:
            scratch.check_room(schedule.disk)
        scratch.write_down(settings.owner, schedule=schedule)
    return schedule


def cut_work(
    work: KernelWork, settings: Settings, capturer: Capturer, trial: Trial, has_scratch: bool
) -> Schedule:
    """Return the cut of the work that fits into the settings' memory, by what a few texts took.

    Raises:
        UserError: the memory is too small; says the least that works.
    """
    rows = work.row_groups
    kernels = work.sums(settings.grouping)
    sizes = KernelSizes(
        trial,
        rows=work.lengths_of(rows),
        columns=work.lengths_of([column for column in work.column_groups if column not in rows]),
        blocks=kernels * work.text_pairs(),
        kernels=kernels,
        batch_size=settings.batch_size if capturer.coverage.batched else 1,
        weights=sum(parameter.nbytes for parameter in work.model.parameters()),
        copies=settings.copies,
        has_scratch=has_scratch,
        keep_factors=settings.keep_factors,
        lower=settings.precision != FULL,
        columns_of_lora=0 if work.subspaces is None else work.subspaces.most_columns,
    )
    if capturer.gpu is None:
        device_memory = device_budget(capturer.device, None, settings.device_memory)  # there is none to bound
    else:
        device_memory = least_budget(capturer.gpu, _other_gpus(capturer, settings), settings.device_memory)
    return make_schedule(sizes, Budget(settings.share, device_memory, settings.processes))


def _estimate(
    work: KernelWork, settings: Settings, capturer: Capturer, trial: Trial, schedule: Schedule
) -> Estimate:
    rates = rates_of(capturer.device, settings.rates, settings.precision)
    return estimate(work, settings, capturer, trial, schedule, rates)


def _other_gpus(capturer: Capturer, settings: Settings) -> list[DeviceMemory]:
    """Return the memories of the GPUs that will get a copy of the model."""
    devices = settings.executor.devices if isinstance(settings.executor, Devices) else ()
    memories = (memory_of(device) for device in devices if device != capturer.device)
    return [gpu for gpu in memories if gpu is not None]


def _unfit(schedule: Schedule, capturer: Capturer, settings: Settings) -> str | None:
    """Return what an earlier run's cut is for that is not there now; None where it will do."""
    if (schedule.gpu_peak > 0) != (capturer.gpu is not None):
        return f"{'a GPU' if schedule.gpu_peak else 'a processor'}, and this is {capturer.device.type}"
    if schedule.copies < settings.copies:  # each holds row factors of its own
        return f"{schedule.copies} at work, and there are {settings.copies}"
    if schedule.peak > settings.share:
        each = "" if settings.processes == 1 else f" each of {settings.processes} processes"
        return f"{shown_bytes(schedule.peak)} of memory, and {shown_bytes(settings.share)} are allowed{each}"
    if capturer.gpu is not None:
        others = _other_gpus(capturer, settings)
        allowed = least_budget(capturer.gpu, others, settings.device_memory, begun=True)
        if schedule.gpu_peak > allowed:
            return (
                f"{shown_bytes(schedule.gpu_peak)} of a GPU's memory, and {shown_bytes(allowed)} are allowed"
            )
    return None
