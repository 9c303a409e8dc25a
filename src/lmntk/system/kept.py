"""Files that are kept and read again: records and tensors with checksums, so that a flipped bit is told from a number.

Every file that a later process reads goes through here. A record is a JSON object with its checksum inside. Tensors are a
safetensors file whose metadata has a checksum of each of them, and one of the metadata. They are compared when a process first
reads the file. The checksum is CRC-32, which no single flipped bit and no cut passes; it is no defence against an attacker.
"""

from __future__ import annotations

import errno
import json
import logging
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lmntk.errors import UserError
from lmntk.system.files import replacing, reporting_disk, write_text

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

Result = TypeVar("Result")
CHECKSUM, CHECKSUMS = "checksum", "checksums"  # in a record, and in the metadata of tensors
BLOCK = 1 << 22  # bytes that are read at once
ABSENT = (errno.ENOENT, errno.ENOTDIR)

_log = logging.getLogger("lmntk")  # one line on stderr, from any process
_verified: set[tuple[str, int, int, int]] = (
    set()
)  # files of this process, as they were when they were compared
_named: set[str] = set()
_may_lack: ContextVar[bool] = ContextVar("may_lack", default=False)


class DamagedError(UserError):
    """A file that is not what was written: cut short, changed, or of another form."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, " ".join(reason.split())[:200]

    def __str__(self) -> str:
        return f"{str(self.path)!r} is damaged ({self.reason}); run again what wrote it, or delete it"


@contextmanager
def without_checksums() -> Iterator[None]:
    """Let files without checksums be read while the body runs: those of the first format, and those of others."""
    token = _may_lack.set(True)
    try:
        yield
    finally:
        _may_lack.reset(token)


def or_none(read: Callable[[], Result]) -> Result | None:
    """Return what is read; None of a file that is missing, and of one that is damaged, which is named once."""
    try:
        return read()
    except FileNotFoundError:
        return None
    except DamagedError as error:
        name_damage(error)
        return None


def name_damage(error: DamagedError) -> None:
    """Say on stderr, once for each file, that it is damaged and left out."""
    if str(error.path) not in _named:
        _named.add(str(error.path))
        _log.warning(
            "lmntk: %r is damaged (%s): it is left out; a run makes it anew",
            str(error.path), error.reason,
        )  # fmt: skip


# --- records ----------------------------------------------------------------------------------------------------------------------


def write_record(path: Path, content: Mapping[str, Any]) -> None:
    """Write plain data as a JSON object with its checksum, atomically."""
    marked = {**content, CHECKSUM: _of_plain(content)}
    write_text(path, json.dumps(marked, indent=1, sort_keys=True) + "\n")


def read_record(path: Path) -> dict[str, Any]:
    """Return the data of a record, numbers that are not finite as None.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedError: it is no JSON object, or its checksum differs, or is not there.
    """
    with _damage(path):
        content = json.loads(path.read_text(encoding="utf8"), parse_constant=lambda _: None)
        if not isinstance(content, dict):
            raise DamagedError(path, "it holds no record")
        if CHECKSUM not in content:
            _check_lack(path)
        elif content.pop(CHECKSUM) != _of_plain(content):
            raise DamagedError(path, "its checksum differs")
        return content


def read_form(path: Path, form: Any) -> Any:
    """Return a record as a type that pydantic knows.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedError: it is damaged, or of another form.
    """
    from pydantic import TypeAdapter, ValidationError

    content = read_record(path)
    try:
        return (form if isinstance(form, TypeAdapter) else TypeAdapter(form)).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DamagedError(path, f"it is not a record of its kind: {where} {first['msg'].lower()}") from error


def _check_lack(path: Path) -> None:
    """Refuse a file without a checksum, but where one may lack it."""
    if not _may_lack.get():
        raise DamagedError(path, "it has no checksum")


def _of_plain(content: Mapping[str, Any]) -> str:
    plain = json.loads(json.dumps(content), parse_constant=lambda _: None)  # as it will be read
    return _hex(zlib.crc32(json.dumps(plain, sort_keys=True).encode()))


# --- tensors ----------------------------------------------------------------------------------------------------------------------


class TensorFile:
    """An open file of tensors; each is compared with its checksum when it is read."""

    def __init__(self, path: Path, file: Any, is_verified: bool) -> None:
        self.path, self._file, self.names = path, file, list(file.keys())
        stored = dict(file.metadata() or {})
        checksums = json.loads(stored.pop(CHECKSUMS, "null"))
        if checksums is None:
            _check_lack(path)
        self.metadata: dict[str, str] = stored
        self._checksums: dict[str, str] | None = None
        if checksums is not None and not is_verified:
            self._checksums = checksums["tensors"]
            if checksums["metadata"] != _of_plain(stored):
                raise DamagedError(path, "the checksum of its metadata differs")
            if set(checksums["tensors"]) != set(self.names):
                raise DamagedError(path, "its tensors are not those that were written")

    def tensor(self, name: str) -> Tensor:
        """Return a tensor.

        Raises:
            DamagedError: its checksum differs.
        """
        found: Tensor = self._file.get_tensor(name)
        if self._checksums is not None and self._checksums[name] != _of_tensor(found):
            raise DamagedError(self.path, f"the checksum of {name!r} differs")
        return found


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor | np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors with their checksums to a safetensors file, atomically.

    Raises:
        OSError: no room on the disk, or no right to write.
    """
    import torch
    from safetensors.torch import save_file

    content = {
        name: (torch.as_tensor(tensor) if isinstance(tensor, torch.Tensor) else _from_array(tensor))
        .detach().cpu().contiguous()
        for name, tensor in tensors.items()
    }  # fmt: skip
    starts = Counter(tensor.untyped_storage().data_ptr() for tensor in content.values())
    # the format has no views: of what lies in the same memory, seen in two ways, each gets its own
    content = {
        name: tensor.clone() if starts[tensor.untyped_storage().data_ptr()] > 1 else tensor
        for name, tensor in content.items()
    }
    stored = dict(metadata or {})
    checksums = {
        "metadata": _of_plain(stored),
        "tensors": {name: _of_tensor(tensor) for name, tensor in content.items()},
    }
    with replacing(path) as temporary, reporting_disk():
        save_file(content, temporary, {**stored, CHECKSUMS: json.dumps(checksums, sort_keys=True)})


@contextmanager
def opened(path: Path) -> Iterator[TensorFile]:
    """Open a file of tensors.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedError: it is no safetensors file, or its metadata, or a tensor that is read, is not what was written.
    """
    from safetensors import safe_open

    with _damage(path), safe_open(path, "pt") as file:
        yield TensorFile(path, file, _identity(path) in _verified)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a file; see ``opened``."""
    with opened(path) as file:
        tensors = {name: file.tensor(name) for name in file.names}
        if not _may_lack.get():
            _verified.add(_identity(path))
        return tensors, file.metadata


def load_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return ``load_tensors`` as arrays; what numpy has no type for is damage."""
    with _damage(path):
        tensors, metadata = load_tensors(path)
        return {name: tensor.numpy() for name, tensor in tensors.items()}, metadata


def metadata_of(path: Path) -> dict[str, str]:
    """Return the metadata of a file of tensors, which alone is read and compared."""
    with opened(path) as file:
        return file.metadata


def verify(path: Path) -> None:
    """Compare all checksums of a file of tensors, or of a record, once in this process.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedError: it is not what was written.
    """
    with _damage(path):
        if (identity := _identity(path)) in _verified:
            return
        if path.suffix == ".json":
            read_record(path)
        else:
            with opened(path) as file:
                for name in file.names:
                    file.tensor(name)
        if not _may_lack.get():
            _verified.add(identity)


def is_whole(path: Path) -> bool:
    """Return whether a file is there and what was written; a damaged one is named."""

    def read() -> bool:
        verify(path)
        return True

    return or_none(read) is True


# --- files of others --------------------------------------------------------------------------------------------------------------


def checksums_of(folder: Path, without: Sequence[str] = ()) -> dict[str, str]:
    """Return the checksums of the files in a folder that a library wrote, by their names, to be kept in a record."""
    return {
        path.name: _of_file(path)
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name not in without
    }


def compare(folder: Path, checksums: Mapping[str, str]) -> None:
    """Compare the files in a folder with their checksums.

    Raises:
        DamagedError: one is missing, or is not what was written.
    """
    for name, checksum in checksums.items():
        path = folder / Path(name).name
        with _damage(path):
            if not path.is_file() or _of_file(path) != checksum:
                raise DamagedError(path, "its checksum differs" if path.is_file() else "it is missing")


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Turn what libraries say of a file's content into damage; what the system says, of rights or of open files, into one line."""
    from safetensors import SafetensorError

    try:
        yield
    except UserError:
        raise
    except OSError as error:
        if error.errno in ABSENT or isinstance(error, FileNotFoundError):
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path)) from error
        if path.is_dir():
            raise DamagedError(path, "it is a folder") from error
        raise UserError(
            f"cannot read {str(path)!r} ({error.strerror or error}); make it readable, and run again"
        ) from error
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(path, f"{type(error).__name__}: {error}") from error


def _identity(path: Path) -> tuple[str, int, int, int]:
    found = path.stat()
    return str(path), found.st_ino, found.st_size, found.st_mtime_ns


def _of_file(path: Path) -> str:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            checksum = zlib.crc32(block, checksum)
    return _hex(checksum)


def _from_array(array: np.ndarray) -> Tensor:
    import numpy as np
    import torch

    return torch.from_numpy(np.ascontiguousarray(array))


def _of_tensor(tensor: Tensor) -> str:
    import torch

    checksum = zlib.crc32(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    if tensor.numel():
        checksum = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, checksum)
    return _hex(checksum)


def _hex(checksum: int) -> str:
    return f"{checksum:08x}"
