"""The scratch folders of trainings: claimed by their key, and removed when the record is written."""

from __future__ import annotations

from pathlib import Path

from lmntk.engine.settings import SCRATCH
from lmntk.engine.work import WorkOwner
from lmntk.engine.work_folder import WorkFolder
from lmntk.experiment.session import Session
from lmntk.system.hashing import Key


def scratch_folder(session: Session) -> Path:
    """Return the folder for all scratch folders of a run."""
    return session.settings.scratch or session.store.folder / SCRATCH


def claimed_folder(session: Session, kind: str, key: Key, record: str) -> Path:
    """Return the scratch folder of a training, made, which says what it is for: a record in the output folder."""
    work = WorkFolder(scratch_folder(session), key.digest, kind)
    work.write_down(WorkOwner(session.store.folder, (record,)))
    return work.folder


def remove_folders(session: Session, kind: str, record: str) -> None:
    """Remove what trainings for a record needed while they ran, those that were begun under other settings too."""
    WorkFolder.sweep(WorkOwner(session.store.folder, (record,)), session.settings.scratch, kind)
