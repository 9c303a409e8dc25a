"""The splits of an experiment, (task, k, seed, mode), and what is stored of each, found again by content.

A split has a *key*: a hash of everything that its kernels depend on (weights, prompt and tokenizer, the very texts,
parameters, precision). Files have readable names; the key stands inside, and a file with another key is computed anew.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmntk.errors import UserError
from lmntk.kernels.kernel import Kernel, provenance_of
from lmntk.system.files import write_text


@dataclass(frozen=True)
class Split:
    """One task at one k, split and mode, and the examples' row numbers in its files."""

    task: str
    k: int
    seed: int
    mode: str
    train: tuple[int, ...]
    dev: tuple[int, ...]
    test: tuple[int, ...]

    @property
    def name(self) -> str:
        """A readable name, also of its files."""
        return f"{self.task}-k{self.k}-seed{self.seed}-{self.mode}"


class Store:
    """The output folder: ``cells/`` (results), ``kernels/``, ``predictions/``; every write is atomic."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def prepare(self) -> None:
        """Makes the folder.

        Raises:
            UserError: it cannot be made or written to.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"out: cannot make the folder {str(self.folder)!r} ({error.strerror}); name another") from error
        if not os.access(self.folder, os.W_OK):
            raise UserError(f"out: cannot write to {str(self.folder)!r}; name another folder")

    def write_text(self, name: str, text: str) -> None:
        """Writes a text file under a temporary name, then renames it."""
        write_text(self.folder / name, text)

    def write_json(self, name: str, content: Any) -> None:
        """Writes plain data as JSON, atomically."""
        self.write_text(name, json.dumps(content, indent=1, sort_keys=True) + "\n")

    def read_json(self, name: str) -> Any:
        """Returns the data of a JSON file, or None when it is missing or broken."""
        try:
            return json.loads((self.folder / name).read_text(encoding="utf8"))
        except (OSError, ValueError):
            return None

    def result(self, split: Split, key: str) -> dict[str, Any] | None:
        """Returns a finished split's results if they have this key."""
        found = self.read_json(f"cells/{split.name}.json")
        return found if isinstance(found, dict) and found.get("key") == key else None

    def kernel_path(self, split: Split, side: str, formula: str) -> Path:
        """Returns where the kernel of the split's train texts against ``side`` (train, dev or test) is kept."""
        return self.folder / "kernels" / split.name / f"{side}-{formula}.safetensors"

    def has_kernel(self, split: Split, side: str, formula: str, key: str) -> bool:
        """True where a kernel with this key is kept; its arrays are not read."""
        return (provenance_of(self.kernel_path(split, side, formula)) or {}).get("key") == key

    def kernel(self, split: Split, side: str, formula: str, key: str) -> Kernel | None:
        """Returns a kept kernel if it has this key."""
        try:
            return Kernel.load(self.kernel_path(split, side, formula), {"key": key})
        except UserError:
            return None
