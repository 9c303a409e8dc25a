"""Files of a run, whose names end in the first letters of their key."""

from __future__ import annotations

from pathlib import Path


def kept_at(path: Path) -> Path:
    """Return the one file or folder that a run named by this name and a key."""
    (found,) = path.parent.glob(f"{path.stem}-????????{path.suffix}")
    return found


def latest_at(path: Path) -> Path:
    """Return the file of this name that was written last; those of other settings lie beside it."""
    found = path.parent.glob(f"{path.stem}-????????{path.suffix}")
    return max(found, key=lambda one: one.stat().st_mtime_ns)
