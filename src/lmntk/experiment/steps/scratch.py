"""The scratch folders of trainings: claimed by their key, and removed when the record is written."""

from __future__ import annotations

from pathlib import Path

from lmntk.engine.settings import SCRATCH
from lmntk.engine.work import KEY, Owner, claim, sweep
from lmntk.experiment.session import Session
from lmntk.system.hashing import Key


def claimed_folder(session: Session, kind: str, key: Key, record: str) -> Path:
    """Return the scratch folder of a training, made, which says what it is for: a record in the output folder."""
    folder = _root(session) / f"{kind}{key.digest[:KEY]}"
    claim(folder, Owner(session.store.folder, (record,)))
    return folder


def remove_folders(session: Session, kind: str, record: str) -> None:
    """Remove what trainings for a record needed while they ran, those that were begun under other settings too."""
    roots = [session.store.folder / SCRATCH, _root(session)]
    sweep(roots, Owner(session.store.folder, (record,)), kind)


def _root(session: Session) -> Path:
    return session.settings.scratch or session.store.folder / SCRATCH
