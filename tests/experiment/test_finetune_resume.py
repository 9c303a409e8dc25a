"""Trainings are found again by content: nothing is done twice, what is cut short goes on, what changed is done anew."""

from __future__ import annotations

import json

import pytest
from finetuned_runs import (
    CELL,
    Watching,
    changed,
    finetuned_values,
    no_kernels,
    no_training,
    record,
    table_of,
    without_seconds,
)
from kept import kept_at
from tiny import (
    BASELINES,
    write_model,
    write_rows,
)

from lmntk.experiment.configuration import make_experiment
from lmntk.experiment.run import run
from lmntk.experiment.steps import finetune as module
from lmntk.finetuning.files import load_weights


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def values(model, tmp_path):
    return finetuned_values(model, tmp_path)


def test_a_finished_training_is_never_done_again(values, monkeypatch):
    first = run(make_experiment(values))
    no_training(monkeypatch)
    progress = Watching()
    assert run(make_experiment(values), progress) == json.loads(json.dumps(first))
    assert progress.found == (1, 1) and progress.begun == []


def test_an_arm_is_added_to_a_finished_run_and_leaves_its_kernels_alone(values, monkeypatch):
    kernels = values | {"formulas": ["sgd", "asigngd"], "finetune": [], "keep_kernels": False}
    before = run(make_experiment(kernels))
    no_kernels(monkeypatch)
    after = run(make_experiment(kernels | {"finetune": ["sgd"]}))
    assert after[:-1] == json.loads(json.dumps(before)) and after[-1]["method"] == "sgd fine-tuning"
    title = kept_at(values["out"] / "predictions" / f"{CELL}.tsv").read_text().splitlines()[0]
    assert title.split("\t") == ["row", "label", *BASELINES, "sgd ridge", "asigngd asym", "sgd fine-tuning"]
    no_training(monkeypatch)
    assert run(make_experiment(kernels)) == after  # without the flag, what was trained stays in the table
    assert run(make_experiment(values)) == after  # and fine-tuning alone finds what there is


def test_kernels_are_added_to_a_finished_fine_tuning(values, monkeypatch):
    run(make_experiment(values))
    no_training(monkeypatch)
    rows = run(make_experiment(values | {"formulas": ["sgd"], "groups": True}))
    assert [row["method"] for row in rows] == [*BASELINES, "sgd ridge", "sgd fine-tuning"]
    assert "sgd fine-tuning" in (values["out"] / "results.csv").read_text()


@pytest.mark.parametrize(
    "change",
    [{"steps": 5}, {"eval_every": 1}, {"loss": "squared"}, {"learning_rates": [1e-2]}, {"batch_sizes": [4]}, {"seed": 1},
     {"dropout": False}, {"schedule": "constant"}, {"max_grad_norm": 0.5}],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_a_changed_setting_trains_anew(values, change):
    run(make_experiment(values))
    before = record(values)
    progress = Watching()
    run(make_experiment(changed(values, **change)), progress)
    assert len(progress.begun) == 1 and record(values)["key"] != before["key"]
    assert [row["method"] for row in table_of(values)] == [*BASELINES, "sgd fine-tuning"]


def test_other_texts_or_weights_train_anew(values, tmp_path):
    run(make_experiment(values))
    progress = Watching()
    run(make_experiment(values | {"model": str(write_model(tmp_path / "other", seed=1))}), progress)
    write_rows(tmp_path / "test.jsonl", 12, offset=3)
    run(make_experiment(values), progress)
    assert len(progress.begun) == 2
    assert [row["method"] for row in table_of(values)] == [*BASELINES, "sgd fine-tuning"]


def test_an_interrupted_run_goes_on_in_the_middle_of_a_training(values, tmp_path):
    values = changed(values, checkpoint_seconds=0)

    class Interrupting(Watching):
        def advance(self, amount):
            super().advance(amount)
            if self.steps == 7:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(make_experiment(values), Interrupting())
    progress = Watching()
    rows = run(make_experiment(values), progress)
    whole = run(make_experiment(values | {"out": tmp_path / "whole"}))
    assert json.loads(json.dumps(rows)) == json.loads(json.dumps(whole))
    assert without_seconds(record(values)) == without_seconds(record(values | {"out": tmp_path / "whole"}))
    assert not (values["out"] / "scratch").exists() and not list(values["out"].rglob("*.partial"))


class Stopping(Watching):
    def advance(self, amount):
        super().advance(amount)
        if self.steps == 3:
            raise KeyboardInterrupt


def test_what_was_begun_in_another_scratch_folder_is_removed(values, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(make_experiment(changed(values, checkpoint_seconds=0)), Stopping())
    assert list((values["out"] / "scratch").glob("finetuning-*"))
    run(make_experiment(changed(values, checkpoint_seconds=0) | {"scratch": tmp_path / "fast"}))
    assert not (values["out"] / "scratch").exists() and not (tmp_path / "fast").exists()


def test_what_a_training_of_other_settings_began_is_removed(values, tmp_path):
    shared = {"scratch": tmp_path / "scratch"}
    other = {"out": tmp_path / "another", "seeds": [21]}
    for of in ({}, other):
        with pytest.raises(KeyboardInterrupt):
            run(make_experiment(changed(values, checkpoint_seconds=0) | shared | of), Stopping())
    assert len(list(shared["scratch"].glob("finetuning-*/run-0/checkpoint-*"))) == 2
    run(make_experiment(changed(values, steps=5) | shared))
    (left,) = shared["scratch"].iterdir()
    assert json.loads((left / "work.json").read_text())["claim"]["path"] == str(tmp_path / "another")
    run(make_experiment(changed(values, checkpoint_seconds=0) | shared | other))
    assert not shared["scratch"].exists()


def test_weights_that_were_put_in_the_place_of_others_are_not_taken_for_them(values, monkeypatch):
    run(make_experiment(changed(values, save_weights=True)))

    def cut_short(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(
        module, "predict_labels", cut_short
    )  # after the weights are written, before the word of them
    with pytest.raises(KeyboardInterrupt):
        run(make_experiment(changed(values, save_weights=True, learning_rates=[5e-2])))
    monkeypatch.undo()
    run(make_experiment(changed(values, save_weights=True)))
    facts = load_weights(values["out"] / record(values)["checkpoint"])[1]
    assert facts["key"] == record(values)["key"]
