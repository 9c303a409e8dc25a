"""A label is the text that the file has: what a numeric column is, which classes labels make, and what is refused or said."""

import csv
import subprocess
import sys

import pandas as pd
import pyarrow as pa
import pytest
from label_files import WRITERS, heard, write_csv, write_jsonl, write_parquet

from lmntk.errors import UserError
from lmntk.tasks import Columns, Example, read_data, read_folder, read_hub, read_k_shot_folder, read_table

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)


def classes_of(data):
    return [data.labels[example.label] for example in data.train]


@pytest.mark.parametrize("ending", WRITERS)
@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["0", "1", "0"], ("0", "1")),
        (["10", "9", "-1", "9.0"], ("-1", "9", "10")),  # numbers by value; .0 is dropped there alone
        (["3.0", "10.00", "3"], ("3", "10")),
        (["0111", "0724", "0111"], ("0111", "0724")),
        (["10", "010"], ("010", "10")),
        (["100000", "1e5"], ("100000", "1e5")),
        (["10", "1_0"], ("10", "1_0")),
        (["A", "A-", "A+"], ("A", "A+", "A-")),
        (["1", "+1"], ("+1", "1")),
        (["1.0", "1.5", "10.0"], ("1.0", "1.5", "10.0")),
        (["1234567890123456789", "1234567890123456790"], ("1234567890123456789", "1234567890123456790")),
        (["999999999999999.0", "7"], ("7", "999999999999999")),  # 15 digits, and one more
        (["9999999999999999.0", "7"], ("7", "9999999999999999.0")),
        (["٣", "٤"], ("٣", "٤")),
        (["inf", "1"], ("1", "inf")),
        (["b", "a", "B", "_"], ("B", "_", "a", "b")),
        ([" b", "a"], (" b", "a")),
        (["true", "false"], ("false", "true")),
    ],
)
def test_labels_in_text_are_verbatim(tmp_path, ending, labels, names):
    path = WRITERS[ending](tmp_path / f"train.{ending}", labels)
    data, _ = heard(lambda: read_data(path))
    assert data.labels == names
    plain = dict(zip(labels, classes_of(data), strict=True))
    assert all(known in (label, label.split(".")[0]) for label, known in plain.items())


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([1, 0, -1], ("-1", "0", "1")),
        ([1234567890123456789, 1234567890123456790], ("1234567890123456789", "1234567890123456790")),
        ([3.0, 10.0], ("3", "10")),
        ([0.5, 1.0], ("0.5", "1.0")),
        ([True, False], ("false", "true")),
        (["1", "0"], ("0", "1")),
    ],
)
def test_typed_columns_go_by_their_type(tmp_path, labels, names):
    files = [WRITERS[ending](tmp_path / f"train.{ending}", labels) for ending in ("jsonl", "parquet")]
    assert {heard(lambda path=path: read_data(path))[0].labels for path in files} == {names}


def test_json_keeps_what_float64_does_not(tmp_path):
    path = tmp_path / "train.jsonl"
    numbers = ("0.12345678901234567890", "0.12345678901234567891", "1.10")
    path.write_text("".join(f'{{"text": "t", "label": {number}}}\n' for number in numbers))
    assert read_data(path).labels == ("0.12345678901234567890", "0.12345678901234567891", "1.1")


@pytest.mark.parametrize(
    ("ending", "labels"),
    [
        ("csv", ["0", "1", "NaN"]),
        ("csv", ["0.5", "1e5", "NA"]),
        ("csv", ["2", "None", "3"]),
        ("csv", ["2", "null", "3"]),
        ("jsonl", [0, 1, "nan"]),
        ("csv", ["NaN", "NA"]),
    ],
)
def test_missing_ones_among_numbers_are_errors(tmp_path, ending, labels):
    path = WRITERS[ending](tmp_path / f"train.{ending}", labels)
    missing = next(label for label in labels if str(label).lower() in ("nan", "na", "none", "null"))
    with pytest.raises(
        UserError, match=f"train.* (line|row) .*{missing!r} among numbers means a missing label"
    ):
        read_data(path)


def test_missing_ones_among_words_are_a_class_and_said(tmp_path):
    data, lines = heard(lambda: read_data(write_csv(tmp_path / "a.csv", ["some", "None", "all"])))
    assert data.labels == ("None", "all", "some")
    assert any("'None' among the labels counts as a class" in line for line in lines)


@pytest.mark.parametrize("blank", ["", "  ", None, float("nan")])
def test_an_empty_cell_is_an_error(tmp_path, blank):
    write = write_csv if isinstance(blank, str) else write_jsonl
    path = write(tmp_path / ("a.csv" if isinstance(blank, str) else "a.jsonl"), ["0", blank, "1"])
    with pytest.raises(UserError, match=r"a\.\w+ line \d: 'label' is empty"):
        read_data(path)
    with pytest.raises(UserError, match=r"b\.parquet row 2: 'label' is empty"):
        read_data(write_parquet(tmp_path / "b.parquet", pa.array([0, None, 1])))


@pytest.mark.parametrize("ending", WRITERS)
@pytest.mark.parametrize("hidden", [-1, "-1", None])
def test_labels_that_are_all_hidden(tmp_path, ending, hidden):
    shown = WRITERS[ending](tmp_path / f"train.{ending}", ["0", "1"])
    hiding = WRITERS[ending](tmp_path / f"test.{ending}", [hidden, hidden])
    for labels in (None, ("0", "1")):
        with pytest.raises(UserError, match=rf"test.{ending}: every label in 'label' is .*`lmntk predict`"):
            read_data(shown, test=hiding, labels=labels)
    with pytest.raises(
        UserError, match=rf"test.{ending}: every label in 'label' is .*train on texts with labels"
    ):
        read_data(hiding)
    assert [example.label for example in read_table(hiding, require_label=False)] == [None, None]


def test_minus_one_beside_others_is_a_class(tmp_path):
    data, _ = heard(lambda: read_data(write_csv(tmp_path / "a.csv", ["1", "-1", "0"])))
    assert classes_of(data) == ["1", "-1", "0"]
    plain = write_csv(tmp_path / "b.csv", ["0", "1"])
    with pytest.raises(UserError, match=r"a.csv line 3: unknown label '-1'"):
        read_data(plain, test=tmp_path / "a.csv")
    with pytest.raises(UserError, match="unknown label '-1'; the known labels are 0, 1"):
        read_data(tmp_path / "a.csv", labels=("0", "1"))


def test_hidden_rows_of_class_numbers_are_left_out_by_path_and_by_hub(tmp_path):
    write_parquet(tmp_path / "train.parquet", [2, 0, -1, 1], ["zeta", "mid", "alpha"])
    write_parquet(tmp_path / "test.parquet", [1, 1], ["zeta", "mid", "alpha"])
    for source in (tmp_path, f"hf:{tmp_path}"):
        data, lines = heard(lambda source=source: read_data(source))
        assert data.labels == ("zeta", "mid", "alpha")
        assert classes_of(data) == ["alpha", "zeta", "mid"]
        assert any("1 rows without a label left out" in line and "row 3" in line for line in lines)


@pytest.mark.parametrize(
    "train",
    [
        pytest.param(["10", "9", "9.0"], id="numbers"),
        pytest.param(["b", "a", "B"], id="words"),
        pytest.param(["010", "10"], id="zeros"),
        pytest.param([True, False], id="truth"),
        pytest.param([10, 9, -1], id="integers"),
        pytest.param([0.5, 10.0], id="floats"),
    ],
)
def test_classes_are_the_same_by_path_by_hub_and_by_saved_dataset(tmp_path, train):
    write_parquet(tmp_path / "train.parquet", train)
    write_parquet(tmp_path / "test.parquet", train)
    split = datasets.Dataset.from_dict({"text": [f"text {i}" for i in range(len(train))], "label": train})
    datasets.DatasetDict(train=split, test=split).save_to_disk(tmp_path / "saved")
    sources = (tmp_path, f"hf:{tmp_path}", tmp_path / "saved")
    by_path, by_hub, saved = (heard(lambda source=source: read_data(source))[0] for source in sources)
    assert by_path == by_hub == saved
    assert (
        heard(lambda: read_data(tmp_path / "saved" / "train", test=tmp_path / "saved" / "test"))[0] == by_path
    )


def test_class_names_of_parquet_come_first(tmp_path):
    path = write_parquet(tmp_path / "train.parquet", [0, 1, 1], ["zeta", "alpha"])
    assert read_data(path).labels == ("zeta", "alpha")
    assert read_data(path, labels=("alpha", "zeta")).train[0].label == 1
    assert read_data(path, labels=("1", "0")).train[0].label == 1  # the user named the numbers
    with pytest.raises(UserError, match="row 2: class number 1 is out of range; the 1 classes are 0 to 0"):
        read_data(write_parquet(tmp_path / "b.parquet", [0, 1], ["only"]))
    test = write_csv(tmp_path / "test.csv", ["Alpha", "0"])
    data, lines = heard(lambda: read_data(path, test=test))
    assert [example.label for example in data.test] == [1, 0]
    assert any("test.csv: label '0' as zeta, 'Alpha' as alpha" in line for line in lines)


@pytest.mark.parametrize(
    ("labels", "given", "classes", "said"),
    [
        (
            ["Not_Equal", "EQUAL"],
            ("not equal", "equal"),
            [0, 1],
            "'EQUAL' as equal, 'Not_Equal' as not equal",
        ),
        (["0", "1"], ("no", "yes"), [0, 1], "'0' as no, '1' as yes"),
        (["1", "2"], ("2", "1"), [1, 0], ""),
        (["1.0", "2"], ("2", "1"), [1, 0], ""),
        (["no", "yes"], ("no", "yes"), [0, 1], ""),
        (["A", "A-"], ("A-", "A"), [1, 0], ""),
    ],
)
def test_given_labels_forgive_and_say_so(tmp_path, labels, given, classes, said):
    data, lines = heard(lambda: read_data(write_csv(tmp_path / "a.csv", labels), labels=given))
    assert [example.label for example in data.train] == classes
    assert [line.partition("label ")[2] for line in lines] == ([said] if said else [])


@pytest.mark.parametrize("value", ["-1", "A+", "a", "2", "01", "1e0", "1_0", "x-"])
def test_given_labels_do_not_forgive_everything(tmp_path, value):
    with pytest.raises(UserError, match=r"a.csv line 3: unknown label"):
        read_data(write_csv(tmp_path / "a.csv", ["x", value]), labels=("x", "1", "A-"))


@pytest.mark.parametrize(("count", "more"), [(12, ""), (13, " and 1 more"), (15, " and 3 more")])
def test_twelve_labels_are_listed_and_the_others_counted(tmp_path, count, more):
    names = [f"t{i:02}" for i in range(count)]
    _, (line,) = heard(lambda: read_data(write_csv(tmp_path / "a.csv", map(str.upper, names)), labels=names))
    assert line.endswith(f", 'T11' as t11{more}")
    with pytest.raises(UserError, match=rf"the known labels are t00, .*, t11{more}$"):
        read_data(write_csv(tmp_path / "b.csv", ["x"]), labels=names)


@pytest.mark.parametrize("value", ["Pos", "pos ", "0", "p\u200bos"])
def test_found_labels_match_to_the_letter(tmp_path, value):
    train = write_csv(tmp_path / "train.csv", ["pos", "neg"])
    with pytest.raises(UserError, match=r"test.csv line 2: unknown label"):
        read_data(train, test=write_csv(tmp_path / "test.csv", [value]))


@pytest.mark.parametrize(
    "twins", [("Pos", "pos"), ("é", "e\u0301"), ("a", "a\u200b"), ("a", "a\xa0"), ("x y", "x\ty")]
)
def test_labels_that_look_alike_are_said(tmp_path, twins):
    data, lines = heard(lambda: read_data(write_jsonl(tmp_path / "a.jsonl", [*twins, "other"])))
    assert sorted(data.labels) == sorted([*twins, "other"])
    (line,) = [line for line in lines if "sign; they are 2 classes" in line]
    assert all(ascii(name) in line for name in twins)
    _, lines = heard(lambda: read_data(write_jsonl(tmp_path / "b.jsonl", ["A", "A-", "ab"])))
    assert lines == []


def test_class_order_does_not_depend_on_the_hash_seed(tmp_path):
    write_csv(tmp_path / "a.csv", ["b", "nan", "a", "1", "2.0", "é"])
    code = f"from lmntk.tasks import read_data; print(ascii(read_data({str(tmp_path / 'a.csv')!r}).labels))"
    printed = {
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(filter(None, sys.path))},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert printed == {"('1', '2.0', 'a', 'b', 'nan', '\\xe9')\n"}


@pytest.mark.parametrize("require_label", [True, False])
@pytest.mark.parametrize(
    "cell", ['["a", "b"]', "\"['a', 'b']\"", '"[1]"', '"[]"'], ids=["list", "text", "numbers", "none"]
)
def test_texts_with_several_labels_are_refused_by_name(tmp_path, cell, require_label):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "x", "label": "a"}}\n{{"text": "y", "label": {cell}}}\n')
    with pytest.raises(
        UserError, match=r"a.jsonl line 2: 'label' holds a list of labels .* not supported; give"
    ):
        read_table(path, require_label=require_label)


def test_a_label_in_brackets_is_a_label(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "x", "label": "[neg]"}\n{"text": "y", "label": "[pos]"}\n')
    assert read_data(path).labels == ("[neg]", "[pos]")


@pytest.mark.parametrize("value", [{"a": 1}, b"a"])
def test_cells_that_are_no_labels(tmp_path, value):
    path = write_parquet(tmp_path / "a.parquet", [value, value])
    with pytest.raises(UserError, match=r"a.parquet row 1: 'label' holds .* is neither text nor a number"):
        read_data(path)


def test_pandas_categories_and_nullable_columns(tmp_path):
    for labels in (
        pd.Categorical(["b", "a"]),
        pd.array([2, 1], dtype="Int64"),
        pd.array(["b", "a"], dtype="string"),
    ):
        pd.DataFrame({"text": ["x", "y"], "label": labels}).to_parquet(tmp_path / "a.parquet")
        assert [example.label for example in read_data(tmp_path / "a.parquet").train] == [1, 0]


def test_a_folder_that_is_called_like_a_column(tmp_path):
    folder = tmp_path / "label=7"
    folder.mkdir()
    data = read_data(write_parquet(folder / "train.parquet", ["b", "a"]))
    assert data.labels == ("a", "b")


def test_class_numbers_of_the_catalog_are_written_plainly(tmp_path):
    folder = tmp_path / "mr"
    folder.mkdir()
    (folder / "test.jsonl").write_text('{"text_a": "x", "label": "NEGATIVE"}\n')
    (folder / "train.jsonl").write_text(
        '{"text_a": "y", "label": "1"}\n{"text_a": "z", "label": "positive"}\n'
    )
    data, lines = heard(lambda: read_folder(folder, "mr"))
    assert [example.label for example in (*data.train, *data.test)] == [1, 1, 0]
    assert ["'1' as positive" in lines[0], "'NEGATIVE' as negative" in lines[1]] == [True, True]
    split = tmp_path / "16-13"
    split.mkdir()
    for part in ("train", "dev", "test"):
        (split / f"{part}.csv").write_text("01,a text\n")
    with pytest.raises(UserError, match="unknown label '01'; MR numbers its classes 0 to 1"):
        read_k_shot_folder(split, "mr")


def test_plain_minus_one_of_a_hub_dataset_is_a_class(monkeypatch):
    split = datasets.Dataset.from_dict({"text": ["x", "y", "z"], "label": [1, -1, 0]})
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *_, **__: datasets.DatasetDict(train=split, test=split)
    )
    data, _ = heard(lambda: read_hub("some/name"))
    assert classes_of(data) == ["1", "-1", "0"]
    holed = datasets.Dataset.from_dict({"text": ["x", "y"], "label": ["a", None]})
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *_, **__: datasets.DatasetDict(train=holed, test=split)
    )
    with pytest.raises(UserError, match="split 'train', row 2: 'label' is empty"):
        read_hub("some/name")


def test_remarks_on_texts(tmp_path):
    rows = [("a", "x"), ("", "y"), ("b", "x"), (" ", "y")]
    for name, part in (("train", rows), ("test", [("b", "y"), ("c", "x"), ("b", "x"), ("", "x")])):
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *part])
    _, lines = heard(lambda: read_data(tmp_path))
    assert [line.removeprefix(str(tmp_path)) for line in lines] == [
        ": 2 of 4 train texts are empty",
        ": 1 of 4 test texts is empty",
        ": 3 of 4 test texts are among the train texts too",
    ]


def test_a_second_text_that_nobody_reads_is_said(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,text_b,label\nx,u,0\ny,v,1\n")
    data, lines = heard(lambda: read_data(path))
    assert data.train == (Example("x", None, 0), Example("y", None, 1))
    assert len(lines) == 1 and "column 'text_b' is not read" in lines[0]
    assert heard(lambda: read_data(path, columns=Columns(text_b="text_b")))[1] == []


def test_what_a_test_label_means_is_up_to_the_train_texts(tmp_path):
    """A test file of one word is no column of numbers with a missing one."""
    for name in ("none", "NaN"):
        train = write_csv(tmp_path / "train.csv", [name, "good", name])
        data, _ = heard(
            lambda train=train, name=name: read_data(train, test=write_csv(tmp_path / "test.csv", [name]))
        )
        assert [data.labels[example.label] for example in data.test] == [name]


def test_class_labels_that_are_twice_the_same_are_refused(tmp_path):
    path = write_parquet(tmp_path / "train.parquet", [0, 1, 2], ["pos", "pos", "neg"])
    with pytest.raises(UserError, match=r"ClassLabel names \['pos', 'pos', 'neg'\] are not all different"):
        read_data(path)


def test_numbers_beside_names_that_are_numbers_are_refused(tmp_path):
    train = write_parquet(tmp_path / "train.parquet", [0, 1, 0], ["1", "0"])
    test = write_parquet(tmp_path / "test.parquet", [1, 0])
    with pytest.raises(
        UserError, match=r"its labels are numbers, and so are the ClassLabel names \['1', '0'\]"
    ):
        read_data(train, test=test)
    named = write_parquet(tmp_path / "named.parquet", [1, 0], ["1", "0"])
    data, _ = heard(lambda: read_data(train, test=named))
    assert [data.labels[example.label] for example in data.test] == ["0", "1"]
