"""Files that are there whole or not at all, and folders that one process at a time writes to."""

from __future__ import annotations

import errno
import os
import platform
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lmntk.errors import UserError

LOCK = ".lmntk-lock"
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DISK_ERRORS = {
    "No space left": errno.ENOSPC,
    "os error 28)": errno.ENOSPC,
    "File too large": errno.EFBIG,
    "uota exceeded": errno.EDQUOT,
    "PytorchStreamWriter": errno.EIO,  # torch does not say why
    "unexpected pos": errno.EIO,
}


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path that takes the place of ``path`` when the body has ended without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf8")


@contextmanager
def reporting_disk() -> Iterator[None]:
    """Turn what libraries say of a disk that takes no more into an ``OSError``: each has an error of its own.

    Raises:
        OSError: no room on the disk, or another reason why a file could not be written.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        number = next((code for words, code in DISK_ERRORS.items() if words in str(error)), None)
        if number is None:
            raise
        raise OSError(number, os.strerror(number)) from error


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes of lmntk out of a folder while the body runs.

    The system lets go of it when a process is killed. The folder is made if need be, and removed again after a mistake of the user's
    if nothing is in it.

    Raises:
        UserError: another process is in it.
    """
    from filelock import FileLock, Timeout

    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    path.touch()
    # a soft lock is the mere existence of a file, which a killed process leaves behind
    lock = FileLock(path, timeout=0, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"out: {_holder(path)} of lmntk works in {str(folder)!r}; wait until it ends, or name another folder"
        ) from None
    except OSError:  # a file system without locks
        yield
        return
    try:
        _write_holder(path, f"process {os.getpid()} on {platform.node()}")
        yield
    except UserError:
        if is_new and [file.name for file in folder.iterdir()] == [LOCK]:
            path.unlink()
            folder.rmdir()
        raise
    finally:
        if path.exists():
            _write_holder(path, "")
        lock.release()


def _holder(path: Path) -> str:
    with suppress(OSError, ValueError):  # Windows: nobody reads a file that is locked
        return path.read_text(encoding="utf8").strip() or "another process"
    return "another process"


def _write_holder(path: Path, holder: str) -> None:
    with suppress(OSError):
        path.write_text(holder, encoding="utf8")
