"""Tangents of a batch in one safetensors file, with checksums.

They are read back parameter by parameter, so that a panel needs no memory. The file's metadata says, for each parameter, the form of its
factors and which tensors they are made of. A tensor that several share (one input under query, key and value) is written once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmntk.system import kept
from lmntk.tangents.factors import Tangents
from lmntk.tangents.form import Factors

FORMAT = "lmntk-factors-1"
LOGITS = "logits"


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
    metadata = {"format": FORMAT, "description": forms}
    kept.save_tensors(path, tensors.by_name | {LOGITS: tangents.logits}, metadata)


def open_tangents(path: Path, device: torch.device | None = None, verify: bool = True) -> Tangents:
    """Return the tangents in a file; a parameter's factors are read when they are asked for, each time.

    Args:
        path: what ``save_tangents`` wrote.
        device: where the factors go when they are read.
        verify: compare the checksums now, which reads the whole file; otherwise when the first factors are asked for.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedError: not what was written.
    """
    if verify:
        kept.verify(path)
    with kept.opened(path) as file:
        if file.metadata.get("format") != FORMAT:
            raise kept.DamagedError(path, "it is not a file of factors")
        forms = json.loads(file.metadata["description"])
        return Tangents(file.tensor(LOGITS).to(device).clone(), FactorsInFile(path, forms, device))


class FactorsInFile(Mapping[str, Factors]):
    """The factors in a file, by parameter: a mapping that holds none of them.

    The checksums are compared once, before the first of them is read; reading raises ``DamagedError``.
    """

    def __init__(
        self, path: Path, forms: Mapping[str, Mapping[str, Any]], device: torch.device | None
    ) -> None:
        self.path, self.forms, self.device = path, forms, device

    def __getitem__(self, name: str) -> Factors:
        form = self.forms[name]
        # opened and closed for it: what is read keeps the file's mapping, and with it all that was looked at
        kept.verify(self.path)
        with kept.opened(self.path) as file:
            return Factors.of_description(form, lambda key: file.tensor(key).to(self.device))

    def __contains__(self, name: object) -> bool:
        return name in self.forms

    def __iter__(self) -> Iterator[str]:
        return iter(self.forms)

    def __len__(self) -> int:
        return len(self.forms)
