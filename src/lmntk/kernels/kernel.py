"""A kernel: its values, what they are of, and where they come from; on disk, one safetensors file."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lmntk.errors import UserError
from lmntk.system.files import load_tensors, metadata_of, save_tensors

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
        save_tensors(
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
            UserError: no such file, not a kernel file, or one of something else than expected.
        """
        tensors, metadata = load_tensors(path)
        if metadata.get("format") != FORMAT or "values" not in tensors:
            raise UserError(f"kernel: {path} is not a kernel file of lmntk; compute one with `lmntk kernel`")
        provenance = json.loads(metadata.get("provenance", "{}"))
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
    try:
        provenance = json.loads((metadata_of(path) or {}).get("provenance", "null"))
    except ValueError:
        return None
    return provenance if isinstance(provenance, dict) else None


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:16]}..."
