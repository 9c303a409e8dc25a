"""Output folders of before files were named by their keys: every file gets its new name, and nothing is computed anew."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from lmntk.errors import UserError
from lmntk.runs.records import FINE_TUNING, DiagnosisRecord, FineTuningRecord, SplitResults
from lmntk.runs.store import LOGITS, Store
from lmntk.system.files import load_tensors
from lmntk.system.hashing import short


def adopt_old_names(store: Store) -> None:
    """Give the files of an older output folder the names of today.

    Each file is renamed on its own, so that a run that is killed meanwhile goes on. A file that cannot be read stays.
    """
    for path in sorted((store.folder / SplitResults.FOLDER).glob("*.json")):
        content = _old_content(store, path)
        if content is not None and "predictions" not in content and isinstance(content.get("cell"), str):
            _adopt_results(store, path, content)
    for folder in sorted((store.folder / "kernels").glob("*/")):
        _adopt_kernels(store, folder)
    for kind in (FineTuningRecord, DiagnosisRecord):
        for path in sorted((store.folder / kind.FOLDER).glob("*.json")):
            content = _old_content(store, path)
            if content is not None:
                _adopt_training(store, path, content)


def _old_content(store: Store, path: Path) -> dict[str, Any] | None:
    """Return the data of a file whose name does not end in its key."""
    content = store.read_json(str(path.relative_to(store.folder)))
    if not isinstance(content, dict) or not isinstance(content.get("key"), str):
        return None
    return None if path.stem.endswith(f"-{short(content['key'])}") else content


def _adopt_results(store: Store, path: Path, content: dict[str, Any]) -> None:
    """Write the results with their predictions, which stood in a table of their own; fine-tunings have their own records."""
    table = store.folder / "predictions" / f"{path.stem}.tsv"
    predictions = _predictions(table)
    content["rows"] = [row for row in content["rows"] if row.get("solver") != FINE_TUNING]
    kernels = [row["method"] for row in content["rows"]]
    if not set(kernels) <= set(predictions):
        return
    content["predictions"] = {method: predictions[method] for method in kernels}
    names = {name: f"{name}-{short(content['key'])}" for name in content.get("predictors", ())}
    for old, new in names.items():
        folder = store.folder / "models" / old
        if folder.is_dir():
            folder.rename(folder.with_name(new))
    content["predictors"] = list(names.values())
    content.pop("arms", None)
    store.write_json(f"{SplitResults.FOLDER}/{path.stem}-{short(content['key'])}.json", content)
    path.unlink()
    table.unlink(missing_ok=True)


def _predictions(table: Path) -> dict[str, list[int]]:
    """Return the predicted classes by method."""
    try:
        lines = [line.split("\t") for line in table.read_text(encoding="utf8").splitlines()]
        return {title: [int(line[column]) for line in lines[1:]] for column, title in enumerate(lines[0])}
    except (OSError, ValueError, IndexError):
        return {}


def _adopt_kernels(store: Store, folder: Path) -> None:
    """Give a folder of kernels the key of its logits, or of its first kernel."""
    for path in [folder / LOGITS, *sorted(folder.glob("*.safetensors"))]:
        try:
            metadata = load_tensors(path)[1]
        except UserError:
            continue
        digest = metadata.get("key") or json.loads(metadata.get("provenance", "{}")).get("key")
        target = store.kernel_folder(folder.name, digest or "")
        if digest and not folder.name.endswith(f"-{short(digest)}") and not target.exists():
            os.replace(folder, target)
        return


def _adopt_training(store: Store, path: Path, content: dict[str, Any]) -> None:
    """Give a fine-tuning or a diagnosis, and the weights beside it, their new names."""
    stem = f"{path.stem}-{short(content['key'])}"
    weights = path.with_suffix("")
    if weights.is_dir():
        weights.rename(weights.with_name(stem))
    if content.get("checkpoint"):
        old = Path(content["checkpoint"])
        content["checkpoint"] = str(Path(path.parent.name) / stem / old.name)
    store.write_json(f"{path.parent.name}/{stem}.json", content)
    path.unlink()
