"""Copies between a GPU and the host: batches in, factors out and in again, a parameter ahead of their use.

Copies go through pinned memory on a stream of their own, beside the arithmetic. Two rules keep them right: what a stream reads was
written by it, or it waits for an event after that; and memory of one stream that another still uses is marked as such, so that the
allocator does not hand it out again. On a processor the same code copies and waits for nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from lmntk.tangents.factors import Tangents
from lmntk.tangents.form import Factors


class Transfers:
    """Copies to and from one device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.is_gpu = device.type == "cuda"
        self.stream: Any = torch.cuda.Stream(device) if self.is_gpu else None  # type: ignore[no-untyped-call]
        self._reader: ThreadPoolExecutor | None = None

    def batch_in(self, batch: Mapping[str, Tensor]) -> Batch:
        """Start to copy a batch from the host; ``ready()`` returns it."""
        return Batch(self, batch)

    def parked(self, tangents: Tangents) -> Tangents:
        """Return tangents whose factors wait in pinned host memory; a tensor of several parameters is copied once.

        Memory: the host's, of each tensor up to twice, for pinned blocks are powers of two.
        """
        made: dict[int, Tensor] = {}

        def park(tensor: Tensor) -> Tensor:
            if id(tensor) not in made:
                made[id(tensor)] = self._out(tensor)
            return made[id(tensor)]

        if self.is_gpu:
            self.stream.wait_stream(torch.cuda.current_stream(self.device))
        waiting = {name: factors.changed(park) for name, factors in tangents.factors.items()}
        return self.fetching(replace(tangents, factors=waiting))

    def fetching(self, tangents: Tangents) -> Tangents:
        """Return tangents whose factors come when they are asked for, the next parameter's beside the work on this one."""
        return replace(
            tangents, logits=tangents.logits.to(self.device), factors=Fetched(tangents.factors, self)
        )

    def _out(self, tensor: Tensor) -> Tensor:
        if not self.is_gpu:
            return tensor.to("cpu", copy=True)
        pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        with torch.cuda.stream(self.stream):
            pinned.copy_(tensor, non_blocking=True)
        tensor.record_stream(self.stream)
        return pinned

    def start(self, factors: Mapping[str, Factors], name: str) -> Future[tuple[Factors, Any]]:
        """Start to bring one parameter's factors in, from the host or from disk; a thread waits for the disk."""
        if self._reader is None:
            self._reader = ThreadPoolExecutor(1, thread_name_prefix="lmntk-transfers")
        return self._reader.submit(self._in, factors, name)

    def _in(self, factors: Mapping[str, Factors], name: str) -> tuple[Factors, Any]:
        if not self.is_gpu:
            return factors[name].changed(lambda tensor: tensor.to(self.device)), None
        with torch.cuda.stream(self.stream):
            brought = factors[name].changed(self._pinned_in)
            return brought, self.stream.record_event()

    def _pinned_in(self, tensor: Tensor) -> Tensor:
        pinned = tensor if tensor.is_pinned() else tensor.pin_memory()
        return pinned.to(self.device, non_blocking=True)

    def finish(self, brought: Factors, event: Any) -> Factors:
        """Return factors that have been brought in, for the stream that asks."""
        if event is None:
            return brought
        computing = torch.cuda.current_stream(self.device)
        computing.wait_event(event)
        return brought.changed(lambda tensor: _used_by(tensor, computing))


def _used_by(tensor: Tensor, stream: Any) -> Tensor:
    tensor.record_stream(stream)
    return tensor


class Batch:
    """Token ids on their way to the device."""

    def __init__(self, transfers: Transfers, batch: Mapping[str, Tensor]) -> None:
        self._transfers, self._event = transfers, None
        if not transfers.is_gpu:
            self._batch = {name: tensor.to(transfers.device) for name, tensor in batch.items()}
            return
        with torch.cuda.stream(transfers.stream):
            self._batch = {
                name: tensor.pin_memory().to(transfers.device, non_blocking=True)
                for name, tensor in batch.items()
            }
            self._event = transfers.stream.record_event()

    def ready(self) -> dict[str, Tensor]:
        """Return the batch, for the stream that asks."""
        if self._event is not None:
            computing = torch.cuda.current_stream(self._transfers.device)
            computing.wait_event(self._event)
            for tensor in self._batch.values():
                tensor.record_stream(computing)
        return self._batch


class Fetched(Mapping[str, Factors]):
    """Factors by parameter that live elsewhere; when one is asked for, the next is on its way.

    Memory of the device: one parameter's factors beside those in use.
    """

    def __init__(self, factors: Mapping[str, Factors], transfers: Transfers) -> None:
        self.factors, self.transfers = factors, transfers
        names = list(factors)
        self._following = dict(pairwise(names))
        self._ahead: tuple[str, Future[tuple[Factors, Any]]] | None = None

    def __getitem__(self, name: str) -> Factors:
        if name not in self.factors:
            raise KeyError(name)
        ahead, self._ahead = self._ahead, None
        coming = (
            ahead[1] if ahead is not None and ahead[0] == name else self.transfers.start(self.factors, name)
        )
        brought = self.transfers.finish(*coming.result())
        following = self._following.get(name)
        if following is not None:
            self._ahead = following, self.transfers.start(self.factors, following)
        return brought

    def __contains__(self, name: object) -> bool:
        return name in self.factors

    def __iter__(self) -> Iterator[str]:
        return iter(self.factors)

    def __len__(self) -> int:
        return len(self.factors)
