"""Folders of the 14 tasks: ours, GLUE's and LM-BFF's k-shot folders."""

import gzip
import json

import pytest

from lmntk.errors import UserError
from lmntk.tasks import Example, read_data, read_folder, read_glue_folder, read_k_shot_folder

GLUE = {
    "sst-2": ('sentence\tlabel\na "b\t1\n', [Example('a "b', None, 1)]),
    "mnli": (
        "index\tsentence1\tsentence2\tlabel1\tgold_label\n0\ta\tb\tneutral\tentailment\n",
        [Example("a", "b", 1)],
    ),
    "snli": (
        "index\tsentence1\tsentence2\tlabel1\tgold_label\n0\ta\tb\tneutral\tneutral\n",
        [Example("a", "b", 2)],
    ),
    "qnli": ("index\tquestion\tsentence\tlabel\n0\ta\tb\tentailment\n", [Example("a", "b", 1)]),
    "rte": ("index\tsentence1\tsentence2\tlabel\n0\ta\tb\tnot_entailment\n", [Example("a", "b", 0)]),
    "mrpc": ("\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t3\t4\ta\tb\n", [Example("a", "b", 1)]),
    "qqp": ("id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n0\t1\t2\ta\tb\t0\n", [Example("a", "b", 0)]),
}


def put(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        stem, _, ending = name.rpartition("__")
        (folder / f"{stem}.{ending}").write_text(text, encoding="utf-8")
    return folder


def test_our_folders(tmp_path):
    folder = tmp_path / "sst-2"
    folder.mkdir()
    record = json.dumps({"text_a": "x", "label": 1}) + "\n"
    (folder / "train.jsonl.gz").write_bytes(gzip.compress(record.encode()))
    with pytest.raises(UserError, match=r"test.jsonl.gz does not exist; its folder has train.jsonl.gz"):
        read_folder(tmp_path, "sst-2")
    (folder / "test.jsonl").write_text(record)
    data = read_folder(tmp_path, "sst-2")
    assert data.train == data.test == (Example("x", None, 1),)
    assert data.labels == ("negative", "positive")
    assert read_folder(folder, "SST-2") == read_data(tmp_path, "sst-2") == data
    (folder / "test.jsonl").write_text(json.dumps({"text_a": "x", "label": 2}))
    with pytest.raises(
        UserError, match=r"test.jsonl line 1: label 2 is out of range; the 2 classes are 0 to 1"
    ):
        read_folder(tmp_path, "sst-2")
    with pytest.raises(UserError, match="does not exist"):
        read_folder(tmp_path / "none", "sst-2")


@pytest.mark.parametrize("task", GLUE)
def test_glue_folders(tmp_path, task):
    text, expected = GLUE[task]
    dev = "dev_matched__tsv" if task == "mnli" else "dev__tsv"
    put(tmp_path / task.upper(), train__tsv=text, test__tsv="index\tsentence\n0\tunlabelled\n", **{dev: text})
    data = read_glue_folder(tmp_path, task)
    assert list(data.train) == list(data.test) == expected
    assert data.dev is None
    assert read_data(tmp_path, task) == data


@pytest.mark.parametrize("task", GLUE)
def test_k_shot_tsv_folders(tmp_path, task):
    text, expected = GLUE[task]
    names = ("dev_matched__tsv", "test_matched__tsv") if task == "mnli" else ("dev__tsv", "test__tsv")
    folder = put(tmp_path / task / "16-13", train__tsv=text, **dict.fromkeys(names, text))
    data = read_k_shot_folder(folder, task)
    assert list(data.train) == list(data.dev) == list(data.test) == expected
    for again in (
        read_k_shot_folder(tmp_path, task, 16, 13),
        read_k_shot_folder(tmp_path / task, task, 16, 13),
        read_data(folder, task),
        read_data(tmp_path, task, k=16, seed=13),
    ):
        assert again == data


@pytest.mark.parametrize("task", ["sst-5", "mr", "cr", "mpqa", "subj", "trec"])
def test_csv_folders(tmp_path, task):
    folder = put(
        tmp_path / task / "16-13",
        **dict.fromkeys(("train__csv", "dev__csv", "test__csv"), '1,"a ""b"", c"\n0,nan\n'),
    )
    data = read_k_shot_folder(folder, task)
    assert data.train == data.dev == data.test == (Example('a "b", c', None, 1), Example("nan", None, 0))
    original = read_glue_folder(folder, task)
    assert (original.train, original.test, original.dev) == (data.train, data.test, None)


def test_ag_news_counts_from_one_and_takes_the_body(tmp_path):
    put(tmp_path, train__csv="4,Title,Body\n", test__csv='1,"T, t",B\n')
    data = read_glue_folder(tmp_path, "ag_news")
    assert (data.train, data.test) == ((Example("Body", None, 3),), (Example("B", None, 0),))
    put(tmp_path, train__csv="0,Title,Body\n")
    with pytest.raises(
        UserError, match=r"train.csv line 1: unknown label '0'; AG News numbers its classes 1 to 4"
    ):
        read_glue_folder(tmp_path, "ag_news")


def test_folder_mistakes(tmp_path):
    with pytest.raises(UserError, match="give both"):
        read_k_shot_folder(tmp_path, "mr", 16)
    with pytest.raises(UserError, match="16-13 does not exist"):
        read_k_shot_folder(tmp_path, "mr", 16, 13)
    put(tmp_path, train__tsv="sentence\tlabel\nx\t2\n", dev__tsv="text\tlabel\nx\t1\n")
    with pytest.raises(
        UserError, match=r"train.tsv line 2: unknown label '2'; the known labels are negative, positive"
    ):
        read_glue_folder(tmp_path, "sst-2")
    put(tmp_path, train__tsv="sentence\tlabel\nx\t1\n")
    with pytest.raises(
        UserError, match=r"dev.tsv line 2: there is no column 'sentence'; the columns are text, label"
    ):
        read_glue_folder(tmp_path, "sst-2")
    with pytest.raises(UserError, match=r"dev_matched.tsv does not exist; its folder has dev.tsv, train.tsv"):
        read_glue_folder(tmp_path, "mnli")


def test_rows_without_gold_label_and_broken_qqp_rows_are_left_out(tmp_path):
    text = "sentence1\tsentence2\tgold_label\na\tb\t-\nc\td\tentailment\n"
    put(tmp_path / "snli", train__tsv=text, dev__tsv=text)
    with pytest.warns(UserWarning, match=r"1 rows without a gold label left out, the first at .*line 2"):
        assert read_glue_folder(tmp_path, "snli").train == (Example("c", "d", 1),)
    text = GLUE["qqp"][0] + "broken\trow\n"
    put(tmp_path / "qqp", train__tsv=text, dev__tsv=text)
    with pytest.warns(UserWarning, match="1 broken rows with too few cells left out, the first at line 3"):
        assert list(read_glue_folder(tmp_path, "qqp").train) == GLUE["qqp"][1]
