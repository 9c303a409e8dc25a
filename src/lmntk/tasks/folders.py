"""Data folders of the 14 tasks: ours (JSON lines), GLUE's (TSV) and LM-BFF's k-shot folders."""

from __future__ import annotations

from pathlib import Path

from lmntk.errors import UserError
from lmntk.system.notices import say
from lmntk.tasks.catalog import Task, get_task
from lmntk.tasks.data import TaskData
from lmntk.tasks.example import Example
from lmntk.tasks.formats import read_rows
from lmntk.tasks.labels import LabelIndex, whole_number
from lmntk.tasks.rows import Row, missing
from lmntk.tasks.tables import read_jsonl

_GLUE_COLUMNS: dict[str, tuple[str, str | None, str]] = {
    "sst-2": ("sentence", None, "label"),
    "mnli": ("sentence1", "sentence2", "gold_label"),
    "snli": ("sentence1", "sentence2", "gold_label"),
    "qnli": ("question", "sentence", "label"),
    "rte": ("sentence1", "sentence2", "label"),
    "mrpc": ("#1 String", "#2 String", "Quality"),
    "qqp": ("question1", "question2", "is_duplicate"),
}
_NO_GOLD_LABEL = "-"


def read_folder(data: str | Path, task: str | Task) -> TaskData:
    """Return a task of our folder format, ``<data>/<task>/{train,test}.jsonl.gz`` (or plain ``.jsonl``).

    Args:
        data: The folder that has the task's folder, or the task's folder itself.
        task: A task of the catalog; its labels bound the class numbers.

    Raises:
        UserError: A folder or file is missing, or a row is broken.
    """
    task = _as_task(task)
    folder = _task_folder(Path(data), task)
    parts = [_first_there(folder, (f"{part}.jsonl.gz", f"{part}.jsonl")) for part in ("train", "test")]
    train, test = (read_jsonl(path, labels=task.labels) for path in parts)
    return TaskData(tuple(train), tuple(test), task.labels)


def read_glue_folder(data: str | Path, task: str | Task) -> TaskData:
    """Return a task in its original layout, GLUE's or LM-BFF's.

    GLUE's has ``train.tsv``, and ``dev.tsv`` as the test set; LM-BFF's has ``train.csv`` and ``test.csv``.

    The CSV files are those of LM-BFF's seven other tasks: no header, the label, then the text (AG News: title
    and text). MNLI takes ``dev_matched.tsv``. Rows without a gold label ("-") are left out, which is said, as
    are QQP's broken rows.

    Args:
        data: The folder of the files, or the folder that has the task's folder (``SST-2`` or ``sst-2``).
        task: A task of the catalog.

    Raises:
        UserError: A folder or file is missing, or a row is broken.
    """
    task = _as_task(task)
    folder = _task_folder(Path(data), task)
    train_name, test_name = "train.tsv", "dev.tsv"
    if task.csv_style:
        train_name, test_name = "train.csv", "test.csv"
    elif task.name == "mnli":
        test_name = "dev_matched.tsv"
    paths = [_first_there(folder, (name,)) for name in (train_name, test_name)]
    train, test = (_read_part(path, task) for path in paths)
    return TaskData(train, test, task.labels)


def read_k_shot_folder(
    data: str | Path, task: str | Task, k: int | None = None, seed: int | None = None
) -> TaskData:
    """Return a few-shot split that LM-BFF's tool wrote.

    Its files are ``<data>/<k>-<seed>/{train,dev,test}.tsv`` (or ``.csv``).

    Args:
        data: The folder that has ``<k>-<seed>`` or ``<task>/<k>-<seed>``; with no k and seed the
            ``<k>-<seed>`` folder itself.
        task: A task of the catalog.
        k: Examples per label.
        seed: Seed of the split.

    Returns:
        Data whose ``dev`` is set: nothing is left to be split.

    Raises:
        UserError: A folder or file is missing, or a row is broken.
    """
    task = _as_task(task)
    folder = Path(data)
    if (k is None) != (seed is None):
        raise UserError("a k-shot folder is named by k and by seed: give both, or the folder itself")
    if k is not None:
        name = f"{k}-{seed}"
        folder = folder / name if (folder / name).is_dir() else _task_folder(folder, task) / name
    if not folder.is_dir():
        raise UserError(missing(folder))
    ending = "csv" if task.csv_style else "tsv"
    paths = []
    for part in ("train", "dev", "test"):
        names = (f"{part}_matched.{ending}",) if task.name == "mnli" and part != "train" else ()
        paths.append(_first_there(folder, (*names, f"{part}.{ending}")))
    train, dev, test = (_read_part(path, task) for path in paths)
    return TaskData(train, test, task.labels, dev)


def _as_task(task: str | Task) -> Task:
    return get_task(task) if isinstance(task, str) else task


def _task_folder(folder: Path, task: Task) -> Path:
    """Return the task's folder inside ``folder``, whatever the case of its name, else ``folder`` itself."""
    if not folder.is_dir():
        raise UserError(missing(folder))
    if (folder / task.name).is_dir():
        return folder / task.name
    wanted = {task.name.casefold(), task.title.casefold()}
    inside = sorted(entry for entry in folder.iterdir() if entry.is_dir() and entry.name.casefold() in wanted)
    return inside[0] if inside else folder


def _first_there(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise UserError(missing(folder / names[0]))


def _read_part(path: Path, task: Task) -> tuple[Example, ...]:
    if task.csv_style:
        return tuple(_csv_example(row, task) for row in read_rows(path, header=_csv_header(task)))
    if task.name not in _GLUE_COLUMNS:
        raise UserError(f"{path}: task {task.name!r} has no GLUE layout; read the file as a table")
    text, text_b, label = _GLUE_COLUMNS[task.name]
    examples, unlabelled = [], []
    for row in read_rows(path, quoted=False, skip_short=task.name == "qqp"):
        value = row.cell(label)
        if value == _NO_GOLD_LABEL:
            unlabelled.append(row)
            continue
        examples.append(
            Example(row.text(text), row.text(text_b) if text_b else None, _class_of(value, task, row.where))
        )
    if unlabelled:
        say(f"{len(unlabelled)} rows without a gold label left out, the first at {unlabelled[0].where}")
    return tuple(examples)


def _class_of(value: str, task: Task, where: str) -> int:
    """Return the class of a label, which GLUE writes as a name or as the class number, by task."""
    number = whole_number(value)
    if number is not None and 0 <= int(number) < len(task.labels):
        return int(number)
    return LabelIndex(task.labels).index(value, where)


def _csv_header(task: Task) -> tuple[str, ...]:
    return ("label", "title", "text") if task.name == "ag_news" else ("label", "text")


def _csv_example(row: Row, task: Task) -> Example:
    value = row.text("label").strip()
    first = 1 if task.name == "ag_news" else 0  # AG News numbers its classes from 1
    number = whole_number(value)
    if number is None or not first <= int(number) < first + len(task.labels):
        raise UserError(
            f"{row.where}: unknown label {value!r}; {task.title} numbers its classes {first} to "
            f"{first + len(task.labels) - 1}"
        )
    return Example(row.text("text"), None, int(number) - first)
