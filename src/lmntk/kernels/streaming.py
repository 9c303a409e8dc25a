"""From encoded texts to kernels, in bounded memory.

The row texts' factors are kept; the column texts stream past in chunks, each captured once, contracted with every
row group that wants it, and dropped. Rows that do not fit go in several sweeps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lmntk.errors import UserError
from lmntk.kernels.contraction import kernel_names
from lmntk.kernels.gram import EVERYTHING, Grouping, Panel, gram
from lmntk.memory import default_memory
from lmntk.models.logit_model import LogitModel
from lmntk.prompts.batching import collate, length_sorted_batches
from lmntk.prompts.encoding import EncodedText
from lmntk.tangents.capture import capture
from lmntk.tangents.coverage import Coverage, check_coverage
from lmntk.tangents.factors import Tangents
from lmntk.tangents.local import BatchAxisLostError
from lmntk.tangents.noise import noise_coordinates, silence

Pair = tuple[str, str]
Report = Callable[[int, int], None]  # texts captured, pairs of texts contracted, since the last call


@dataclass(frozen=True)
class Settings:
    """How to compute: none of it changes what is computed beyond rounding, but for ``drop_noise``.

    Attributes:
        batch_size: texts in one forward pass.
        memory: bytes that captured factors may take.
        drop_noise: leave coordinates that are rounding noise out of the sign kernels.
        grouping: from a parameter's name to its group, for per-group values.
    """

    batch_size: int = 32
    memory: int = field(default_factory=default_memory)
    drop_noise: bool = True
    grouping: Grouping | None = None


@dataclass(frozen=True)
class Streamed:
    """What ``stream_kernels`` returns.

    Attributes:
        kernels: ``{(row group, column group): {kernel name: {parameter group: [n, c, m, d] float64}}}``.
        logits: ``{group: [n, c] float64}`` of every text, in the order given.
        coverage: how the gradients were captured.
        noise: by row group, the number of coordinates left out of its sign kernels.
    """

    kernels: dict[Pair, dict[str, dict[str, Tensor]]]
    logits: dict[str, Tensor]
    coverage: Coverage
    noise: dict[str, int]


class _Capturing:
    """Captures texts in batches of similar length, and keeps count."""

    def __init__(self, model: LogitModel, trainable: Mapping[str, torch.nn.Parameter], settings: Settings, pad_id: int, report: Report):
        self.model, self.trainable, self.settings, self.pad_id, self.report = model, trainable, settings, pad_id, report
        self.device = next(model.parameters()).device
        self.coverage: Coverage | None = None

    def batch(self, texts: Sequence[EncodedText]) -> dict[str, Tensor]:
        return {name: tensor.to(self.device) for name, tensor in collate(texts, self.pad_id).items()}

    def captured(self, texts: Sequence[EncodedText]) -> list[Tangents]:
        """Returns the tangents of one batch; of one that a module cannot be cut into texts for, text by text."""
        assert self.coverage is not None
        try:
            return [capture(self.model, self.batch(texts), self.trainable, self.coverage.fallback)]
        except BatchAxisLostError:
            if len(texts) == 1:
                raise
            return [capture(self.model, self.batch([text]), self.trainable, self.coverage.fallback) for text in texts]

    def inspect(self, texts: Sequence[EncodedText]) -> Coverage:
        """Checks coverage on the shortest and the longest text, whose padding differs most."""
        ordered = sorted(texts, key=lambda text: text.length)
        self.coverage = check_coverage(self.model, self.batch([ordered[0], ordered[-1]][: len(ordered)]), self.trainable)
        return self.coverage

    def __call__(self, texts: Sequence[EncodedText], limit: float | None = None) -> tuple[list[Tangents], list[int]]:
        """Returns batches of tangents, and the texts' order in them.

        Raises:
            UserError: they take more than ``limit`` bytes.
        """
        assert self.coverage is not None
        size = self.settings.batch_size if self.coverage.batched else 1
        batches, order = [], []
        held, tokens = 0, 0
        for chosen in length_sorted_batches([text.length for text in texts], size):
            found = self.captured([texts[i] for i in chosen])
            batches += found
            order += chosen
            self.report(len(chosen), 0)
            held, tokens = held + sum(batch.nbytes for batch in found), tokens + sum(texts[i].length for i in chosen)
            if limit is not None and held > limit:
                needed = 1.5 * held * sum(text.length for text in texts) / tokens
                raise UserError(
                    f"memory: the factors of {len(texts)} training texts need about {needed / 2**20:,.0f} MiB in all, and "
                    f"{self.settings.memory / 2**20:,.0f} are allowed; give more memory, or a smaller k"
                )
        return batches, order


def stream_kernels(
    model: LogitModel,
    texts: Mapping[str, Sequence[EncodedText]],
    pairs: Sequence[Pair],
    formulas: Sequence[str],
    trainable: Mapping[str, torch.nn.Parameter],
    pad_id: int,
    settings: Settings | None = None,
    report: Report = lambda captured, contracted: None,
) -> Streamed:
    """Returns the kernels between the named groups of texts, and the logits of every text in a pair.

    Args:
        model: from a batch to logits [n, c].
        texts: groups of encoded texts by name; the kernels' axes follow their order.
        pairs: (row group, column group) for each kernel wanted; rows are training texts.
        formulas: of ``sgd``, ``signgd``, ``asigngd``.
        trainable: the parameters that count.
        pad_id: the padding token.
        settings: batch size, memory, noise, grouping.
        report: called with the texts captured and the pairs contracted since the last call.

    Cost: every text is captured once a sweep (one sweep, if the rows fit into two thirds of the memory); see ``gram``.

    Raises:
        UserError: one row group's factors alone do not fit.
    """
    settings = settings or Settings()
    capturing = _Capturing(model, trainable, settings, pad_id, report)
    every = list(dict.fromkeys(name for pair in pairs for name in pair))
    coverage = capturing.inspect([text for name in every for text in texts[name]])
    names = kernel_names(formulas)
    kernels: dict[Pair, dict[str, dict[str, Tensor]]] = {}
    logits: dict[str, Tensor] = {}
    noise: dict[str, int] = {}
    row_names = list(dict.fromkeys(row for row, _ in pairs))
    while row_names:
        kept: dict[str, tuple[list[Tangents], list[int]]] = {}
        as_columns: dict[str, list[Tangents]] = {}
        used = 0
        while row_names and (not kept or used + used // len(kept) < 2 * settings.memory // 3):
            name = row_names.pop(0)
            batches, order = capturing(texts[name], 2 * settings.memory / 3)
            as_columns[name] = batches
            if settings.drop_noise and set(formulas) != {"sgd"}:
                # a zero on the row side leaves a coordinate out of every product, so columns get no mask, not even those
                # that are rows of other kernels: a kernel does not depend on what else is computed beside it
                masks = noise_coordinates(batches)
                batches = [silence(batch, masks) for batch in batches]
                noise[name] = sum(int(mask.sum()) for mask in masks.values())
            used += sum(batch.nbytes for batch in batches)
            kept[name] = batches, order
            logits[name] = _in_order(torch.cat([batch.logits for batch in batches]), order)
        per_text = max(1, used // sum(len(order) for _, order in kept.values()))
        chunk = max(settings.batch_size, (settings.memory - used) // (2 * per_text))
        wanted = {column: [row for row in kept if (row, column) in set(pairs)] for column in dict.fromkeys(c for _, c in pairs)}
        for column, rows in wanted.items():
            if not rows:
                continue
            ready = (as_columns[column], kept[column][1]) if column in kept else None
            done: list[Tensor] = []
            for start in range(0, len(texts[column]), len(texts[column]) if ready else chunk):
                part = texts[column][start : len(texts[column]) if ready else start + chunk]
                batches, order = ready or capturing(part)
                if not ready:
                    done.append(_in_order(torch.cat([batch.logits for batch in batches]), order))
                panel = Panel([batch for row in rows for batch in kept[row][0]])
                found = gram(panel, panel if rows == [column] else Panel(batches), formulas, settings.grouping)
                report(0, len(panel) * len(order))
                _scatter(kernels, found, rows, column, kept, order, start, len(texts[column]))
            if done:
                logits[column] = torch.cat(done)
    assert all(set(kernels[pair]) == set(names) for pair in pairs)
    return Streamed(
        kernels,
        {name: value.double().cpu() for name, value in logits.items()},
        coverage,
        noise,
    )


def _in_order(values: Tensor, order: Sequence[int]) -> Tensor:
    """Returns rows that were computed in ``order`` in the order of the texts."""
    restored = torch.empty_like(values)
    restored[torch.as_tensor(order, device=values.device)] = values
    return restored


def _scatter(
    kernels: dict[Pair, dict[str, dict[str, Tensor]]],
    found: dict[str, dict[str, Tensor]],
    rows: Sequence[str],
    column: str,
    kept: Mapping[str, tuple[list[Tangents], list[int]]],
    order: Sequence[int],
    start: int,
    total: int,
) -> None:
    """Writes Gram blocks, computed in the batches' order, to their texts' places in the kernels."""
    places = torch.as_tensor(order) + start
    offset = 0
    for row in rows:
        row_order = torch.as_tensor(kept[row][1])
        for name, groups in found.items():
            for group, block in groups.items():
                part = block[offset : offset + len(row_order)].cpu()
                n, c, _, d = part.shape
                target = kernels.setdefault((row, column), {}).setdefault(name, {})
                if group not in target:
                    target[group] = torch.zeros(n, c, total, d, dtype=torch.float64)
                target[group][row_order[:, None], :, places[None, :]] = part.permute(0, 2, 1, 3)
        offset += len(row_order)


def whole(groups: Mapping[str, Tensor]) -> Tensor:
    """Returns a kernel's values, summed over its parameter groups."""
    return groups[EVERYTHING] if set(groups) == {EVERYTHING} else torch.stack(list(groups.values())).sum(0)
