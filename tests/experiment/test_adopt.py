"""Folders of before files were named by their keys: what is damaged, doubled or half adopted loses nothing and stops nothing."""

from __future__ import annotations

import contextlib
import json
import shutil

import numpy as np
import pytest

from lmntk.kernels.kernel import Kernel
from lmntk.runs.adopt import adopt_old_names
from lmntk.runs.records import FineTuningRecord, SplitResults
from lmntk.runs.store import Store

SPLIT = "films-k2-seed13-prompt"
KEY, OTHER = "a" * 64, "b" * 64
HEAD = {"task": "films", "k": 2, "seed": 13, "mode": "prompt", "metric": "accuracy"}


def results():
    rows = [HEAD | {"method": method, "test": 0.5} for method in ("zero-shot", "sgd ridge")]
    rows.append(HEAD | {"method": "sgd fine-tuning", "solver": "fine-tuning", "test": 0.5})
    return {"key": KEY, "cell": SPLIT, "rows": rows, "test_labels": [0, 1], "predictors": [f"{SPLIT}-sgd-ridge"],
            "arms": {"sgd fine-tuning": KEY}}  # fmt: skip


def training():
    return HEAD | {"format": "lmntk finetuning 1", "key": KEY, "cell": SPLIT, "method": "sgd fine-tuning", "test": 0.5,
                   "checkpoint": f"finetuning/{SPLIT}-sgd-fine-tuning/weights.safetensors"}  # fmt: skip


def kernel(key, value):
    return Kernel("sgd", np.full((2, 1, 2, 1), value), provenance={"key": key})


@pytest.fixture
def store(tmp_path):
    """An older folder with one of everything."""
    store = Store(tmp_path)
    store.write_json(f"cells/{SPLIT}.json", results())
    lines = ["row\tlabel\tzero-shot\tsgd ridge\tsgd fine-tuning", "0\t0\t1\t0\t1", "1\t1\t1\t1\t0"]
    store.write_text(f"predictions/{SPLIT}.tsv", "\n".join(lines) + "\n")
    store.write_json(f"finetuning/{SPLIT}-sgd-fine-tuning.json", training())
    store.write_text(f"finetuning/{SPLIT}-sgd-fine-tuning/weights.safetensors", "weights")
    store.write_text(f"models/{SPLIT}-sgd-ridge/predictor.json", "{}")
    kernel(KEY, 1.0).save(tmp_path / "kernels" / SPLIT / "train-sgd.safetensors")
    kernel(OTHER, 2.0).save(tmp_path / "kernels" / SPLIT / "dev-sgd.safetensors")
    return store


def names(store):
    paths = [path for path in store.folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(store.folder)) for path in paths}


ADOPTED = {
    f"cells/{SPLIT}-{KEY[:8]}.json",
    f"finetuning/{SPLIT}-sgd-fine-tuning-{KEY[:8]}.json",
    f"finetuning/{SPLIT}-sgd-fine-tuning-{KEY[:8]}/weights.safetensors",
    f"models/{SPLIT}-sgd-ridge-{KEY[:8]}/predictor.json",
    f"kernels/{SPLIT}-{KEY[:8]}/train-sgd.safetensors",
    f"kernels/{SPLIT}-{OTHER[:8]}/dev-sgd.safetensors",
}


def test_every_file_gets_its_new_name_by_its_own_key(store):
    written = store.written_at(f"cells/{SPLIT}.json")
    adopt_old_names(store)
    assert names(store) == ADOPTED
    record = store.read_record(SplitResults, f"cells/{SPLIT}-{KEY[:8]}.json")
    assert record.predictions == {"zero-shot": [1, 1], "sgd ridge": [0, 1]}
    assert [row.method for row in record.rows] == ["zero-shot", "sgd ridge"]
    assert record.predictors == [f"{SPLIT}-sgd-ridge-{KEY[:8]}"]
    assert store.written_at(f"cells/{SPLIT}-{KEY[:8]}.json") == pytest.approx(written)
    tuned = store.read_record(FineTuningRecord, f"finetuning/{SPLIT}-sgd-fine-tuning-{KEY[:8]}.json")
    assert (store.folder / tuned.checkpoint).read_text() == "weights"
    adopt_old_names(store)
    assert names(store) == ADOPTED


def test_a_folder_that_was_written_again_by_older_code_stops_nothing(store, tmp_path):
    shutil.copytree(tmp_path, tmp_path.parent / "older")
    adopt_old_names(store)
    shutil.copytree(tmp_path.parent / "older", tmp_path, dirs_exist_ok=True)
    adopt_old_names(store)
    assert names(store) >= ADOPTED


@pytest.mark.parametrize("moment", range(1, 9))
def test_killed_at_any_moment_it_goes_on(store, monkeypatch, moment):
    """Each rename and each write is a moment."""

    class KilledError(Exception):
        pass

    calls = []

    def dying(real):
        def called(*arguments, **named):
            calls.append(arguments)
            if len(calls) == moment:
                raise KilledError
            return real(*arguments, **named)

        return called

    with monkeypatch.context() as patched:
        patched.setattr("lmntk.runs.adopt.os.rename", dying(__import__("os").rename))
        patched.setattr(Store, "write_json", dying(Store.write_json))
        with contextlib.suppress(KilledError):
            adopt_old_names(store)
    adopt_old_names(store)
    assert names(store) == ADOPTED


@pytest.mark.parametrize("damage", [{"rows": None}, {"rows": [1]}, {"rows": [{"test": 1}]}, {"key": 3}])
def test_what_is_damaged_is_left_alone(store, damage):
    store.write_json(f"cells/{SPLIT}.json", results() | damage)
    store.write_json(f"finetuning/{SPLIT}-sgd-fine-tuning.json", training() | {"checkpoint": 3})
    adopt_old_names(store)
    assert {f"cells/{SPLIT}.json", f"finetuning/{SPLIT}-sgd-fine-tuning.json"} <= names(store)


def test_a_table_that_is_cut_vouches_for_nothing(store):
    store.write_text(f"predictions/{SPLIT}.tsv", "row\tlabel\tzero-shot\tsgd ridge\n0\t0\t1\t0\n")
    adopt_old_names(store)
    assert not [name for name in names(store) if name.startswith(("cells/", "predictions/"))]  # solved again


def test_results_with_too_few_predictions_are_damaged(store):
    adopt_old_names(store)
    name = f"cells/{SPLIT}-{KEY[:8]}.json"
    store.write_json(name, json.loads((store.folder / name).read_text()) | {"test_labels": [0, 1, 1]})
    assert store.read_record(SplitResults, name) is None
