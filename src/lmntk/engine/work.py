"""The record of a piece of work, ``work.json``: whose it is, how it is cut, what its files hold.

Which kernels are missing changes while they are saved; what was begun does not. A run that goes on follows what it finds written down,
finds its tiles so, and ends in the bits of one that was never cut short.
"""

from __future__ import annotations

import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, StringConstraints, TypeAdapter, ValidationError, WrapValidator
from pydantic.dataclasses import dataclass as checked_dataclass

from lmntk.engine.schedule import Schedule
from lmntk.models.parts import Part
from lmntk.system import kept
from lmntk.system.files import write_text
from lmntk.system.precision import FULL

RECORD = "work.json"
IDENTITY = ".lmntk-id"  # in an output folder: a path does not tell it from one of the same name that was moved, or of another machine


@dataclass(frozen=True)
class Claim:
    """Whose a piece of work is, as it is written down.

    Attributes:
        identity: of an output folder, made once.
        path: where that folder is, for a copy has the same identity.
        purposes: what is computed for it, such as the names of splits.
    """

    identity: str
    path: str
    purposes: tuple[str, ...]

    def covers(self, other: Claim) -> bool:
        """Return whether the other is of the same output folder, and for nothing more."""
        same_folder = (self.identity, self.path) == (other.identity, other.path)
        return same_folder and set(other.purposes) <= set(self.purposes)


@dataclass(frozen=True)
class WorkOwner:
    """An output folder that work is done for, and for what of it, such as the names of splits."""

    out: Path
    purposes: tuple[str, ...]

    def claim(self) -> Claim:
        """Return the claim to write down; gives the output folder an identity if it has none."""
        path, identity = self.out / IDENTITY, ""
        with suppress(OSError, ValueError):
            identity = uuid.UUID(path.read_text(encoding="utf8").strip()).hex
        if not identity:  # there is none yet, or it is damaged
            identity = uuid.uuid4().hex
            write_text(path, f"{identity}\n")
        return Claim(identity, str(self.out.resolve()), self.purposes)


@dataclass(frozen=True)
class Piece:
    """Names of splits whose kernels of these formulas are computed together; ``work`` is their work's key."""

    splits: tuple[str, ...]
    formulas: tuple[str, ...]
    work: Annotated[str, StringConstraints(pattern=r"^\w*$")]  # it names a folder that is removed: no path


@dataclass(frozen=True)
class FactorIndex:
    """Which files hold which texts' factors: with it they are of use without the model.

    Attributes:
        orders: by group, the places of its texts in the order of its files.
        pairs: (row group, column group) of the kernels that the work was about.
        adaptable: names of the parameters that are linear maps, which LoRA can adapt.
        precision: of the passes that the factors come from.
        parts: what each parameter is, for targets by name; of earlier versions none.
        adapted: the model was an adapter already, which LoRA does not adapt again.
    """

    orders: dict[str, list[int]]
    pairs: list[tuple[str, str]]
    adaptable: list[str]
    precision: str = FULL
    parts: dict[str, Part] = field(default_factory=dict)
    adapted: bool = False


def _of_this_version(value: Any, checked: Any) -> Any:
    """Return a schedule; None for one of another version, for whose files nobody knows the texts any more."""
    try:
        return checked(value)
    except ValidationError:
        return None


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class WorkRecord:
    """All that is written down of a piece of work; each part from the moment that it is known.

    Attributes:
        claim: whose it is; None of factors that were kept to the end, which nobody sweeps away.
        schedule: the cut that its files follow.
        pieces: the parts in which the kernels of several splits are computed, each with a folder of its own.
        factors: what the files of factors hold that were kept.
    """

    claim: Claim | None = None
    schedule: Annotated[Schedule | None, WrapValidator(_of_this_version)] = None
    pieces: tuple[Piece, ...] = ()
    factors: FactorIndex | None = None
    format: Literal["lmntk-work-1"] = "lmntk-work-1"


_CHECKED = TypeAdapter(WorkRecord)


def read_record(folder: Path) -> WorkRecord:
    """Return the record in a folder of work; an empty one where there is none that can be read."""
    record: WorkRecord | None = kept.or_none(lambda: kept.read_form(folder / RECORD, _CHECKED))
    return record or WorkRecord()


def write_record(folder: Path, record: WorkRecord) -> None:
    """Write a record down in a folder, made if need be, atomically.

    Raises:
        OSError: no room on the disk, or no right to write.
    """
    kept.write_record(folder / RECORD, _CHECKED.dump_python(record, mode="json"))
