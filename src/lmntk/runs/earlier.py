"""Output folders of the first format: pages and solvers still read them, runs compute anew beside them.

Their records have no checksums, and other names: ``cells/`` and ``cell`` for a split, ``split`` for its row numbers. Some
keep the predictions in a table of their own, and name files without their key.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from lmntk.runs.records import (
    FINE_TUNING,
    Configuration,
    DiagnosisRecord,
    FineTuningRecord,
    Record,
    SplitResults,
)
from lmntk.runs.store import Store
from lmntk.system.kept import DamagedError, or_none, read_record, without_checksums

Kind = TypeVar("Kind", bound=Record)
RESULTS = "cells"
FOLDERS: Mapping[type[Record], str] = {
    SplitResults: RESULTS,
    FineTuningRecord: "finetuning",
    DiagnosisRecord: "diagnosis",
}
NOT_CHECKED = "is of an earlier format, whose files are not checksummed"


def is_earlier(folder: Path) -> bool:
    """Return whether a folder has results of the first format alone."""
    return (folder / RESULTS).is_dir() and not (folder / SplitResults.FOLDER).is_dir()


def reading(folder: Path) -> AbstractContextManager[None]:
    """Return what to enter while a folder's files are read: those of the first format alone may lack their checksums."""
    return without_checksums() if is_earlier(folder) else nullcontext()


def configuration_of(store: Store) -> Configuration:
    """Return the settings of a folder of either format; a run beside results of the first finds those that it kept."""
    with without_checksums() if (store.folder / RESULTS).is_dir() else nullcontext():
        return store.configuration()


def hidden_results(folder: Path) -> str:
    """Return a line on results of the first format that lie beside those of this one, and are not shown; else nothing."""
    number = 0 if is_earlier(folder) else len(list((folder / RESULTS).glob("*.json")))
    return (
        f"{number} results of an earlier format lie beside these in {folder.name}, and are not shown; "
        f"copy the folder without {SplitResults.FOLDER}/ to see them"
        if number
        else ""
    )


def records_of(store: Store, kind: type[Kind]) -> dict[str, Kind | None]:
    """Return the records of a kind in a folder of either format, by their files' names, the damaged ones as None."""
    folder = store.folder
    if not is_earlier(folder):
        return store.records(kind)
    paths = sorted((folder / FOLDERS[kind]).glob("*.json"))
    with reading(folder):
        return {f"{FOLDERS[kind]}/{path.name}": or_none(partial(_read, path, kind)) for path in paths}


def kernel_folders_of(store: Store, split: str) -> list[Path]:
    """Return the folders of a split's kernels in a folder of either format."""
    unnamed = store.folder / "kernels" / split
    return [
        *([unnamed] if is_earlier(store.folder) and unnamed.is_dir() else []),
        *store.kernel_folders(split),
    ]


def _read(path: Path, kind: type[Kind]) -> Kind:
    content = read_record(path)
    content.pop("format", None)
    if kind is SplitResults:
        content["row_numbers"] = content.pop("split", {})
    content["split"] = content.pop("cell", None)
    try:
        if kind is SplitResults:
            _take_predictions(path, content)
        return kind.model_validate(content)
    except (ValidationError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(path, f"it is not a record of its kind: {error}") from error


def _take_predictions(path: Path, content: dict[str, Any]) -> None:
    """Put the predictions in, where a table has them, and leave out rows without: fine-tunings' are in their records."""
    known = content.get("predictions") or _table(path.parent.parent / "predictions" / f"{path.stem}.tsv")
    rows = [row for row in content["rows"] if row.get("solver") != FINE_TUNING and row["method"] in known]
    content |= {"rows": rows, "predictions": {row["method"]: known[row["method"]] for row in rows}}


def _table(path: Path) -> dict[str, list[int]]:
    """Return the predicted classes by method; none of a table that is missing or damaged."""
    try:
        lines = [line.split("\t") for line in path.read_text(encoding="utf8").splitlines()]
        return {title: [int(line[at]) for line in lines[1:]] for at, title in enumerate(lines[0])}
    except (OSError, ValueError, IndexError):
        return {}
