"""Examples in batches, in whatever order suits the model, with results in the user's order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lmntk.engine.start_up import check_model
from lmntk.errors import UserError
from lmntk.models.state import Batch, frozen
from lmntk.prompts.batching import collate, length_sorted_batches
from lmntk.prompts.encoding import EncodedText
from lmntk.solvers.inputs import Array
from lmntk.tangents.coverage import Coverage


@dataclass(frozen=True, eq=False)
class Examples:
    """Batches of n examples in all, each a mapping of tensors whose first axis is the example.

    Attributes:
        batches: what the model is called with.
        places: for each batch, the places of its examples in the user's order.
        texts: the encoded texts, in the user's order, if the examples are such: kernels of them are computed
            in bounded memory.
        pad_id: the padding token of texts.
    """

    batches: tuple[Batch, ...]
    positions: tuple[tuple[int, ...], ...]
    texts: tuple[EncodedText, ...] | None = None
    pad_id: int = 0

    @classmethod
    def of_batches(cls, batches: Sequence[Batch]) -> Examples:
        """Return the examples of ready batches, of any module's.

        Raises:
            UserError: no batch.
        """
        if not batches:
            raise UserError("examples: there is no batch; give at least one")
        positions, start = [], 0
        for batch in batches:
            count = len(next(iter(batch.values())))
            positions.append(tuple(range(start, start + count)))
            start += count
        return cls(tuple(batches), tuple(positions))

    @classmethod
    def of_texts(cls, texts: Sequence[EncodedText], pad_id: int, batch_size: int = 32) -> Examples:
        """Return encoded texts in batches of similar lengths.

        Raises:
            UserError: no text.
        """
        if not texts:
            raise UserError("examples: there is no text; give at least one")
        chosen = length_sorted_batches([text.length for text in texts], batch_size)
        batches = tuple(collate([texts[i] for i in batch], pad_id) for batch in chosen)
        return cls(batches, tuple(map(tuple, chosen)), tuple(texts), pad_id)

    def __len__(self) -> int:
        """Return the number of examples."""
        return sum(map(len, self.positions))

    def order(self) -> Tensor:
        """Return the row of each example among those of all batches, in the user's order."""
        return torch.tensor([position for positions in self.positions for position in positions]).argsort()

    def alone(self) -> Examples:
        """Return the same examples, each in a batch of its own."""
        if self.texts is not None:
            return Examples.of_texts(self.texts, self.pad_id, 1)
        parts = [
            _slice(batch, i, i + 1) for batch in self.batches for i in range(len(next(iter(batch.values()))))
        ]
        return Examples(
            tuple(parts), tuple((position,) for positions in self.positions for position in positions)
        )

    def choose(self, wanted: Sequence[int]) -> Examples:
        """Return the examples at these places of the user's order, in the order given."""
        if self.texts is not None:
            return Examples.of_texts(
                [self.texts[i] for i in wanted], self.pad_id, max(map(len, self.positions))
            )
        at = {
            position: (batch, row)
            for batch, positions in zip(self.batches, self.positions, strict=True)
            for row, position in enumerate(positions)
        }
        return Examples.of_batches([_slice(at[i][0], at[i][1], at[i][1] + 1) for i in wanted])

    def on(self, device: torch.device) -> Iterator[tuple[tuple[int, ...], dict[str, Tensor]]]:
        """Yield each batch on a device, with its examples' places."""
        for positions, batch in zip(self.positions, self.batches, strict=True):
            yield positions, _on(batch, device)

    def extremes(self, device: torch.device) -> tuple[Batch, list[Batch]]:
        """Return two examples in one batch, and each alone: the shortest and the longest text.

        Of examples that are no texts: the first and the last of the largest batch.
        """
        if self.texts is not None:
            ordered = sorted(self.texts, key=lambda text: text.length)
            chosen = [ordered[0], ordered[-1]][: len(ordered)]
            batch: Batch = collate(chosen, self.pad_id)
            alone: list[Batch] = [collate([text], self.pad_id) for text in chosen]
        else:
            largest = max(self.batches, key=lambda each: len(next(iter(each.values()))))
            count = len(next(iter(largest.values())))
            batch = {name: tensor[[0, count - 1][:count]] for name, tensor in largest.items()}
            alone = [_slice(batch, index, index + 1) for index in range(min(count, 2))]
        return _on(batch, device), [_on(each, device) for each in alone]


def fitted(
    model: nn.Module, examples: Examples, trainable: Mapping[str, nn.Parameter]
) -> tuple[Examples, Coverage]:
    """Return the examples in batches that the model keeps apart, and the coverage of its gradients.

    See ``check_model``.
    """
    coverage = check_model(model, trainable, *examples.extremes(device_of(model)))
    return (examples if coverage.batched else examples.alone()), coverage


def logits_of(model: nn.Module, examples: Examples) -> Array:
    """Return the logits [n, c] float64 in eval mode, in the user's order."""
    by_position: dict[int, Tensor] = {}
    with frozen(model), torch.no_grad():
        for positions, batch in examples.on(device_of(model)):
            by_position.update(zip(positions, model(batch).double().cpu(), strict=True))
    return torch.stack([by_position[position] for position in range(len(examples))]).numpy()


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's parameters."""
    return next(model.parameters()).device


def _on(batch: Batch, device: torch.device) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in batch.items()}


def _slice(batch: Batch, start: int, stop: int) -> dict[str, Tensor]:
    return {name: tensor[start:stop] for name, tensor in batch.items()}
