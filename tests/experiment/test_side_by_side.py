"""Runs of other settings in one folder lie side by side: neither overwrites the other."""

from __future__ import annotations

import pytest
from tiny import films, write_model

from lmntk.experiment.configuration import make_experiment
from lmntk.experiment.run import run
from lmntk.experiment.solve_folder import solve_folder
from lmntk.experiment.steps import finetune as finetuning
from lmntk.experiment.steps import kernels as kernel_steps
from lmntk.runs.reading import read_run
from lmntk.system.hashing import SHORT, Key, content_key

SPLIT = "films-k2-seed13-prompt"
CHANGES = [
    {"template": "the film was {mask}. {a}"},
    {"dtype": "float64"},
    {"keep_noise": True},
    {"finetuning": {"learning_rates": [1e-2], "batch_sizes": [2], "steps": 2, "eval_every": 1}},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def values(model, tmp_path):
    own = films(tmp_path, 24, 8)
    training = {"learning_rates": [1e-1], "batch_sizes": [2], "steps": 2, "eval_every": 1}
    return {
        "model": str(model),
        "own_tasks": [own],
        "k": [2],
        "seeds": [13],
        "formulas": ["sgd"],
        "finetune": ["sgd"],
        "finetuning": training,
        "save_models": True,
        "out": tmp_path / "out",
    }


def files_in(folder):
    """Return what is kept; the table of predictions is made of it, as results.csv is."""
    parts = ("splits", "kernels", "finetunings", "models")
    return {
        path: path.read_bytes() for part in parts for path in (folder / part).rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_neither_of_two_runs_overwrites_the_other(values, monkeypatch, change):
    first = run(make_experiment(values))
    before = files_in(values["out"])
    second = run(make_experiment(values | change))
    after = files_in(values["out"])
    assert before.items() <= after.items() and len(after) > len(before)
    stems = {path.stem for path in (values["out"] / "splits").iterdir()}
    assert stems == {path.stem for path in (values["out"] / "predictions").iterdir()}
    shown = [row for row in read_run(values["out"]).rows if row["method"] == "sgd fine-tuning"]
    assert [row["test"] for row in shown] == [
        row["test"] for row in second if row["method"] == "sgd fine-tuning"
    ]
    monkeypatch.setattr(kernel_steps, "stream_kernels", lambda *a, **k: pytest.fail("computed a kernel"))
    monkeypatch.setattr(finetuning, "search", lambda *a, **k: pytest.fail("trained a grid"))
    assert run(make_experiment(values)) == first  # and back, and forth
    assert run(make_experiment(values | change)) == second
    assert files_in(values["out"]) == after


def test_the_page_names_what_lies_beside_and_solve_has_both(values):
    run(make_experiment(values))
    run(make_experiment(values | {"template": "the film was {mask}. {a}"}))
    reading = read_run(values["out"])
    assert any("results have other settings" in note for note in reading.notes)
    assert list(reading.splits) == [SPLIT]
    names = {row["split"] for row in solve_folder(values["out"], "films")}
    assert len(names) == 2 and all(name.startswith(f"{SPLIT}-") for name in names)
    for name in names:  # either alone, by its whole name
        assert {row["split"] for row in solve_folder(values["out"], name)} == {SPLIT}


def test_a_key_is_a_dict_with_a_digest():
    key = Key(weights="3f", texts=["a fine film"], seed=13)
    assert key.digest == content_key(weights="3f", texts=["a fine film"], seed=13)
    assert key.short == key.digest[:SHORT] == key.digest[:8]
    assert key.but("texts", "seed") == {"weights": "3f"} and key.but("texts").digest != key.digest
    assert key.also(metric="f1") == {**key, "metric": "f1"} and "metric" not in key
