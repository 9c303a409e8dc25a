"""Datasets of the Hugging Face hub, by name; the only reader that may use the network."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lmntk.errors import UserError, one_line
from lmntk.tasks.data import TaskData
from lmntk.tasks.example import Example
from lmntk.tasks.labels import LabelIndex, is_blank
from lmntk.tasks.rows import FORMATS, Row, listed, missing
from lmntk.tasks.tables import PLAIN_COLUMNS, Columns, examples_of

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
    test_matched and dev (GLUE's test sets have none). Rows without a label are left out with a warning. The
    network is used only if ``name`` is no local folder.

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
    if train_split not in splits:
        raise UserError(f"{shown}: there is no split {train_split!r}; the splits are {listed(splits)}")
    train_rows = list(_labelled_rows(splits[train_split], f"{shown}, split {train_split!r}", columns))
    test_name, test_rows = _test_rows(splits, shown, train_split, test_split, columns)
    index = _label_index(splits[train_split], columns.label, labels, train_rows)
    train, test = (tuple(_examples(rows, columns, index)) for rows in (train_rows, test_rows))
    for split, examples in ((train_split, train), (test_name, test)):
        if not examples:
            raise UserError(f"{shown}, split {split!r}: no row has a label; name another split")
    return TaskData(train, test, index.names)


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


def _class_names(split: Any, label_column: str) -> tuple[str, ...] | None:
    names = getattr((split.features or {}).get(label_column), "names", None)
    return tuple(names) if names else None


def _labelled_rows(split: Any, where: str, columns: Columns) -> Iterator[tuple[Row, bool]]:
    """Yield each row and whether it has a label; ``ClassLabel`` numbers become names."""
    for column in columns.names():
        if column not in split.column_names:
            raise UserError(
                f"{where}: there is no column {column!r}; the columns are {listed(split.column_names)}"
            )
    names = _class_names(split, columns.label)
    for number, record in enumerate(split.select_columns(columns.names()), start=1):
        row = Row(f"{where}, row {number}", dict(record))
        value = row.cell(columns.label)
        # The hub marks a hidden label by -1, in a ClassLabel and in a plain column alike.
        hidden = is_blank(value) or (isinstance(value, int) and value == -1)
        if names is not None and isinstance(value, int) and 0 <= value < len(names):
            row.cells[columns.label] = names[value]
        yield row, not hidden


def _test_rows(
    splits: Mapping[str, Any],
    shown: str,
    train_split: str,
    test_split: str | None,
    columns: Columns,
) -> tuple[str, list[tuple[Row, bool]]]:
    if test_split is not None and test_split not in splits:
        raise UserError(f"{shown}: there is no split {test_split!r}; the splits are {listed(splits)}")
    names = (
        (test_split,)
        if test_split is not None
        else tuple(name for name in _TEST_SPLITS if name in splits and name != train_split)
    )
    for name in names:
        if test_split is None and columns.label not in splits[name].column_names:
            continue
        rows = list(_labelled_rows(splits[name], f"{shown}, split {name!r}", columns))
        if test_split is not None or any(labelled for _, labelled in rows):
            return name, rows
    raise UserError(
        f"{shown}: no split to test on has labels in {columns.label!r}; "
        f"name one of {listed(splits)} as the test split"
    )


def _label_index(
    split: Any, label_column: str, labels: Sequence[Any] | None, rows: Sequence[tuple[Row, bool]]
) -> LabelIndex:
    if labels is not None:
        return LabelIndex.given(labels)
    names = _class_names(split, label_column)
    if names is not None:
        return LabelIndex(names)
    return LabelIndex.found(row.cell(label_column) for row, labelled in rows if labelled)


def _examples(rows: Sequence[tuple[Row, bool]], columns: Columns, index: LabelIndex) -> list[Example]:
    kept = [row for row, labelled in rows if labelled]
    if kept and len(kept) < len(rows):
        first = next(row for row, labelled in rows if not labelled)
        warnings.warn(
            f"{len(rows) - len(kept)} rows without a label left out, the first {first.where}", stacklevel=3
        )
    return examples_of(kept, columns, index)
