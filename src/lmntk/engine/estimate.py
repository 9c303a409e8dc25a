"""Figures of a piece of work before it starts: operations, bytes, memory, disk, and time here."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import dropwhile
from typing import Any

from torch import nn

from lmntk.engine.batches import Capturer
from lmntk.engine.cost import Operations, contraction, low_rank_shapes, shapes_of
from lmntk.engine.kernel_work import KernelWork
from lmntk.engine.lengths import evenly, spans
from lmntk.engine.phases import Trial
from lmntk.engine.rates import Rates, finish_work
from lmntk.engine.schedule import Schedule
from lmntk.engine.settings import Settings
from lmntk.prompts.batching import length_sorted_batches
from lmntk.system.memory import shown_bytes
from lmntk.system.precision import FULL

DISK_RATE = 1e9  # bytes a second, of row factors read once a tile: of a file that was just written, mostly from the system's cache


@dataclass(frozen=True)
class Estimate:
    """The figures of one piece of work, or of several.

    Attributes:
        texts: texts captured.
        pairs: pairs of texts contracted, each for all kernels.
        capture_operations: of forward and backward passes.
        contraction_operations: of the Gram matrices.
        factor_bytes: of all texts' factors, most of which are never there at once.
        disk: bytes of factors on disk at a time.
        peak: bytes that the process will hold at most.
        seconds: on this machine.
        gpu_peak: bytes that a GPU of this machine will hold at most; 0 where the processor computes.
        copies: devices that share the work.
    """

    texts: int
    pairs: int
    capture_operations: float
    contraction_operations: float
    factor_bytes: float
    disk: int
    peak: int
    seconds: float
    gpu_peak: int
    copies: int = 1

    def __add__(self, other: Estimate) -> Estimate:
        """Return what both take, one after the other."""
        return Estimate(
            self.texts + other.texts,
            self.pairs + other.pairs,
            self.capture_operations + other.capture_operations,
            self.contraction_operations + other.contraction_operations,
            self.factor_bytes + other.factor_bytes,
            max(self.disk, other.disk),
            max(self.peak, other.peak),
            self.seconds + other.seconds,
            max(self.gpu_peak, other.gpu_peak),
            max(self.copies, other.copies),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return dict(self.__dict__)

    def describe(self) -> str:
        """Return one line."""
        operations = shown_count(self.capture_operations + self.contraction_operations)
        parts = [f"{self.texts:,} texts, {self.pairs:,} pairs: {operations} operations"]
        parts += [f"{shown_bytes(self.peak)} of memory at most"]
        if self.gpu_peak:
            where = "the GPU" if self.copies == 1 else f"each of {self.copies} GPUs"
            parts += [f"{shown_bytes(self.gpu_peak)} on {where}"]
        if self.disk:
            parts += [f"{shown_bytes(self.disk)} on disk"]
        return ", ".join([*parts, f"about {shown_time(self.seconds)} here"])


def estimate(
    work: KernelWork,
    settings: Settings,
    capturer: Capturer,
    trial: Trial,
    schedule: Schedule,
    rates: Rates,
) -> Estimate:
    """Return what ``stream_kernels`` will take with this schedule.

    Operations of forward and backward passes are those of the matrices that tokens pass, without the attention's own products. Of
    several devices each captures the row texts for itself, and the rest is shared out. In a lower precision than float32 a few row
    texts are captured and contracted in both first, and for signs without noise all of them once more in full.

    Cost: one batch of texts of middling length is captured, to be timed.
    """
    capturer.batch_size = schedule.batch_size
    texts, groups, rows, copies = work.texts, work.groups, work.row_groups, settings.copies
    batches = {
        name: [
            (len(part), max(texts[name][i].length for i in part)) for part in capturer.batches(texts[name])
        ]
        for name in groups
    }
    every = sorted(work.texts_of(groups), key=lambda text: text.length)
    size = schedule.batch_size if capturer.coverage.batched else 1
    middle = max(0, len(every) // 2 - size // 2)
    few = every[middle : middle + size]
    started = time.perf_counter()
    captured = capturer.of_batch(few)
    finish_work(capturer.device)
    seconds = time.perf_counter() - started
    tokens = few[-1].length * len(few)
    shapes = shapes_of(captured[0], few[-1].length)
    shapes += low_rank_shapes(captured[0], few[-1].length, work.subspaces)
    all_tokens = sum(
        count * length for name in groups for count, length in batches[name]
    )  # padding is computed too
    of_rows = sum(count * length for name in groups if name in rows for count, length in batches[name])
    each = of_rows + (all_tokens - of_rows) / copies
    operations, read = Operations(), 0.0
    for column in work.column_groups:
        wanted = [row for row, other in work.pairs if other == column]
        tiles = 1 if column in rows else len(spans(len(texts[column]), schedule.chunk))
        read += schedule.disk * tiles
        panel = [batch for row in wanted for batch in batches[row]]
        operations += contraction(
            shapes, panel, batches[column], trial.outputs, work.kernel_names, tiles, wanted == [column]
        )
    first, first_operations, in_full = 0.0, Operations(), 0.0
    if capturer.precision != FULL:
        lengths = evenly(sorted(text.length for text in work.texts_of(rows)), schedule.loss_texts)
        few_batches = [(len(part), lengths[part[-1]]) for part in length_sorted_batches(lengths, size)]
        first = 2.0 * sum(count * length for count, length in few_batches)
        block = contraction(shapes, few_batches, few_batches, trial.outputs, work.kernel_names, 1, own=True)
        first_operations = block + block
        in_full = of_rows if settings.drop_noise and set(work.formulas) != {"sgd"} else 0.0
    of_token = pass_operations(capturer.model, work.trainable, trial.outputs)
    capture_operations = of_token * (all_tokens + first + in_full)
    operations_in_all = operations + first_operations
    return Estimate(
        texts=len(every),
        pairs=work.text_pairs(),
        capture_operations=capture_operations,
        contraction_operations=operations_in_all.total,
        factor_bytes=trial.factors / trial.tokens * all_tokens,
        disk=schedule.disk,
        peak=schedule.peak,
        seconds=seconds * (each + first + in_full) / tokens
        + rates.seconds(operations) / copies
        + rates.seconds(first_operations)
        + read / DISK_RATE,
        gpu_peak=schedule.gpu_peak,
        copies=copies,
    )


def pass_operations(model: nn.Module, trainable: Mapping[str, nn.Parameter], outputs: int) -> float:
    """Return a token's operations in a forward pass, and a backward pass a logit down to the lowest parameter that counts.

    Which is lowest is told by the order in which the model names its parameters: nearly every network's is the order of use.
    """
    counted = set(trainable.values())
    passed = list(dropwhile(lambda parameter: parameter not in counted, model.parameters()))
    return 2.0 * (matrices(model) + outputs * matrices(model, passed))


def matrices(model: nn.Module, among: Iterable[nn.Parameter] | None = None) -> int:
    """Return the coordinates of the matrices that every token passes: not of tables, and not of a vocabulary's head.

    Args:
        model: from a batch to logits.
        among: of these parameters alone; by default of all.
    """
    tables = {
        p
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for p in module.parameters(recurse=False)
    }
    heads = {
        p for module in getattr(model, "selected_rows", dict)() for p in module.parameters(recurse=False)
    }
    every = model.parameters() if among is None else among
    return sum(p.numel() for p in every if p.dim() > 1 and p not in tables and p not in heads)


def shown_time(seconds: float) -> str:
    """Return a time as people say it: 40 s, 3 min, 2.5 h, 4 days."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172800 else f"{seconds / 86400:.0f} days"


def shown_count(operations: float) -> str:
    """Return a number of operations: 3.2 T, 1.5 P."""
    for power, letter in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G")):
        if operations >= power:
            return f"{operations / power:.1f} {letter}"
    return f"{operations / 1e6:.1f} M"
