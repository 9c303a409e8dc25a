"""Files that are there whole or not at all, and folders that one process at a time writes to."""

from __future__ import annotations

import os
import platform
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lmntk.errors import UserError

LOCK = ".lmntk-lock"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path``, which takes its place when the body has ended without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf8")


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keeps other processes of lmntk out of a folder while the body runs; the system lets go of it when a process is killed.

    Makes the folder; after a mistake of the user's one that was made and holds nothing is removed again.

    Raises:
        UserError: another process is in it.
    """
    try:
        import fcntl
    except ImportError:  # Windows: nobody is kept out
        yield
        return
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            who = file.read().strip() or "another process"
            raise UserError(
                f"out: {who} of lmntk works in {str(folder)!r}; wait until it ends, or name another folder"
            ) from None
        except OSError:  # a file system without locks
            yield
            return
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        try:
            yield
        except UserError:
            if is_new and [one.name for one in folder.iterdir()] == [LOCK]:
                path.unlink()
                folder.rmdir()
            raise
        finally:
            file.truncate(0)
