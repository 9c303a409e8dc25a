"""JSON lines, CSV, TSV and Parquet: what is read, and each mistake's message."""

import gzip
import json
import re

import pandas as pd
import pytest

from lmntk.errors import UserError
from lmntk.tasks import Columns, Example, read_data, read_jsonl, read_table, read_tables


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


def refused(call, *parts):
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    message = re.sub(
        r"/\S*/", "", str(caught.value)
    )  # no folder, which is named by the test and might hold a part
    for part in parts:
        assert part in message, message


def test_jsonl(tmp_path):
    text = '\ufeff{"text_a": "a\u2028b", "text_b": "c", "label": 1}\n\n{"text_a": "", "label": 0}\n'
    expected = [Example("a\u2028b", "c", 1), Example("", None, 0)]
    assert read_jsonl(write(tmp_path / "a.jsonl", text)) == expected
    assert read_jsonl(write(tmp_path / "a.jsonl.gz", gzip.compress(text.encode()))) == expected


def test_jsonl_without_labels_and_with_names(tmp_path):
    path = write(tmp_path / "a.jsonl", lines({"text_a": "x"}, {"text_a": "y", "label": "good"}))
    assert read_jsonl(path, require_label=False, labels=("bad", "good")) == [
        Example("x"),
        Example("y", None, 1),
    ]
    refused(lambda: read_jsonl(path), "line 1", "'label'", "text_a")


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (lines({"text_a": "x", "label": 0}) + '{"text_a": \n', ("line 2", "not JSON")),
        ("[1]\n", ("line 1", "object", "[1]")),
        ("", ("empty",)),
        ("\n \n", ("empty",)),
        (lines({"text": "x", "label": 0}), ("line 1", "'text_a'", "text, label")),
        (lines({"text_a": None, "label": 0}), ("line 1", "'text_a'", "nothing")),
        (lines({"text_a": 5, "label": 0}), ("line 1", "5")),
        (lines({"text_a": "x", "text_b": 5, "label": 0}), ("line 1", "'text_b'")),
        (lines({"text_a": "x", "label": 2}), ("line 1", "label 2", "0 to 1")),
        (lines({"text_a": "x", "label": -1}), ("line 1", "label -1", "out of range")),
        (lines({"text_a": "x", "label": True}), ("line 1", "True", "class number")),
        (lines({"text_a": "x", "label": "fine"}), ("line 1", "'fine'", "bad, good")),
        (b'{"text_a": "x", "label": 0}\n{"text_a": "\xff", "label": 0}\n', ("line 2", "UTF-8")),
    ],
)
def test_jsonl_mistakes(tmp_path, content, parts):
    path = write(tmp_path / "a.jsonl", content)
    refused(lambda: read_jsonl(path, labels=("bad", "good")), "a.jsonl", *parts)


def test_missing_files_say_what_is_there(tmp_path):
    write(tmp_path / "dev.jsonl", "{}\n")
    (tmp_path / "sub").mkdir()
    refused(lambda: read_jsonl(tmp_path / "train.jsonl"), "train.jsonl does not exist", "dev.jsonl, sub/")
    refused(lambda: read_jsonl(tmp_path / "sub"), "is a folder", "nothing in it")
    refused(lambda: read_jsonl(tmp_path / "no" / "way" / "a.jsonl"), "nor does its folder", "dev.jsonl")
    refused(lambda: read_jsonl(write(tmp_path / "a.txt", "x")), "ending", ".jsonl")
    refused(lambda: read_jsonl(write(tmp_path / "b.jsonl.gz", b"not gzip")), "gzip")
    refused(lambda: read_jsonl(write(tmp_path / "c.jsonl.gz", gzip.compress(b"{}" * 50)[:-9])), "gzip")


def test_csv_with_quotes_and_line_breaks(tmp_path):
    path = write(tmp_path / "a.csv", 'id,text,label\r\n1,"a, ""b""\nc",yes\r\n\r\n2,,no\r\n')
    assert read_table(path) == [Example('a, "b"\nc', None, 1), Example("", None, 0)]
    assert read_table(path, labels=("yes", "no")) == [Example('a, "b"\nc', None, 0), Example("", None, 1)]


def test_tsv_has_quoting_off(tmp_path):
    path = write(tmp_path / "a.tsv", 'first\tsecond\tlabel\n"x\ty\t10\nz\tw"\t9\n')
    assert read_table(path, columns=Columns(text="first", text_b="second")) == [
        Example('"x', "y", 1),
        Example("z", 'w"', 0),
    ]
    quoted = write(tmp_path / "b.tsv", 'text\tlabel\n"a\tb"\t1\nc\t0\n')
    assert read_table(quoted, quoted=True) == [Example("a\tb", None, 1), Example("c", None, 0)]


@pytest.mark.parametrize(
    "values", [[3, 10, 3], [3.0, 10.0, 3.0], ["3", "10", "3"], [False, True, False], ["a", "b", "a"]]
)
def test_labels_of_any_type_in_parquet(tmp_path, values):
    pd.DataFrame({"text": ["p", "q", "r"], "label": values}).to_parquet(tmp_path / "a.parquet")
    assert [example.label for example in read_table(tmp_path / "a.parquet")] == [0, 1, 0]


def test_json_lines_tables(tmp_path):
    path = write(
        tmp_path / "a.jsonl.gz", gzip.compress(lines({"q": "x", "y": "no"}, {"q": "z", "y": "yes"}).encode())
    )
    assert read_table(path, columns=Columns(text="q", label="y")) == [
        Example("x", None, 0),
        Example("z", None, 1),
    ]


def test_given_labels_match_loosely_then_by_number(tmp_path):
    path = write(tmp_path / "a.csv", "text,label\nx,Not_Equivalent\ny,1\n")
    assert [e.label for e in read_table(path, labels=("not equivalent", "equivalent"))] == [0, 1]
    numbers = write(tmp_path / "b.csv", "text,label\nx,0\n")
    refused(lambda: read_table(numbers, labels=(1, 2)), "b.csv line 2", "unknown label '0'", "1, 2")


def test_unlabelled_tables(tmp_path):
    assert read_table(write(tmp_path / "a.csv", "text\nx\n"), require_label=False) == [Example("x")]
    path = write(tmp_path / "b.csv", "text,label\nx,\ny,1\n")
    assert [e.label for e in read_table(path, require_label=False)] == [None, 0]
    refused(lambda: read_table(path), "b.csv line 2", "'label' is empty")


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("a.csv", "text,label\nx,1,2\n", ("line 2", "3 cells", "text, label")),
        ("a.csv", 'text,label\nx,1\n"y,2\n', ("line 3", "broken quoting")),
        ("a.csv", "text,label\n", ("empty",)),
        ("a.csv", "txt,label\nx,1\n", ("line 2", "'text'", "txt, label")),
        ("a.csv", "text,y\nx,1\n", ("line 2", "'label'", "text, y")),
        ("a.csv", "text,text,label\nx,z,1\n", ("'text' is there twice",)),
        ("a.csv", "text,label,text,label\nx,1,z,1\n", ("line 1: column 'text' is there twice",)),
        ("a.csv", "text,label\nx\n", ("line 2", "1 cells", "in double quotes")),
        ("a.tsv", "text\tlabel\nx\n", ("line 2", "1 cells", "may not hold a tab")),
        ("a.tsv", b"text\tlabel\nx\xe9\t1\n", ("line 2", "UTF-8")),
        ("a.parquet", "no parquet", ("Parquet",)),
    ],
)
def test_table_mistakes(tmp_path, name, content, parts):
    path = write(tmp_path / name, content)
    refused(lambda: read_table(path), name, *parts)


def test_parquet_null_text_names_the_row(tmp_path):
    pd.DataFrame({"text": ["p", None], "label": [0, 1]}).to_parquet(tmp_path / "a.parquet")
    refused(lambda: read_table(tmp_path / "a.parquet"), "a.parquet row 2", "'text' holds nothing")


def test_train_and_test_tables_share_the_classes(tmp_path):
    train = write(tmp_path / "train.csv", "text,label\nx,pos\ny,neg\n")
    test = write(tmp_path / "test.csv", "text,label\nz,pos\n")
    data = read_tables(train, test)
    assert (data.labels, data.test, data.dev) == (("neg", "pos"), (Example("z", None, 1),), None)
    assert read_data(train, test=test) == read_data(tmp_path) == data
    assert read_tables(train).test == ()
    bad = write(tmp_path / "bad.csv", "text,label\nz,pos\nw,mixed\n")
    refused(lambda: read_tables(train, bad), "bad.csv line 3", "'mixed'", "neg, pos")
    refused(lambda: read_tables(test), "only one label (pos)")
    refused(lambda: read_tables(train, labels=("pos", "pos")), "named twice")
    refused(lambda: read_tables(train, labels=("pos",)), "two labels or more")


def test_front_door_refuses_what_is_not_there(tmp_path):
    refused(lambda: read_data(tmp_path / "none.csv"), "does not exist", "hf:NAME")
    refused(lambda: read_data(tmp_path), "train.jsonl does not exist", "name a task")
    refused(lambda: read_data(tmp_path, test="x.csv"), "leave out the test file")
    refused(lambda: read_data("hf:glue", test="x.csv"), "leave out the test file")


@pytest.mark.parametrize(
    ("row", "columns", "expected"),
    [
        ({"text": "x"}, {}, ("x", None)),
        ({"text_a": "x"}, {}, ("x", None)),
        ({"text_a": "x", "text_b": "y"}, {}, ("x", "y")),
        ({"text_a": "x", "text_b": None}, {}, ("x", None)),
        ({"text": "z", "text_a": "x", "text_b": "y"}, {}, ("z", None)),
        ({"text_a": "x", "b": "y"}, {"text_b": "b"}, ("x", "y")),
        ({"text_a": "x", "text_b": "y"}, {"text": "text_b"}, ("y", None)),
    ],
)
def test_our_own_columns_need_no_options(tmp_path, row, columns, expected):
    path = write(tmp_path / "a.jsonl", json.dumps(row | {"label": 0}) + "\n")
    (example,) = read_table(path, columns=Columns(**columns))
    assert (example.text_a, example.text_b) == expected
