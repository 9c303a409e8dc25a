"""Datasets of the Hugging Face hub, by name; the only reader that may use the network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lmntk.errors import UserError, one_line
from lmntk.system.library_bars import without_bars
from lmntk.system.notices import say
from lmntk.tasks.data import TaskData
from lmntk.tasks.formats import FORMATS, load_saved, table_of
from lmntk.tasks.labelled import hides_labels
from lmntk.tasks.rows import Table, listed, missing
from lmntk.tasks.tables import PLAIN_COLUMNS, Columns, task_data

_TEST_SPLITS = ("test", "validation", "validation_matched", "test_matched", "dev")
_NETWORK = frozenset(
    {
        "ConnectError",
        "ConnectTimeout",
        "ReadTimeout",
        "Timeout",
        "ProxyError",
        "OfflineModeIsEnabled",
        "LocalEntryNotFoundError",
    }
)
_NOT_THERE = frozenset(
    {"DatasetNotFoundError", "RepositoryNotFoundError", "GatedRepoError", "EmptyDatasetError"}
)


def read_hub(
    name: str,
    config: str | None = None,
    *,
    columns: Columns = PLAIN_COLUMNS,
    labels: Sequence[Any] | None = None,
    train_split: str = "train",
    test_split: str | None = None,
    revision: str | None = None,
    data_files: Mapping[str, str] | None = None,
) -> TaskData:
    """Return the train and test splits of a dataset that ``datasets.load_dataset`` knows.

    The test split is ``test_split``, or the first with labels of test, validation, validation_matched,
    test_matched and dev (GLUE's test sets have none), which is said. Rows of class numbers whose label is -1 are left out,
    which is said too. The network is used only if ``name`` is no local folder.

    Args:
        name: A dataset's name on the hub such as ``fancyzhx/ag_news``, a local folder, or a file format with
            ``data_files``.
        config: The dataset's configuration, such as ``sst2`` of ``nyu-mll/glue``.
        columns: Names of the columns; a ``ClassLabel`` gives the names of the labels.
        labels: Labels in the order of their class indexes; by default the ``ClassLabel``'s, else the train
            split's, sorted.
        train_split: Name of the split to train on.
        test_split: Name of the split to test on; by default the first of the above that is there and has
            labels.
        revision: The dataset's commit, for runs that can be repeated.
        data_files: Local files by split, for the formats ``parquet``, ``json``, ``csv`` as ``name``.

    Raises:
        UserError: ``datasets`` is not installed, the name does not exist, the network is down, or a split,
            column or label is wrong.
    """
    splits = _load(name, config, revision, data_files)
    shown = f"{name} ({config})" if config else name
    return _data_of(splits, shown, columns, labels, train_split, test_split)


def read_saved(
    folder: Path, *, columns: Columns = PLAIN_COLUMNS, labels: Sequence[Any] | None = None
) -> TaskData:
    """Return the train and test splits of a folder that ``DatasetDict.save_to_disk`` wrote; as ``read_hub``."""
    return _data_of(dict(load_saved(folder)), str(folder), columns, labels, "train", None)


def _data_of(
    splits: Mapping[str, Any],
    shown: str,
    columns: Columns,
    labels: Sequence[Any] | None,
    train_split: str,
    test_split: str | None,
) -> TaskData:
    if train_split not in splits:
        raise UserError(f"{shown}: there is no split {train_split!r}; the splits are {listed(splits)}")
    train = _table(splits, train_split, shown, columns)
    return task_data(train, _test_table(splits, shown, train_split, test_split, columns), columns, labels)


def _load(
    name: str, config: str | None, revision: str | None, data_files: Mapping[str, str] | None
) -> dict[str, Any]:
    looks_local = (
        name.startswith((".", "/", "~", "\\"))
        or name.count("/") > 1
        or name.lower().endswith((*FORMATS, ".gz"))
    )
    folder = Path(name).expanduser()
    if looks_local and not folder.is_dir():
        raise UserError(
            missing(folder)
            if not folder.exists()
            else f"{name} is a file, not a dataset's name; read it as a table"
        )
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise UserError(
            f"{name}: reading a dataset of the hub needs datasets; install it with pip install 'lmntk[data]'"
        ) from error
    options: dict[str, Any] = {"data_files": dict(data_files)} if data_files is not None else {}
    try:
        with without_bars():
            loaded = load_dataset(str(folder) if looks_local else name, config, revision=revision, **options)
    except Exception as error:  # the library raises its own, the hub's, the transport's and pyarrow's
        raise UserError(_load_message(name, config, error)) from error
    return dict(loaded)


def _load_message(name: str, config: str | None, error: BaseException) -> str:
    chain = list(_chain(error))
    names = {type(link).__name__ for link in chain}
    if names & _NOT_THERE:
        return (
            f"dataset {name!r} does not exist on the hub, or is private: "
            "check the name, or log in with hf auth login"
        )
    if names & _NETWORK or any(isinstance(link, ConnectionError | TimeoutError) for link in chain):
        return (
            f"dataset {name!r}: the hub cannot be reached and there is no copy in the cache; "
            "go online once, or give local files"
        )
    asked = f"dataset {name!r}" + (f", configuration {config!r}" if config else "")
    return f"{asked}: cannot be loaded ({one_line(error)})"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _table(splits: Mapping[str, Any], name: str, shown: str, columns: Columns) -> Table:
    split, where = splits[name], f"{shown}, split {name!r}"
    columns = columns.found_in(split.column_names)
    for column in columns.names():
        if column not in split.column_names:
            raise UserError(
                f"{where}: there is no column {column!r}; the columns are {listed(split.column_names)}"
            )
    return table_of(split.select_columns(columns.names()), where)


def _test_table(
    splits: Mapping[str, Any],
    shown: str,
    train_split: str,
    test_split: str | None,
    columns: Columns,
) -> Table:
    """Return the split to test on: the one named, else the first whose labels are not hidden, which is said."""
    if test_split is not None:
        if test_split not in splits:
            raise UserError(f"{shown}: there is no split {test_split!r}; the splits are {listed(splits)}")
        return _table(splits, test_split, shown, columns)
    passed_over: list[str] = []
    for name in (name for name in _TEST_SPLITS if name in splits and name != train_split):
        if columns.label in splits[name].column_names:
            table = _table(splits, name, shown, columns)
            if not hides_labels(table, columns.label):
                if passed_over:
                    say(f"{shown}: {' and '.join(passed_over)} hides its labels; tested on {name!r}")
                return table
        passed_over.append(repr(name))
    raise UserError(
        f"{shown}: no split to test on has labels in {columns.label!r}; "
        f"name one of {listed(splits)} as the test split, or classify its texts with `lmntk predict`"
    )
