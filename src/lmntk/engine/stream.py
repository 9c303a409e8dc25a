"""From encoded texts to kernels, in bounded memory, tile by tile.

The row texts' factors are kept, in memory or on disk; the column texts stream past in chunks, each captured once, contracted with
all rows that want it, and dropped. What a chunk comes to is a *tile*; finished tiles are kept, so that a run that was cut short goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from torch import Tensor

from lmntk.engine.budget import is_roomy
from lmntk.engine.jobs import assembled, index_of, jobs_of
from lmntk.engine.kernel_work import KernelWork, Pair
from lmntk.engine.plan import begun_or_new_schedule, capturer_of
from lmntk.engine.precision_loss import PrecisionLoss, measure_precision_loss
from lmntk.engine.progress import Listener, ProgressMeter
from lmntk.engine.schedule import LOSS_TEXTS, Schedule
from lmntk.engine.settings import Settings
from lmntk.engine.tile_maker import TileMaker
from lmntk.engine.tiles import Tile
from lmntk.engine.work_folder import WorkFolder
from lmntk.kernels.gram import EVERYTHING
from lmntk.system.device_memory import reporting_full_device
from lmntk.system.precision import FULL
from lmntk.tangents.coverage import Coverage

Result = TypeVar("Result")


@dataclass(frozen=True)
class Streamed:
    """Kernels and logits, and how they were computed.

    Attributes:
        kernels: ``{(row group, column group): {kernel name: {parameter group: [n, c, m, d] float64}}}``.
        logits: ``{group: [n, c] float64}`` of every text, in the order given.
        coverage: how the gradients were captured.
        noise: by row group, the number of coordinates left out of its sign kernels.
        schedule: how the work was cut.
        precision_loss: what a lower precision than float32 costs, measured on a few texts; None in full precision.
        subspaces: ``{(row group, column group): {candidate: {kernel name: [n, c, m, d] float64}}}`` of the work's candidates.
    """

    kernels: dict[Pair, dict[str, dict[str, Tensor]]]
    logits: dict[str, Tensor]
    coverage: Coverage
    noise: dict[str, int]
    schedule: Schedule
    precision_loss: PrecisionLoss | None = None
    subspaces: dict[Pair, dict[str, dict[str, Tensor]]] = field(default_factory=dict)


def stream_kernels(
    work: KernelWork, settings: Settings | None = None, listener: Listener | None = None, key: str = ""
) -> Streamed:
    """Return the kernels between the named groups of texts, and the logits of every text in a pair.

    Args:
        work: which model's kernels, between which texts, by which formulas.
        settings: batch size, memory, noise, grouping, scratch.
        listener: who is told how far the work is, and what it will take.
        key: a hash of all that the numbers depend on; the settings' scratch folder is used only with it.

    Cost: every text is captured once; see ``gram``. Row factors on disk are read once a tile.

    Raises:
        UserError: the memory, or the disk, is too small.

    Example:
        >>> work = KernelWork(model, {"train": train, "test": test}, [("train", "test")], ["sgd"], trainable, 0)  # doctest: +SKIP
        >>> stream_kernels(work, Settings(memory=2**32)).kernels["train", "test"]["sgd"]["all"].shape  # doctest: +SKIP
        torch.Size([32, 1, 872, 1])
    """
    settings, listener = settings or Settings(), listener or Listener()
    capturer = capturer_of(work, settings)
    scratch = WorkFolder.of(settings, key)
    schedule = begun_or_new_schedule(work, settings, capturer, scratch, listener)
    loss = None
    if settings.precision != FULL:
        capturer.batch_size = schedule.batch_size  # larger ones may not fit
        rows, most = work.texts_of(work.row_groups), schedule.loss_texts or LOSS_TEXTS
        loss = measure_precision_loss(capturer, rows, work.formulas, settings.drop_noise, most)
    jobs = jobs_of(work, schedule.chunk)
    meter = ProgressMeter(work, jobs, listener.report)
    maker = TileMaker(
        replace(work, texts={name: work.texts[name] for name in work.groups}),
        schedule,
        capturer.coverage,
        None if scratch is None else (scratch.root, key),
        is_roomy(schedule.peak, settings.share),
        settings.drop_noise,
        settings.grouping,
        settings.keep_factors,
        settings.precision,
        meter.report,
    )
    tiles: dict[str, Tile] = {}
    for job in jobs:
        earlier = None if scratch is None else scratch.tile(job)
        if earlier is not None:
            tiles[job.name] = earlier
            meter.settle(job, with_rows=False)
    missing = [job for job in jobs if job.name not in tiles]
    for index, tile in _reporting_full(settings.executor.run(maker, missing)):
        if scratch is not None:
            scratch.save_tile(missing[index], tile)
        tiles[missing[index].name] = tile
        meter.settle(missing[index])
    meter.close()
    kernels, logits, noise = assembled(jobs, tiles, work.texts)
    if scratch is not None and settings.keep_factors:
        scratch.write_down(factors=index_of(work, capturer, jobs))
    assert all(set(kernels[pair]) == set(work.kernel_names) for pair in work.pairs)
    tiles.clear()  # before candidates' kernels are made of their sums
    subspaces: dict[Pair, dict[str, dict[str, Tensor]]] = {}
    if work.subspaces is not None:
        for pair in list(kernels):
            kernels[pair], subspaces[pair] = work.subspaces.split(kernels[pair])
    return Streamed(kernels, logits, capturer.coverage, noise, schedule, loss, subspaces)


def _reporting_full(results: Iterator[Result]) -> Iterator[Result]:
    """Yield results; a GPU without room for one becomes a line that says what to do.

    Raises:
        UserError: the GPU is full.
    """
    with reporting_full_device():
        yield from results


def whole(groups: Mapping[str, Tensor]) -> Tensor:
    """Return a kernel's values, summed over its parameter groups. Memory: the sum."""
    if set(groups) == {EVERYTHING}:
        return groups[EVERYTHING]
    first, *others = groups.values()
    total = first.clone()
    for part in others:
        total += part
    return total
