"""A kernel: its values, what they are of, and where they come from; on disk, one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lmntk.errors import UserError
from lmntk.kernels.formulas import FORMULAS
from lmntk.system import kept
from lmntk.system.kept import DamagedError

FORMAT = "lmntk-kernel-1"
KERNEL_VERSION = 1  # counts up when what a kernel is changes, so that old ones are not reused


@dataclass(frozen=True)
class Kernel:
    """A tangent kernel between n training and m evaluation examples with c logits.

    Attributes:
        formula: ``sgd``, ``signgd`` or ``asigngd``.
        values: [n, c, m, c] float64; of ``asigngd`` with the sign on the training side.
        flipped: [n, c, m, c], of ``asigngd`` with the sign on the evaluation side; else None.
        groups: by parameter group, the part of ``values`` that it contributes; they sum to ``values``.
        provenance: model, fingerprints, prompt, parameter filter, dtype, versions.
    """

    formula: str
    values: np.ndarray
    flipped: np.ndarray | None = None
    groups: dict[str, np.ndarray] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write one safetensors file, atomically: values, values_flipped, group.<name>, and the metadata."""
        tensors = {"values": self.values} | {f"group.{name}": part for name, part in self.groups.items()}
        if self.flipped is not None:
            tensors["values_flipped"] = self.flipped
        kept.save_tensors(
            path,
            tensors,
            {
                "format": FORMAT,
                "formula": self.formula,
                "provenance": json.dumps(self.provenance, sort_keys=True),
            },
        )

    @classmethod
    def load(cls, path: Path, expected: dict[str, Any] | None = None) -> Kernel:
        """Return the kernel in a file that ``save`` wrote.

        Args:
            path: the file.
            expected: provenance entries that must be the same, such as ``{"model": fingerprint}``.

        Raises:
            DamagedError: a file that is not what was written.
            UserError: no such file, not a kernel file, or one of something else than expected.
        """
        try:
            with kept.without_checksums():  # a file of others has none, and is told as what it is
                is_kernel = kept.metadata_of(path).get("format") == FORMAT
            tensors, metadata = kept.load_arrays(path) if is_kernel else ({}, {})
        except FileNotFoundError:
            raise UserError(f"kernel: no file {path}; compute it with `lmntk kernel`") from None
        if not is_kernel:
            raise UserError(f"kernel: {path} is not a kernel file of lmntk; compute one with `lmntk kernel`")
        provenance = _provenance(path, metadata)
        _check_form(path, tensors, metadata)
        for key, value in (expected or {}).items():
            if provenance.get(key) != value:
                raise UserError(
                    f"kernel: {path} is of another {key} "
                    f"({_short(provenance.get(key))}, not {_short(value)}); "
                    "name the right file, another folder, or delete it and compute it again"
                )
        groups = {
            name.removeprefix("group."): part for name, part in tensors.items() if name.startswith("group.")
        }
        return cls(metadata["formula"], tensors["values"], tensors.get("values_flipped"), groups, provenance)


def provenance_of(path: Path) -> dict[str, Any] | None:
    """Return what a kernel's file says of its making; None where there is no such file, or a damaged one."""
    return kept.or_none(lambda: _provenance(path, kept.metadata_of(path)))


def _provenance(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        provenance = json.loads(metadata.get("provenance", "{}"))
    except (ValueError, RecursionError):
        provenance = None
    if not isinstance(provenance, dict):
        raise DamagedError(path, "it does not say what it belongs to")
    return provenance


def _check_form(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Refuse what is no kernel, though its file can be read.

    Raises:
        DamagedError: no values [n, c, m, c] of numbers, parts of another shape, or an unknown formula.
    """
    if metadata.get("formula") not in FORMULAS or "values" not in tensors:
        raise DamagedError(path, "it holds no kernel of a formula that is known")
    shape = tensors["values"].shape
    if len(shape) != 4 or shape[1] != shape[3] or 0 in shape:
        raise DamagedError(path, f"its values have the shape {list(shape)}, and a kernel has [n, c, m, c]")
    for name, part in tensors.items():
        if part.shape != shape or part.dtype != np.float64:
            raise DamagedError(
                path, f"{name!r} is {part.dtype} {list(part.shape)}, not float64 {list(shape)}"
            )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:16]}..."
