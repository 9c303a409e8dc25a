"""Tangents of a batch in one safetensors file, with a checksum.

They are read back parameter by parameter, so that a panel needs no memory. The file's metadata says, for each parameter, the form of its
factors and which tensors they are made of. A tensor that several share (one input under query, key and value) is written once.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmntk.system.files import replacing
from lmntk.tangents.factors import Tangents
from lmntk.tangents.form import Factors

FORMAT = "lmntk-factors-1"
LOGITS = "logits"


class DamagedFileError(ValueError):
    """A file that is not what was written: cut short, changed, or not of this format."""


class _Tensors:
    """Names for tensors, one for those that are the same memory seen in the same way."""

    def __init__(self) -> None:
        self.by_name: dict[str, Tensor] = {}
        self._names: dict[tuple[Any, ...], str] = {}

    def name(self, tensor: Tensor) -> str:
        key = (
            tensor.untyped_storage().data_ptr(),
            tensor.storage_offset(),
            tuple(tensor.shape),
            tensor.stride(),
            tensor.dtype,
        )
        if key not in self._names:
            self._names[key] = str(len(self._names))
            self.by_name[self._names[key]] = tensor
        return self._names[key]


def save_tangents(path: Path, tangents: Tangents) -> None:
    """Write a batch's tangents, atomically.

    Raises:
        OSError: no room on the disk, or no right to write.
    """
    tensors = _Tensors()
    forms = json.dumps({name: factors.described(tensors.name) for name, factors in tangents.factors.items()})
    save_checked(path, tensors.by_name | {LOGITS: tangents.logits}, forms)


def open_tangents(path: Path, device: torch.device | None = None, verify: bool = True) -> Tangents:
    """Return the tangents in a file; a parameter's factors are read when they are asked for, each time.

    Args:
        path: what ``save_tangents`` wrote.
        device: where the factors go when they are read.
        verify: compare the checksum now, which reads the whole file; otherwise when the first factors are asked for.

    Raises:
        DamagedFileError: no such file, or not what was written.
    """
    with _opened(path, verify) as (file, description):
        return Tangents(
            file.get_tensor(LOGITS).to(device).clone(),
            FactorsInFile(path, json.loads(description), device, verify),
        )


def save_checked(path: Path, tensors: Mapping[str, Tensor], description: str = "") -> None:
    """Write tensors with a description and a checksum over both, atomically.

    Raises:
        OSError: no room on the disk, or no right to write.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    starts = Counter(tensor.untyped_storage().data_ptr() for tensor in content.values())
    # the format has no views: of what lies in the same memory, seen in two ways, each gets its own
    content = {
        name: tensor.clone() if starts[tensor.untyped_storage().data_ptr()] > 1 else tensor
        for name, tensor in content.items()
    }
    metadata = {
        "format": FORMAT,
        "description": description,
        "checksum": str(_checksum(description, content, content.__getitem__)),
    }
    with replacing(path) as temporary:
        try:
            save_file(content, temporary, metadata)
        except SafetensorError as error:  # how the writer wraps what the disk says
            raise OSError(str(error)) from error


def load_checked(path: Path) -> dict[str, Tensor]:
    """Return the tensors that ``save_checked`` wrote.

    Raises:
        DamagedFileError: no such file, or not what was written.
    """
    with _opened(path, verify=True) as (file, _):
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@contextmanager
def _opened(path: Path, verify: bool) -> Iterator[tuple[Any, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise DamagedFileError(f"{path} is not a file of lmntk's")
            if verify:
                checksum = _checksum(metadata["description"], file.keys(), file.get_tensor)
                if str(checksum) != metadata["checksum"]:
                    raise DamagedFileError(f"{path} is not what was written: its checksum differs")
            yield file, metadata["description"]
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise (
            error if isinstance(error, DamagedFileError) else DamagedFileError(f"{path}: {error}")
        ) from error


def _checksum(description: str, names: Iterable[str], tensor_of: Callable[[str], Tensor]) -> int:
    checksum = zlib.crc32(description.encode())
    for name in sorted(names):
        tensor = tensor_of(name)
        checksum = zlib.crc32(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode(), checksum)
        if tensor.numel():
            checksum = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, checksum)
    return checksum


class FactorsInFile(Mapping[str, Factors]):
    """The factors in a file, by parameter: a mapping that holds none of them.

    The checksum is compared once, before the first of them is read; reading raises ``DamagedFileError``.
    """

    def __init__(
        self, path: Path, forms: Mapping[str, Mapping[str, Any]], device: torch.device | None, verified: bool
    ) -> None:
        self.path, self.forms, self.device, self.verified = path, forms, device, verified

    def __getitem__(self, name: str) -> Factors:
        form = self.forms[name]
        if not self.verified:  # opened and closed for it: what is read keeps the file's mapping, and with it all that was looked at
            with _opened(self.path, verify=True):
                self.verified = True
        with _opened(self.path, verify=False) as (file, _):
            return Factors.of_description(form, lambda key: file.get_tensor(key).to(self.device))

    def __contains__(self, name: object) -> bool:
        return name in self.forms

    def __iter__(self) -> Iterator[str]:
        return iter(self.forms)

    def __len__(self) -> int:
        return len(self.forms)
