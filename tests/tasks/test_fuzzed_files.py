"""Whatever csv, pandas and pyarrow write is read back as it was: the texts to the letter, the labels verbatim."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from label_files import heard

from lmntk.errors import UserError
from lmntk.tasks import TaskData, read_data, read_hub
from lmntk.tasks.labels import is_blank, is_numeric, label_text, whole_number

Rows = Sequence[tuple[str, Any]]
EVERY = settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])

_signs = st.sampled_from(
    [*"ab \t\n\r\",;'|\\-_.01éÉ", "\u2028", "\x85", "\xa0", "\u200b", "\ufeff", "🎈", "e\u0301"]
)
_texts = st.lists(
    _signs | st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12
).map("".join)
_number_like = st.from_regex(r"[-+]?[0-9]{1,20}(\.[0-9]{1,3})?(e[0-9])?", fullmatch=True)
_words = st.sampled_from(
    ["NaN", "None", "null", "NA", "true", "True", "-1", "-0", "0111", "1_0", "1e5", " a", "A-"]
)
_labels = _texts | _number_like | _words
_typed = [
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-3, 12),
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-3, 12).map(float),
    st.booleans(),
]


def _with_csv(delimiter: str, **options: Any) -> Callable[[Path, Rows], Path]:
    def write(path: Path, rows: Rows) -> Path:
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, delimiter=delimiter, **options).writerows([("text", "label"), *rows])
        return path

    return write


def _frame(rows: Rows) -> pd.DataFrame:
    return pd.DataFrame({"text": [text for text, _ in rows], "label": [label for _, label in rows]})


def _table(rows: Rows) -> pa.Table:
    return pa.table({"text": [text for text, _ in rows], "label": [label for _, label in rows]})


def _json_lines(path: Path, rows: Rows) -> Path:
    lines = (json.dumps({"text": text, "label": label}, ensure_ascii=False) + "\n" for text, label in rows)
    path.write_bytes("".join(lines).encode())
    return path


def _done(path: Path, write: Callable[[Path], Any]) -> Path:
    write(path)
    return path


WRITERS: dict[str, tuple[str, Callable[[Path, Rows], Path]]] = {
    "csv": ("csv", _with_csv(",")),
    "csv, all quoted": ("csv", _with_csv(",", quoting=csv.QUOTE_ALL, lineterminator="\n")),
    "csv, semicolons": ("csv", _with_csv(";")),
    "csv, tabs": ("tsv", _with_csv("\t")),
    "csv, tabs, all quoted": ("tsv", _with_csv("\t", quoting=csv.QUOTE_ALL)),
    "pandas csv": ("csv", lambda path, rows: _done(path, lambda p: _frame(rows).to_csv(p, index=False))),
    "pandas tsv": ("tsv", lambda path, rows: _done(path, lambda p: _frame(rows).to_csv(p, index=False, sep="\t"))),
    "pandas json": (
        "jsonl",
        lambda path, rows: _done(path, lambda p: _frame(rows).to_json(p, orient="records", lines=True, double_precision=15)),
    ),
    "pandas parquet": ("parquet", lambda path, rows: _done(path, lambda p: _frame(rows).to_parquet(p))),
    "pyarrow csv": ("csv", lambda path, rows: _done(path, lambda p: pyarrow.csv.write_csv(_table(rows), p))),
    "pyarrow parquet": ("parquet", lambda path, rows: _done(path, lambda p: pyarrow.parquet.write_table(_table(rows), p))),
    "json": ("jsonl", _json_lines),
}  # fmt: skip


def _read(source: Path) -> TaskData:
    data, _ = heard(lambda: read_data(source))
    return data


def _expected(texts: Sequence[str]) -> list[str]:
    """Returns the labels as classes are called; written here anew, as the rule has it."""
    return [whole_number(text) or text for text in texts] if is_numeric(texts) else list(texts)


def _has_a_missing_number(labels: Sequence[str]) -> bool:
    """Returns whether there is a NaN or the like among numbers; written here anew, as the rule has it."""
    others = [label for label in labels if label.strip().lower() not in ("nan", "na", "none", "null")]
    number = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?", re.IGNORECASE)
    return len(others) < len(labels) and all(number.fullmatch(other) for other in others)


@pytest.mark.parametrize("writer", WRITERS)
@EVERY
@given(rows=st.lists(st.tuples(_texts, _labels), min_size=2, max_size=6))
def test_texts_and_labels_come_back(tmp_path: Path, writer: str, rows: Rows) -> None:
    labels = [label for _, label in rows]
    assume(len(set(_expected(labels))) > 1 and not any(map(is_blank, labels)))
    ending, write = WRITERS[writer]
    if ending == "tsv":  # a quoted cell with both may look like two rows as they stand
        assume(not any("\t" in cell and ("\n" in cell or "\r" in cell) for row in rows for cell in row))
    if writer in ("pandas csv", "pandas tsv"):  # which does not quote it, nor reads it again itself
        assume(not any("\r" in cell for row in rows for cell in row))
    path = write(tmp_path / f"train.{ending}", rows)
    if _has_a_missing_number(labels):
        with pytest.raises(UserError, match="among numbers means a missing label"):
            _read(path)
        return
    data = _read(path)
    assert [example.text_a for example in data.train] == [text for text, _ in rows]
    assert data.labels is not None
    assert [data.labels[example.label or 0] for example in data.train] == _expected(labels)
    by_value = (
        (lambda name: (int(name), name)) if is_numeric(labels) else None
    )  # 0 and -0 are two, of one value
    assert list(data.labels) == sorted(set(_expected(labels)), key=by_value)


@pytest.mark.parametrize("writer", WRITERS)
@EVERY
@given(labels=st.one_of(*(st.lists(each, min_size=2, max_size=6) for each in _typed)))
def test_typed_labels_come_back(tmp_path: Path, writer: str, labels: list[Any]) -> None:
    names = _expected(list(map(label_text, labels)))
    assume(len(set(names)) > 1)
    if writer == "pandas json":  # which rounds floats, and writes 1.0 as 1.0 or 1
        assume(not any(isinstance(label, float) for label in labels))
    ending, write = WRITERS[writer]
    data = _read(
        write(tmp_path / f"train.{ending}", [(f"text {i}", label) for i, label in enumerate(labels)])
    )
    assert data.labels is not None
    got = [data.labels[example.label or 0] for example in data.train]
    if isinstance(labels[0], bool):
        got = [name.lower() for name in got]  # True in text is True
    if writer == "pyarrow csv" and isinstance(labels[0], float):
        assert [
            float(name) for name in got
        ] == labels  # its own form of a number, such as 1e+16 as 10000000000000000
    else:
        assert got == names


def test_a_hub_dataset_reads_the_same(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [("x", "0111"), ("y", "1e5"), ("z", "NaN"), ('"', "b ")]
    for part in ("train", "test"):
        WRITERS["pyarrow parquet"][1](tmp_path / f"{part}.parquet", rows)
    datasets.config.HF_DATASETS_OFFLINE = True
    by_hub, _ = heard(lambda: read_hub(str(tmp_path)))
    assert by_hub == _read(tmp_path)
    assert by_hub.labels == ("0111", "1e5", "NaN", "b ")
