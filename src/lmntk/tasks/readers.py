"""One front door to every reader: a file, a folder, or ``hf:`` and a dataset's name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmntk.errors import UserError
from lmntk.system.notices import say
from lmntk.tasks.catalog import Task, get_task
from lmntk.tasks.data import TaskData
from lmntk.tasks.folders import read_folder, read_glue_folder, read_k_shot_folder
from lmntk.tasks.formats import FORMATS, SAVED_SPLIT, is_saved
from lmntk.tasks.hub import read_hub, read_saved
from lmntk.tasks.remarks import say_remarks
from lmntk.tasks.rows import missing
from lmntk.tasks.tables import PLAIN_COLUMNS, Columns, read_jsonl, read_table, read_tables

__all__ = [
    "read_data",
    "read_folder",
    "read_glue_folder",
    "read_hub",
    "read_jsonl",
    "read_k_shot_folder",
    "read_table",
    "read_tables",
]

HUB_PREFIX = "hf:"


def read_data(
    source: str | Path,
    task: str | Task | None = None,
    *,
    test: str | Path | None = None,
    k: int | None = None,
    seed: int | None = None,
    columns: Columns = PLAIN_COLUMNS,
    labels: Sequence[Any] | None = None,
) -> TaskData:
    """Return the data at ``source``, whatever its layout; only ``hf:NAME`` may use the network.

    Tried in this order: ``hf:NAME`` or ``hf:NAME:CONFIG`` (a hub dataset), a file (a table, with ``test``
    beside it), a folder of ``save_to_disk``, and another folder: with a task and k and seed LM-BFF's ``<k>-<seed>``
    if it is there, with a task our folder format and then GLUE's; without a task ``train.*`` and ``test.*`` (or
    ``dev.*``, or ``validation.*``) as tables.

    What was guessed, and how many texts are empty or shared by train and test, is said in notices.

    Args:
        source: ``hf:`` and a name, a file or a folder.
        task: A task of the catalog, needed for the folders of the 14 tasks.
        test: A test file, when ``source`` is a train file.
        k: Examples per label of a ready-made split; ignored where the folder has none.
        seed: Seed of that split.
        columns: Names of the columns of a table or hub dataset.
        labels: Labels in class order; by default those of ``task`` or of the data.

    Raises:
        UserError: Nothing at ``source`` can be read; says what is there.
    """
    if not str(source).strip():  # which as a path would be the folder that one is in
        raise UserError("texts: the path is empty; name a file, a folder, or hf:NAME")
    known = get_task(task) if isinstance(task, str) else task
    data = _read(source, known, test, k, seed, columns, labels)
    say_remarks(data, str(source) if known is None else known.name)
    return data


def _read(
    source: str | Path,
    known: Task | None,
    test: str | Path | None,
    k: int | None,
    seed: int | None,
    columns: Columns,
    labels: Sequence[Any] | None,
) -> TaskData:
    if labels is None and known is not None:
        labels = known.labels
    if str(source).startswith(HUB_PREFIX):
        if test is not None:
            raise UserError("a dataset of the hub has its own test split: leave out the test file")
        name, _, config = str(source).removeprefix(HUB_PREFIX).partition(":")
        return read_hub(name, config or None, columns=columns, labels=labels)
    path = Path(source).expanduser()
    if path.is_dir() and not is_saved(path, SAVED_SPLIT):
        if test is not None:
            raise UserError(
                f"{path} is a folder with its own test set: leave out the test file, or name a train file"
            )
        if is_saved(path):
            return read_saved(path, columns=columns, labels=labels)
        if known is not None:
            return _read_task_folder(path, known, k, seed)
        path, test = _parts(path)
    if not path.exists():
        raise UserError(f"{missing(path)}; for a dataset of the Hugging Face hub write {HUB_PREFIX}NAME")
    return read_tables(path, test, columns=columns, labels=labels)


def _read_task_folder(folder: Path, task: Task, k: int | None, seed: int | None) -> TaskData:
    names = (task.name.casefold(), task.title.casefold())
    folders = [folder, *(entry for entry in folder.iterdir() if entry.name.casefold() in names)]
    if k is not None and seed is not None and any((each / f"{k}-{seed}").is_dir() for each in folders):
        return read_k_shot_folder(folder, task, k, seed)
    original = "train.csv" if task.csv_style else "train.tsv"
    if any((each / original).is_file() for each in folders):
        # A ready-made split has all three parts; GLUE's own test set has no labels, so only the folder's name
        # can tell.
        is_k_shot = all(part.isdecimal() for part in folder.name.split("-")) and folder.name.count("-") == 1
        return read_k_shot_folder(folder, task) if is_k_shot else read_glue_folder(folder, task)
    return read_folder(folder, task)


def _parts(folder: Path) -> tuple[Path, Path | None]:
    endings = [ending + more for ending in FORMATS for more in ("", ".gz")]
    there = {
        part: [folder / f"{part}{e}" for e in endings if (folder / f"{part}{e}").is_file()]
        for part in ("train", "test", "dev", "validation")
    }
    if not there["train"]:
        raise UserError(
            f"{missing(folder / 'train.jsonl')}; name a task, or give a folder with train and test files"
        )
    test = there["test"] or there["dev"] or there["validation"]
    if test and not there["test"]:
        say(f"{folder} has no test file; tested on {test[0].name}")
    return there["train"][0], test[0] if test else None
