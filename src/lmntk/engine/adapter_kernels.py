"""Kernels of adapters that do not start at B = 0: of their own parameters, on the network with the adapter in it.

They are no projections of the adapted layers' kernels (``lmntk.kernels.lora``), so each needs passes of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from lmntk.engine.kernel_work import KernelWork, Pair
from lmntk.engine.progress import Listener
from lmntk.engine.settings import Settings
from lmntk.engine.stream import stream_kernels, whole
from lmntk.models.started_adapters import OwnStart, started_adapter


@dataclass(frozen=True)
class AdapterCandidate:
    """An adapter with a start of its own, as a candidate for what to train.

    Attributes:
        name: under which its kernels come back.
        weights: the names of the linear maps' matrices that it adapts.
        rank: its rank.
        init: its start.
        alpha: its scale is alpha / rank; None: one.
    """

    name: str
    weights: tuple[str, ...]
    rank: int
    init: OwnStart
    alpha: float | None = None


def adapter_kernels(
    work: KernelWork,
    candidates: Sequence[AdapterCandidate],
    settings: Settings | None = None,
    listener: Listener | None = None,
) -> dict[Pair, dict[str, dict[str, Tensor]]]:
    """Return ``{(row group, column group): {candidate: {kernel name: [n, c, m, d]}}}``, as ``Streamed.subspaces``.

    Args:
        work: on the model without an adapter; its parameters that count are not looked at.
        candidates: each is put on the model in turn, and taken off.
        settings: of each candidate's computation; nothing is kept from one run to the next.
        listener: who is told how far each is.

    Cost: of each candidate what ``stream_kernels`` takes of so many parameters.

    Raises:
        UserError: as ``started_adapter``, and as ``stream_kernels``.
    """
    kernels: dict[Pair, dict[str, dict[str, Tensor]]] = {pair: {} for pair in work.pairs}
    for candidate in candidates:
        with started_adapter(
            work.model, candidate.weights, candidate.rank, candidate.init, candidate.alpha
        ) as parameters:
            streamed = stream_kernels(replace(work, trainable=parameters, subspaces=None), settings, listener)
        for pair, found in streamed.kernels.items():
            kernels[pair][candidate.name] = {name: whole(groups) for name, groups in found.items()}
    return kernels
