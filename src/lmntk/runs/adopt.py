"""Output folders of before files were named by their keys: every file gets its new name, and nothing is computed anew."""

from __future__ import annotations

import json
import os
import re
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lmntk.runs.records import FINE_TUNING, DiagnosisRecord, FineTuningRecord, SplitResults
from lmntk.runs.store import Store
from lmntk.system.hashing import SHORT, short
from lmntk.system.kept import metadata_of, or_none

NAMED_BY_KEY = re.compile(rf"-[0-9a-f]{{{SHORT}}}$")


def adopt_old_names(store: Store) -> None:
    """Give the files of an older output folder the names of today.

    Each file is renamed on its own, so that a run that is killed meanwhile goes on. What cannot be read, and what
    has its new name already, stays as it is.
    """
    for path in _old_files(store, SplitResults.FOLDER):
        _adopt_results(store, path)
    for folder in sorted((store.folder / "kernels").glob("*/")):
        if not NAMED_BY_KEY.search(folder.name):
            _adopt_kernels(store, folder)
    for kind in (FineTuningRecord, DiagnosisRecord):
        for path in _old_files(store, kind.FOLDER):
            _adopt_training(store, kind, path)


def _old_files(store: Store, part: str) -> list[Path]:
    paths = sorted((store.folder / part).glob("*.json"))
    return [path for path in paths if not NAMED_BY_KEY.search(path.stem)]


def _adopt_results(store: Store, path: Path) -> None:
    """Write the results with their predictions, which stood in a table of their own.

    Fine-tunings have their own records. A row without predictions is left out: it is solved again.
    """
    content = store.read_json(f"{path.parent.name}/{path.name}") or {}
    try:
        old = SplitResults.model_validate(content)
    except ValidationError:
        return
    table = store.folder / "predictions" / f"{path.stem}.tsv"
    known = _predictions(table, len(old.test_labels))
    rows = [row for row in old.rows if row.solver != FINE_TUNING and row.method in known]
    if old.key and rows:
        names = {name: f"{name}-{short(old.key)}" for name in old.predictors}
        for old_name, name in names.items():
            _move(store.folder / "models" / old_name, store.folder / "models" / name)
        content |= {
            "rows": [row.model_dump() for row in rows],
            "predictions": {row.method: known[row.method] for row in rows},
            "predictors": list(names.values()),
        }
        content.pop("arms", None)
        _write(store, content, path)
    path.unlink()
    table.unlink(missing_ok=True)


def _predictions(table: Path, texts: int) -> dict[str, list[int]]:
    """Return the predicted classes by method; none of a table that is damaged, or of other texts."""
    try:
        lines = [line.split("\t") for line in table.read_text(encoding="utf8").splitlines()]
        columns = {title: [int(line[at]) for line in lines[1:]] for at, title in enumerate(lines[0])}
    except (OSError, ValueError, IndexError):
        return {}
    return columns if len(lines) == texts + 1 else {}


def _adopt_kernels(store: Store, folder: Path) -> None:
    """Move each kernel, and the logits, of a split to the folder of its own key."""
    for path in sorted(folder.glob("*.safetensors")):
        metadata = or_none(partial(metadata_of, path)) or {}
        try:
            digest = metadata.get("key") or json.loads(metadata.get("provenance", "{}")).get("key")
        except ValueError:
            continue
        if isinstance(digest, str) and digest:
            _move(path, store.kernel_folder(folder.name, digest) / path.name)
    if not any(folder.iterdir()):
        folder.rmdir()


def _adopt_training(store: Store, kind: type[FineTuningRecord] | type[DiagnosisRecord], path: Path) -> None:
    """Give a fine-tuning or a diagnosis, and the weights beside it, their new names."""
    content = store.read_json(f"{path.parent.name}/{path.name}") or {}
    try:
        record = kind.model_validate(content)
    except ValidationError:
        return
    if not record.key:
        return
    stem = f"{path.stem}-{short(record.key)}"
    _move(path.with_suffix(""), path.with_name(stem))
    if isinstance(record, FineTuningRecord) and record.checkpoint:
        content["checkpoint"] = f"{path.parent.name}/{stem}/{Path(record.checkpoint).name}"
    _write(store, content, path)
    path.unlink()


def _write(store: Store, content: dict[str, Any], old: Path) -> None:
    """Write a record under its new name, unless it is there; it keeps the time at which it was made."""
    name = f"{old.parent.name}/{old.stem}-{short(content['key'])}.json"
    if not (store.folder / name).exists():
        written = old.stat()
        store.write_json(name, content)
        os.utime(store.folder / name, ns=(written.st_atime_ns, written.st_mtime_ns))


def _move(old: Path, new: Path) -> None:
    """Rename a file or a folder that is there, unless the new name is taken."""
    if old.exists() and not new.exists():
        new.parent.mkdir(parents=True, exist_ok=True)
        os.rename(old, new)
