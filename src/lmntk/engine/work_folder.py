"""The folder of one piece of work: its record, its factors that memory does not hold, its finished tiles.

Its name is the content's hash, so that a later run finds the same work and nothing else. Every file is there whole or not at all, and
has a checksum; one that is damaged is made anew.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import torch

from lmntk.engine.factor_files import open_tangents, save_tangents
from lmntk.engine.schedule import Schedule
from lmntk.engine.settings import SCRATCH, Settings
from lmntk.engine.tiles import Job, Tile
from lmntk.engine.work import FactorIndex, Piece, WorkOwner, WorkRecord, read_record, write_record
from lmntk.errors import UserError
from lmntk.system import kept
from lmntk.system.files import FULL_DISK
from lmntk.system.memory import shown_bytes
from lmntk.tangents.factors import Tangents

KEY = 24  # letters of a hash that name a folder


class WorkFolder:
    """The files of one piece of work.

    Args:
        root: the scratch folder, in which folders of work are.
        key: a hash of all that the work's numbers depend on.
        kind: begins the names of folders of other work than kernels.
    """

    def __init__(self, root: Path, key: str, kind: str = "") -> None:
        self.root = root
        self.folder = root / f"{kind}{key[:KEY]}"

    @classmethod
    def of(cls, settings: Settings, key: str) -> WorkFolder | None:
        """Return the folder of the work with this key; None without a scratch folder, or without a key."""
        return None if settings.scratch is None or not key else cls(settings.scratch, key)

    @classmethod
    def at(cls, folder: Path) -> WorkFolder:
        """Return the work in a folder."""
        return cls(folder.parent, "", folder.name)

    @classmethod
    def of_this_process(cls, root: Path) -> WorkFolder:
        """Return a folder of this process alone; remove those of this machine's processes that are no more."""
        kind = f"worker-{platform.node()}-"
        for path in root.glob(f"{kind}*"):
            if not _is_alive(path.name.removeprefix(kind)):
                shutil.rmtree(path, ignore_errors=True)
        return cls(root, str(os.getpid()), kind)

    def record(self) -> WorkRecord:
        """Return what is written down of the work, by an earlier run or this one."""
        return read_record(self.folder)

    def write_down(
        self,
        owner: WorkOwner | None = None,
        *,
        schedule: Schedule | None = None,
        pieces: Sequence[Piece] | None = None,
        factors: FactorIndex | None = None,
    ) -> None:
        """Write down what is known now, beside what is written down already; makes the folder.

        Raises:
            UserError: the disk is full.
        """
        before = self.record()
        with reporting_full_disk(self.folder):
            record = WorkRecord(
                before.claim if owner is None else owner.claim(),
                schedule or before.schedule,
                before.pieces if pieces is None else tuple(pieces),
                factors or before.factors,
            )
            write_record(self.folder, record)

    @classmethod
    def sweep(cls, owner: WorkOwner, scratch: Path | None, kind: str = "") -> None:
        """Remove what earlier runs began for an owner that is done.

        What was begun under other settings would never be found again. Work of other output folders stays, and of this one before
        it was moved; work that was for more than the owner's; factors that were kept to the end. Whoever calls it is alone in the
        output folder. Tiles of formulas that were not asked for this time go too.

        Args:
            owner: who is done; the scratch folder in its output folder is swept in any case.
            scratch: another one.
            kind: of the work to remove.
        """
        roots = [owner.out.resolve() / SCRATCH, *([] if scratch is None else [scratch])]
        for root in dict.fromkeys(roots):
            for folder in sorted(root.glob(f"{kind}{'?' * KEY}")):
                record = read_record(folder)
                with suppress(OSError, UserError):
                    if record.claim is not None and owner.claim().covers(record.claim):
                        cls.at(folder).remove(keep_factors=record.factors is not None)

    @classmethod
    def finish(cls, settings: Settings, key: str) -> None:
        """Remove work whose kernels are kept elsewhere now; with ``keep_factors`` the tiles alone."""
        work = cls.of(settings, key)
        if work is not None:
            work.remove(settings.keep_factors)

    def remove(self, keep_factors: bool = False) -> None:
        """Remove the folder; with ``keep_factors`` the tiles alone, and nobody sweeps the rest."""
        if keep_factors:
            shutil.rmtree(self.folder / "tiles", ignore_errors=True)
            record = self.record()
            if record.claim is not None:
                with reporting_full_disk(self.folder):
                    write_record(self.folder, replace(record, claim=None))
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.root.is_dir() and not any(self.root.iterdir()):
            with suppress(OSError):  # not ours to remove, or somebody has just begun work there
                self.root.rmdir()

    def save_factors(self, group: str, index: int, tangents: Tangents, device: torch.device) -> Tangents:
        """Write a batch's factors; return them as they are read back, checked when the first is asked for."""
        path = self.folder / "factors" / self.factors_file(group, index)
        with reporting_full_disk(self.folder):
            save_tangents(path, tangents)
        return open_tangents(path, device, verify=False)

    def factors(self, group: str, index: int, device: torch.device) -> Tangents | None:
        """Return a batch's factors from an earlier run, or None when they are not there, or damaged."""
        path = self.folder / "factors" / self.factors_file(group, index)
        return kept.or_none(lambda: open_tangents(path, device))

    def factor_files(self, group: str) -> list[Path]:
        """Return the files of a group's factors, in the order of its texts."""
        start = f"{group.replace('/', '~')}-"
        return sorted(
            path
            for path in (self.folder / "factors").glob(f"{start}*")
            if path.stem.removeprefix(start).isdecimal()
        )

    def save_tile(self, job: Job, tile: Tile) -> None:
        """Write a finished tile."""
        with reporting_full_disk(self.folder):
            kept.save_tensors(self._tile_file(job), tile.as_tensors())

    def tile(self, job: Job) -> Tile | None:
        """Return a tile from an earlier run, or None when it is not there, or damaged."""
        path = self._tile_file(job)

        def read() -> Tile:
            try:
                tile = Tile.of_tensors(kept.load_tensors(path)[0])
                if tile.column_logits.ndim == 2 and len(tile.column_logits) == job.stop - job.start:
                    return tile
            except (KeyError, ValueError, RuntimeError) as error:
                if isinstance(error, kept.DamagedError):
                    raise
            raise kept.DamagedError(path, "it is not a tile of these texts")

        return kept.or_none(read)

    def check_room(self, needed: int) -> None:
        """Refuse to start what the disk has no room for.

        Raises:
            UserError: less is free than ``needed`` bytes.
        """
        with reporting_full_disk(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        held = sum(path.stat().st_size for path in self.folder.glob("factors/*.safetensors"))
        if needed - held > free:
            raise UserError(
                f"scratch: the factors take about {shown_bytes(needed)} and {str(self.root)!r} has {shown_bytes(free)} free; "
                "name another folder with --scratch, or give more memory"
            )

    @staticmethod
    def factors_file(group: str, index: int) -> str:
        """Return the name of a batch's file."""
        return f"{group.replace('/', '~')}-{index:08d}.safetensors"

    def _tile_file(self, job: Job) -> Path:
        return self.folder / "tiles" / f"{job.name.replace('/', '~')}.safetensors"


def _is_alive(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (OSError, ValueError, OverflowError):  # another user's, or no process's
        return True
    return True


@contextmanager
def reporting_full_disk(folder: Path) -> Iterator[None]:
    """Turn a disk without room into one line that says what to do.

    Raises:
        UserError: the disk is full, or the folder cannot be written to.
    """
    try:
        yield
    except OSError as error:
        full = error.errno in FULL_DISK
        reason = "the disk is full" if full else f"cannot write ({error.strerror or error})"
        advice = "make room, or name another folder; what is finished is kept, and the same command goes on from there"
        raise UserError(f"scratch: {reason}: {str(folder)!r}; {advice}") from error
