"""A bound on memory, and the one search for a cut of the work that keeps to it.

Work goes through phases, such as capturing and contracting. A cut of it, such as its batch size, says what each phase holds at most, of
the host's memory and of a GPU's (``phases``). A search takes the first cut that is offered and holds no more than is allowed in any phase.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from lmntk.errors import UserError
from lmntk.system.memory import shown_bytes

ROOMY = 1.3  # times what is held at most, with freed memory that lies in pieces
Cut = TypeVar("Cut")


@dataclass(frozen=True)
class Bytes:
    """Memory that is held at once: of the host, and of a GPU."""

    host: float = 0
    gpu: float = 0


Phases = Mapping[str, Bytes]  # by the phase's name, what it holds at most


def most_held(phases: Phases) -> Bytes:
    """Return the most that is held in any phase."""
    held = phases.values()
    return Bytes(max(each.host for each in held), max(each.gpu for each in held))


@dataclass(frozen=True)
class Budget:
    """Memory that may be held.

    Attributes:
        memory: bytes of the host's that a process may hold, the model included; None does not bound it.
        device_memory: bytes that tensors may take of a GPU, the weights included; None without a GPU.
        processes: that each have so much memory, on a machine that has so many times as much: an error says what to give the machine.
    """

    memory: int | None = None
    device_memory: int | None = None
    processes: int = 1

    def allows(self, needed: Bytes) -> bool:
        """Return whether so much may be held."""
        return _within(needed.host, self.memory) and _within(needed.gpu, self.device_memory)

    def too_little(self, least: Sequence[Bytes], purpose: str = "this", advice: str = "") -> UserError:
        """Return the error of a budget that is too small.

        Args:
            least: what the smallest cuts hold, of which none is allowed; it is enough to have room for one of them.
            purpose: what the memory is for.
            advice: what could be done beside giving more of the host's memory.
        """
        host = min(needed.host for needed in least)
        possible = [needed for needed in least if _within(needed.host, self.memory)]
        if self.device_memory is not None and possible:
            gpu = min(needed.gpu for needed in possible)
            return _too_little("device-memory", self.device_memory, purpose, gpu)
        owner, fewer = "", ""
        if self.processes > 1:
            owner, fewer = f" for the {self.processes} processes of a machine", ", or give fewer --workers"
        memory, enough = (self.memory or 0) * self.processes, host * self.processes
        return _too_little("memory", memory, purpose, enough, owner, advice + fewer)


def is_roomy(held: float, memory: int) -> bool:
    """Return whether freed memory may be kept: pieces of it that nothing fits into stay within the bound."""
    return ROOMY * held <= memory


class Search(Generic[Cut]):
    """Search for cuts that keep to a budget.

    Args:
        budget: what may be held.
        phases: from a cut to what its phases hold.
    """

    def __init__(self, budget: Budget, phases: Callable[[Cut], Phases]) -> None:
        self.budget, self.phases = budget, phases

    def held(self, cut: Cut) -> Bytes:
        """Return the most that a cut holds in any phase."""
        return most_held(self.phases(cut))

    def fits(self, cut: Cut) -> bool:
        """Return whether no phase of a cut holds more than is allowed."""
        return self.budget.allows(self.held(cut))

    def first(
        self, cuts: Iterable[Cut], least: Iterable[Cut], purpose: str = "this", advice: str = ""
    ) -> Cut:
        """Return the first cut that fits.

        Args:
            cuts: in the order of preference.
            least: those that hold the least, for the error where none fits.
            purpose: what the memory is for.
            advice: what could be done beside giving more of the host's memory.

        Raises:
            UserError: none fits; says which option gives too little, and the least that works.
        """
        for cut in cuts:
            if self.fits(cut):
                return cut
        raise self.budget.too_little([self.held(cut) for cut in least], purpose, advice)

    def last(self, start: Cut, larger: Iterable[Cut]) -> Cut:
        """Return the last of ever larger cuts before one that does not fit, or the cut to start from."""
        for cut in larger:
            if not self.fits(cut):
                break
            start = cut
        return start


def _within(size: float, allowed: int | None) -> bool:
    return allowed is None or size <= allowed


def _too_little(
    option: str, given: int, purpose: str, least: float, owner: str = "", advice: str = ""
) -> UserError:
    enough = f"{-(-int(least) // 2**20)}MiB"  # as the option takes it, no smaller
    return UserError(
        f"{option}: {shown_bytes(given)}{owner} is too little for {purpose}; the least is {enough}{advice}"
    )
