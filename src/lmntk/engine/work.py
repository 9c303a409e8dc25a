"""The folder of one piece of work: its schedule, the factors that do not fit into memory, and the tiles that are finished.

Its name is the content's hash, so that a later run finds the same work and nothing else. Every file is there whole or not at all, and
has a checksum; one that is damaged is made anew.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmntk.engine.factor_files import (
    DamagedFileError,
    load_checked,
    open_tangents,
    save_checked,
    save_tangents,
)
from lmntk.errors import UserError
from lmntk.system.files import write_text
from lmntk.system.memory import shown_bytes
from lmntk.tangents.factors import Tangents

SCHEDULE, INDEX, OWNER = "schedule.json", "factors.json", "owner.json"
IDENTITY = ".lmntk-id"  # in an output folder: a path does not tell it from one of the same name that was moved, or of another machine
KEY = 24  # letters of a hash that name a folder


@dataclass(frozen=True)
class Owner:
    """Whose a piece of work is: of an output folder, and what there is computed from it.

    Attributes:
        out: the output folder.
        of: what for, such as the names of splits.
    """

    out: Path
    of: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Returns plain data for a scratch folder: the output folder's identity, made once, and its place, for a copy has the same."""
        path = self.out / IDENTITY
        if not path.is_file() or path.stat().st_size == 0:
            write_text(path, f"{uuid.uuid4().hex}\n")
        return {
            "out": path.read_text(encoding="utf8").strip(),
            "at": str(self.out.resolve()),
            "of": list(self.of),
        }


class Scratch:
    """Files of one piece of work.

    Args:
        root: where scratch folders are.
        key: a hash of all that the work's numbers depend on.
    """

    def __init__(self, root: Path, key: str) -> None:
        self.root = root
        self.folder = root / key[:KEY]

    @classmethod
    def of_this_process(cls, root: Path) -> Scratch:
        """Returns a folder of this process alone, after the removal of those that processes of this machine left that are no more."""
        made, place = cls(root, ""), f"worker-{platform.node()}-"
        for path in root.glob(f"{place}*"):
            if not _is_alive(path.name.removeprefix(place)):
                shutil.rmtree(path, ignore_errors=True)
        made.folder = root / f"{place}{os.getpid()}"
        return made

    def schedule(self) -> dict[str, Any] | None:
        """Returns the schedule that an earlier run followed, if there is one."""
        try:
            found = json.loads((self.folder / SCHEDULE).read_text(encoding="utf8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def keep_schedule(self, schedule: Mapping[str, Any]) -> None:
        """Writes the schedule down: what is computed in another order differs in the last bits."""
        with saying_full(self.folder):
            write_text(self.folder / SCHEDULE, json.dumps(schedule, indent=1, sort_keys=True) + "\n")

    def claim(self, owner: Owner) -> None:
        """Writes down whose the work is, so that ``sweep`` finds it when it is of no use any more."""
        claim(self.folder, owner)

    def save_factors(self, group: str, index: int, tangents: Tangents, device: torch.device) -> Tangents:
        """Writes a batch's factors; returns them as they are read back, parameter by parameter, when the first is asked for checked."""
        path = self.folder / "factors" / self.factors_file(group, index)
        with saying_full(self.folder):
            save_tangents(path, tangents)
        return open_tangents(path, device, verify=False)

    def factors(self, group: str, index: int, device: torch.device) -> Tangents | None:
        """Returns a batch's factors from an earlier run, or None when they are not there, or damaged."""
        try:
            return open_tangents(self.folder / "factors" / self.factors_file(group, index), device)
        except DamagedFileError:
            return None

    def save_tile(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Writes a finished tile."""
        with saying_full(self.folder):
            save_checked(self._path("tiles", name), tensors)

    def tile(self, name: str) -> dict[str, Tensor] | None:
        """Returns a tile from an earlier run, or None when it is not there, or damaged."""
        try:
            return load_checked(self._path("tiles", name))
        except DamagedFileError:
            return None

    def keep_index(self, index: Mapping[str, Any]) -> None:
        """Writes down which files hold which texts' factors: with it they are of use without the model."""
        with saying_full(self.folder):
            write_text(self.folder / INDEX, json.dumps(index, indent=1, sort_keys=True) + "\n")

    def check_room(self, needed: int) -> None:
        """Refuses to start what the disk has no room for.

        Raises:
            UserError: less is free than ``needed`` bytes.
        """
        with saying_full(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        held = sum(path.stat().st_size for path in self.folder.glob("factors/*.safetensors"))
        if needed - held > free:
            raise UserError(
                f"scratch: the factors take about {shown_bytes(needed)} and {str(self.root)!r} has {shown_bytes(free)} free; "
                "name another folder with --scratch, or give more memory"
            )

    def remove(self, keep_factors: bool = False) -> None:
        """Removes what the work needed while it ran; with ``keep_factors`` the tiles alone."""
        shutil.rmtree(self.folder / "tiles" if keep_factors else self.folder, ignore_errors=True)
        if keep_factors:
            (self.folder / OWNER).unlink(missing_ok=True)
        if not keep_factors and self.root.is_dir() and not any(self.root.iterdir()):
            with suppress(OSError):  # not ours to remove, or somebody has just begun work there
                self.root.rmdir()

    @staticmethod
    def factors_file(group: str, index: int) -> str:
        """Returns the name of a batch's file."""
        return f"{group.replace('/', '~')}-{index:08d}.safetensors"

    @staticmethod
    def files_of(folder: Path, group: str) -> list[Path]:
        """Returns the files of a group's factors in a piece of work, in the order of its texts."""
        start = f"{group.replace('/', '~')}-"
        return sorted(
            path
            for path in (folder / "factors").glob(f"{start}*")
            if path.stem.removeprefix(start).isdecimal()
        )

    def _path(self, kind: str, name: str) -> Path:
        return self.folder / kind / f"{name.replace('/', '~')}.safetensors"


def claim(folder: Path, owner: Owner) -> None:
    """Writes down in a scratch folder, made if need be, whose the work is."""
    with saying_full(folder):
        write_text(folder / OWNER, json.dumps(owner.as_dict(), indent=1) + "\n")


def sweep(roots: Iterable[Path], owner: Owner, prefix: str = "") -> None:
    """Removes what earlier runs began for an owner that is done: under other settings, it would never be found again.

    Work of other output folders stays, and of this one before it was moved; work that was for more than the owner's; factors that were
    kept to the end. Whoever calls it is alone in the output folder. Tiles of formulas that were not asked for this time go as well.
    ``prefix``: what the names of folders of this kind of work begin with.
    """
    for root in dict.fromkeys(roots):
        for path in sorted(root.glob(f"{prefix}{'?' * KEY}/{OWNER}")):
            with suppress(OSError, ValueError, KeyError, TypeError):
                found, own = json.loads(path.read_text(encoding="utf8")), owner.as_dict()
                if all(found[name] == own[name] for name in ("out", "at")) and set(found["of"]) <= set(
                    own["of"]
                ):
                    left = Scratch(root, "")
                    left.folder = path.parent
                    left.remove(keep_factors=(path.parent / INDEX).exists())


def _is_alive(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (OSError, ValueError, OverflowError):  # another user's, or no process's
        return True
    return True


@contextmanager
def saying_full(folder: Path) -> Iterator[None]:
    """While the body runs, a disk without room becomes one line that says what to do.

    Raises:
        UserError: the disk is full, or the folder cannot be written to.
    """
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
        reason = "the disk is full" if full else f"cannot write ({error.strerror or error})"
        advice = "make room, or name another folder; what is finished is kept, and the same command goes on from there"
        raise UserError(f"scratch: {reason}: {str(folder)!r}; {advice}") from error
