"""Hugging Face datasets: real ``load_dataset`` on local files, and the messages when there is no network."""

import sys

import pandas as pd
import pytest

datasets = pytest.importorskip("datasets")

from lmntk.errors import UserError  # noqa: E402
from lmntk.tasks import Columns, Example, read_data, read_hub  # noqa: E402
from lmntk.tasks.hub import read_saved  # noqa: E402


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)


def parquet(path, texts, labels):
    path.parent.mkdir(exist_ok=True)
    pd.DataFrame({"text": texts, "label": labels}).to_parquet(path)
    return str(path)


def pretend(monkeypatch, **splits):
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: datasets.DatasetDict(splits))


def split_of(texts, labels, names=None, **more):
    split = datasets.Dataset.from_dict({"text": texts, "label": labels, **more})
    return split.cast_column("label", datasets.ClassLabel(names=names)) if names else split


def test_local_parquet_files(tmp_path):
    files = {
        "train": parquet(tmp_path / "d" / "train.parquet", ["x", "y"], ["b", "a"]),
        "test": parquet(tmp_path / "d" / "test.parquet", ["z"], ["b"]),
    }
    expected = ((Example("x", None, 1), Example("y", None, 0)), (Example("z", None, 1),), ("a", "b"))
    for data in (read_hub("parquet", data_files=files), read_hub(str(tmp_path / "d"))):
        assert (data.train, data.test, data.labels) == expected


def test_reading_prints_nothing(tmp_path, capfd):
    """No bar of ``datasets``, which has one for each split that it prepares, and for a saved folder of many files."""
    datasets.enable_progress_bars()
    files = {
        name: parquet(tmp_path / "d" / f"{name}.parquet", ["x", "y"] * 9, ["b", "a"] * 9)
        for name in ("train", "test")
    }
    read_hub("parquet", data_files=files)
    whole = datasets.DatasetDict({name: split_of(["x", "y"] * 9, ["b", "a"] * 9) for name in files})
    whole.save_to_disk(tmp_path / "saved", num_shards={"train": 18, "test": 1})
    capfd.readouterr()
    read_saved(tmp_path / "saved")
    read_hub("parquet", data_files={"train": files["test"], "test": files["train"]})
    assert capfd.readouterr() == ("", "")


def test_class_labels_go_by_name_into_the_given_order(monkeypatch):
    names = ["entailment", "neutral", "contradiction"]
    pretend(
        monkeypatch,
        train=split_of(["x", "y"], [0, 2], names, b=["p", "q"]),
        validation=split_of(["z"], [1], names, b=["r"]),
    )
    data = read_hub("some/nli", columns=Columns(text_b="b"))
    assert (data.labels, data.train[1]) == (tuple(names), Example("y", "q", 2))
    data = read_data("hf:some/nli", "mnli", columns=Columns(text_b="b"))
    assert (data.train, data.test) == ((Example("x", "p", 1), Example("y", "q", 0)), (Example("z", "r", 2),))


def test_hidden_test_labels_fall_back_to_validation(monkeypatch):
    names = ["no", "yes"]
    pretend(
        monkeypatch,
        train=split_of(["x", "y"], [0, 1], names),
        test=split_of(["t"], [-1], names),
        validation=split_of(["v"], [1], names),
    )
    with pytest.warns(UserWarning, match="some/name: 'test' hides its labels; tested on 'validation'"):
        assert read_hub("some/name").test == (Example("v", None, 1),)
    with pytest.raises(UserError, match=r"split 'test': every label in 'label' is -1.*`lmntk predict`"):
        read_hub("some/name", test_split="test")


def test_unlabelled_rows_are_left_out_with_a_warning(monkeypatch):
    pretend(
        monkeypatch,
        train=split_of(["x", "y", "w"], [0, -1, 1], ["no", "yes"]),
        test=split_of(["t"], [1], ["no", "yes"]),
    )
    with pytest.warns(
        UserWarning, match="1 rows without a label left out, the first some/name, split 'train', row 2"
    ):
        assert len(read_hub("some/name").train) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"columns": Columns(text="body")},
            "some/name, split 'train': there is no column 'body'; the columns are text, label",
        ),
        ({"train_split": "learn"}, "there is no split 'learn'; the splits are train, test"),
        ({"test_split": "exam"}, "there is no split 'exam'; the splits are train, test"),
        ({"labels": ("a", "b")}, "split 'test', row 1: unknown label 'c'; the known labels are a, b"),
    ],
)
def test_wrong_columns_splits_and_labels(monkeypatch, options, message):
    pretend(monkeypatch, train=split_of(["x", "y"], ["a", "b"]), test=split_of(["t"], ["c"]))
    with pytest.raises(UserError, match=message):
        read_hub("some/name", **options)


def test_no_test_split(monkeypatch):
    pretend(monkeypatch, train=split_of(["x", "y"], ["a", "b"]))
    with pytest.raises(UserError, match="no split to test on has labels in 'label'"):
        read_hub("some/name")


def failing(error):
    def load(*args, **options):
        raise error

    return load


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            ConnectionError("Couldn't reach\n'a/b'"),
            "the hub cannot be reached and there is no copy in the cache",
        ),
        (type("ConnectError", (Exception,), {})("dns"), "the hub cannot be reached"),
        (datasets.exceptions.DatasetNotFoundError("gone"), "dataset 'a/b' does not exist on the hub"),
        (
            ValueError("Config name is missing.\nPick one"),
            r"dataset 'a/b', configuration 'c': cannot be loaded \(Config name is missing. Pick",
        ),
    ],
)
def test_load_errors_are_one_line(monkeypatch, error, message):
    monkeypatch.setattr(datasets, "load_dataset", failing(error))
    with pytest.raises(UserError, match=message) as caught:
        read_hub("a/b", "c")
    assert "\n" not in str(caught.value)


def test_missing_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'lmntk\[data\]'"):
        read_hub("a/b")


@pytest.mark.parametrize("name", ["./none", "/no/such/folder", "data/some/none", "train.csv"])
def test_local_paths_never_reach_the_network(monkeypatch, name):
    monkeypatch.setattr(datasets, "load_dataset", failing(AssertionError("the network was asked")))
    with pytest.raises(UserError, match="does not exist"):
        read_hub(name)
