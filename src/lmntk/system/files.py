"""Files that are there whole or not at all, and folders that one process at a time writes to."""

from __future__ import annotations

import errno
import os
import platform
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from lmntk.errors import UserError

if TYPE_CHECKING:
    import numpy as np

LOCK = ".lmntk-lock"


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


def save_tensors(path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Write arrays to a safetensors file under a temporary name, then rename it."""
    import numpy as np
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with replacing(path) as temporary:
        try:
            save_file(
                {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in tensors.items()},
                temporary,
                metadata,
            )
        except SafetensorError as error:  # how the writer wraps what the disk says
            raise OSError(errno.ENOSPC if "No space left" in str(error) else errno.EIO, str(error)) from error


def load_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the arrays and the metadata of a safetensors file.

    Raises:
        UserError: no such file, or not a whole safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UserError(f"kernel: no file {path}; compute it with `lmntk kernel`")
    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            return {name: file.get_tensor(name).numpy() for name in names}, dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"kernel: {path} is not a readable safetensors file ({error}); delete it and compute it again"
        ) from error


def metadata_of(path: Path) -> dict[str, str] | None:
    """Return the metadata of a safetensors file; None where there is no such file, or a damaged one."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError):
        return None


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
    with suppress(OSError):  # Windows: nobody reads a file that is locked
        return path.read_text(encoding="utf8").strip() or "another process"
    return "another process"


def _write_holder(path: Path, holder: str) -> None:
    with suppress(OSError):
        path.write_text(holder, encoding="utf8")
