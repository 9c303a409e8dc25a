"""The output folder: records, kernels and logits, found again by their key.

Files are named by their meaning and the first letters of their key's digest, so that results of other settings lie
side by side. The whole digest stands inside; a file with another one is computed anew.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from lmntk.errors import UserError
from lmntk.kernels.kernel import Kernel, provenance_of
from lmntk.runs.records import Configuration, ExplainedSplit, ExplainedTexts, Record
from lmntk.runs.split import Split
from lmntk.system.files import write_text
from lmntk.system.hashing import SHORT, Key, short
from lmntk.system.kept import (
    is_whole,
    load_arrays,
    metadata_of,
    or_none,
    read_form,
    read_record,
    save_tensors,
    write_record,
)

Kind = TypeVar("Kind", bound=Record)
LOGITS = "logits.safetensors"
CONFIGURATION = "configuration.json"


def kernel_file(folder: Path, side: str, formula: str, *, shared: bool | None = None) -> Path:
    """Return the file of a kernel in a split's folder: ``train-sgd.safetensors``, of one that all classes share ``train-sgd-shared``.

    Where it is not known whether they share it, the file that is there says so. Earlier versions called both the same, and theirs is
    taken where it is there.
    """
    plain, named = (folder / f"{side}-{formula}{ending}.safetensors" for ending in ("", "-shared"))
    if shared is None:
        shared = named.is_file()
    return named if shared and not (plain.is_file() and not named.is_file()) else plain


class Store:
    """The output folder; every write is atomic.

    Args:
        folder: where it is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def prepare(self) -> None:
        """Make the folder.

        Raises:
            UserError: it cannot be made or written to.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"out: cannot make the folder {str(self.folder)!r} ({error.strerror}); name another"
            ) from error
        if not os.access(self.folder, os.W_OK):
            raise UserError(f"out: cannot write to {str(self.folder)!r}; name another folder")

    def write_text(self, name: str, text: str) -> None:
        """Write a text file."""
        write_text(self.folder / name, text)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write plain data as JSON, with its checksum."""
        write_record(self.folder / name, content)

    def read_json(self, name: str) -> dict[str, Any] | None:
        """Return the data of a JSON file, numbers that are not finite as None; None if it is missing or damaged."""
        return or_none(lambda: read_record(self.folder / name))

    def configuration(self) -> Configuration:
        """Return the settings of the runs in the folder; empty ones where there are none, or damaged ones."""
        found: Configuration | None = or_none(lambda: read_form(self.folder / CONFIGURATION, Configuration))
        return found or Configuration()

    def explained(self) -> list[ExplainedSplit]:
        """Return the test texts that were explained; none where there is no such file, or a damaged one."""
        found: ExplainedTexts | None = or_none(
            lambda: read_form(self.folder / ExplainedTexts.FILE, ExplainedTexts)
        )
        return [] if found is None else found.splits

    def record(self, kind: type[Kind], stem: str, key: Key) -> Kind | None:
        """Return a record if it is there with this key."""
        found = self.read_record(kind, f"{kind.FOLDER}/{stem}-{key.short}.json")
        return found if found is not None and found.key == key.digest else None

    def read_record(self, kind: type[Kind], name: str) -> Kind | None:
        """Return the record in a file, or None if it is missing, damaged or of another kind."""
        found: Kind | None = or_none(lambda: read_form(self.folder / name, kind))
        return found

    def records(self, kind: type[Kind], pattern: str = "*") -> dict[str, Kind | None]:
        """Return the records of a kind by their files' names, the damaged ones as None."""
        paths = sorted((self.folder / kind.FOLDER).glob(f"{pattern}.json"))
        names = [f"{kind.FOLDER}/{path.name}" for path in paths]
        return {name: self.read_record(kind, name) for name in names}

    def write_record(self, record: Record, stem: str) -> str:
        """Write a record; return its file's name."""
        name = f"{record.FOLDER}/{stem}-{short(record.key)}.json"
        self.write_json(name, record.as_dict())
        return name

    def written_at(self, name: str) -> float:
        """Return when a file was written, in seconds; 0 if it is missing."""
        path = self.folder / name
        return path.stat().st_mtime if path.is_file() else 0.0

    def kernel_folder(self, split: str, digest: str) -> Path:
        """Return where the kernels of a split with this key are kept."""
        return self.folder / "kernels" / f"{split}-{short(digest)}"

    def kernel_folders(self, split: str) -> list[Path]:
        """Return the folders of a split's kernels; those of several settings lie side by side."""
        return sorted((self.folder / "kernels").glob(f"{split}-{'?' * SHORT}"))

    def kernel_path(self, split: Split, side: str, formula: str, key: Key) -> Path:
        """Return where the kernel of a split's train texts against a side is kept; see ``kernel_file``."""
        return kernel_file(self.kernel_folder(split.name, key.digest), side, formula, shared="shared" in key)

    def has_kernel(self, split: Split, side: str, formula: str, key: Key) -> bool:
        """Return whether a kernel with this key is kept, and whole."""
        path = self.kernel_path(split, side, formula, key)
        return (provenance_of(path) or {}).get("key") == key.digest and is_whole(path)

    def kernel(self, split: Split, side: str, formula: str, key: Key) -> Kernel | None:
        """Return a kept kernel if it has this key."""
        path = self.kernel_path(split, side, formula, key)
        try:
            return or_none(lambda: Kernel.load(path, {"key": key.digest}))
        except UserError:  # there is none, or it is of something else
            return None

    def logits(self, split: Split, key: Key) -> dict[str, np.ndarray] | None:
        """Return the kept pre-trained logits by side if they have the kernels' key."""
        found = or_none(lambda: load_arrays(self._logits_path(split, key)))
        return found[0] if found is not None and found[1].get("key") == key.digest else None

    def has_logits(self, split: Split, key: Key) -> bool:
        """Return whether the pre-trained logits are kept, and whole."""
        path = self._logits_path(split, key)
        metadata = or_none(lambda: metadata_of(path)) or {}
        return metadata.get("key") == key.digest and is_whole(path)

    def _logits_path(self, split: Split, key: Key) -> Path:
        return self.kernel_folder(split.name, key.digest) / LOGITS

    def keep_kernels(
        self,
        split: Split,
        key: Key,
        kernels: Mapping[tuple[str, str], Kernel],
        logits: Mapping[str, np.ndarray],
    ) -> None:
        """Write a split's kernels, by (side, formula), and its pre-trained logits."""
        for (side, formula), kernel in kernels.items():
            kernel.save(self.kernel_path(split, side, formula, key))
        save_tensors(self._logits_path(split, key), logits, {"key": key.digest})
