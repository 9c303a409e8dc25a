"""Which tiles a piece of work has, and kernels put together from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lmntk.engine.batches import Capturer
from lmntk.engine.kernel_work import KernelWork, Pair
from lmntk.engine.lengths import spans
from lmntk.engine.tiles import Job, Tile
from lmntk.engine.work import FactorIndex
from lmntk.models.filters import has_adapter
from lmntk.models.parts import parts_of
from lmntk.prompts.encoding import EncodedText


def jobs_of(work: KernelWork, chunk: int) -> list[Job]:
    """Return the tiles to make of each column group, chunk by chunk.

    A group that is a row group too is one tile: its factors are there anyway.
    """
    jobs = []
    for column in work.column_groups:
        rows = tuple(row for row in work.row_groups if (row, column) in set(work.pairs))
        size = len(work.texts[column])
        parts = [(0, size)] if column in work.row_groups else spans(size, chunk)
        jobs += [Job(rows, column, *part) for part in parts]
    return jobs


def index_of(work: KernelWork, capturer: Capturer, jobs: Sequence[Job]) -> FactorIndex:
    """Return the order of the texts in the files of their factors, and the names of what LoRA can adapt: linear maps."""
    modules = list(work.model.modules())
    tables = {
        p
        for module in modules
        if isinstance(module, torch.nn.Embedding)
        for p in module.parameters(recurse=False)
    }
    linear = {p for module in modules for p in module.parameters(recurse=False) if p.dim() > 1} - tables
    orders: dict[str, list[int]] = {}
    captured = [(name, 0, len(work.texts[name])) for name in work.row_groups]
    captured += [(job.column, job.start, job.stop) for job in jobs if job.column not in work.row_groups]
    for name, start, stop in captured:
        batches = capturer.batches(work.texts[name][start:stop])
        orders.setdefault(name, []).extend(start + index for batch in batches for index in batch)
    adaptable = [name for name, parameter in work.trainable.items() if parameter in linear]
    parts = parts_of(work.model, work.trainable)
    return FactorIndex(
        orders, list(work.pairs), adaptable, capturer.precision, parts, has_adapter(work.model)
    )


def assembled(
    jobs: Sequence[Job], tiles: Mapping[str, Tile], texts: Mapping[str, Sequence[EncodedText]]
) -> tuple[dict[Pair, dict[str, dict[str, Tensor]]], dict[str, Tensor], dict[str, int]]:
    """Return kernels, logits and noise of all tiles, in the texts' order."""
    kernels: dict[Pair, dict[str, dict[str, Tensor]]] = {}
    logits: dict[str, list[Tensor]] = {}
    row_logits: dict[str, Tensor] = {}
    noise: dict[str, int] = {}
    for job in jobs:
        tile = tiles[job.name]
        logits.setdefault(job.column, []).append(tile.column_logits)
        row_logits |= tile.row_logits
        noise |= {row: count for row, count in tile.noise.items() if count is not None}
        for (row, name, group), values in tile.kernels.items():
            target = kernels.setdefault((row, job.column), {}).setdefault(name, {})
            if group not in target:
                n, c, _, d = values.shape
                target[group] = torch.full((n, c, len(texts[job.column]), d), torch.nan, dtype=torch.float64)
            target[group][:, :, job.start : job.stop] = values
    return kernels, row_logits | {name: torch.cat(parts) for name, parts in logits.items()}, noise
