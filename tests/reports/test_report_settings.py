"""The settings of a run on its page: tables, what an earlier run changes, and a file that runs it again."""

from __future__ import annotations

import json
import tomllib

import pytest

# plots are left undrawn, but where a test is about them
pytestmark = pytest.mark.usefixtures("empty_plots")


def test_nested_settings_are_tables_of_their_own():
    from lmntk.reports.rerun import as_toml, settings_rows

    settings = {
        "model": "m",
        "finetuning": {"steps": 20, "schedule": "linear", "seed": None},
        "k": [4],
        "own_tasks": [{"name": "a"}],
    }
    assert tomllib.loads(as_toml(settings)) == settings | {"finetuning": {"steps": 20, "schedule": "linear"}}
    plain, own, off = settings_rows(settings)
    assert ("finetuning: steps", "20") in plain and own == [("a", [])] and off == ["finetuning: seed"]


def test_settings_of_an_earlier_run_are_shown_as_what_they_change():
    from lmntk.reports.rerun import changes

    now = {
        "k": [16],
        "test_limit": 300,
        "data": "d",
        "finetuning": {"steps": 64, "seed": 3, "loss": "squared"},
        "own_tasks": [],
    }
    before = {"k": [16], "test_limit": None, "data": "d", "finetuning": {"steps": 9, "seed": None, "loss": "squared"}, "modes": ["head"],
              "own_tasks": [{"name": "a"}]}  # fmt: skip
    text = changes(now, before)
    assert tomllib.loads(text) == {
        "modes": ["head"],
        "finetuning": {"steps": 9},
        "own_tasks": [{"name": "a"}],
    }
    assert "# without test_limit\n" in text and "# without finetuning.seed\n" in text and "loss" not in text
    assert changes(now, now) == ""
    # an earlier run did not have this switch
    own = [{"name": "a"}]
    off = now | {"own_tasks": [own[0] | {"chat": False}], "chat": False}
    assert changes(now | {"own_tasks": own}, off) == ""
    assert changes(now, now | {"chat": True}) == "chat = true\n"
    assert changes(now, now | {"finetuning": {"steps": 64, "seed": 3}}) == "# without finetuning.loss\n"


def test_the_settings_run_again_as_they_are(tmp_path):
    from lmntk.experiment.configuration import load_experiment, make_experiment

    own = {
        "name": "mine",
        "train": 'a "quoted" \\ path.csv',
        "template": "{a} ü\x7f {mask}",
        "label_words": ["a", "b"],
    }
    training = {"learning_rates": {"sgd": [1e-3, 0.1 + 0.2], "adamw": [2e-5]}, "seed": None, "batch_sizes": 4}
    values = {"model": "m", "own_tasks": [own], "k": [4], "memory": "1GiB", "groups": True, "out": tmp_path}
    experiment = make_experiment(values | {"finetune": "sgd,adamw", "finetuning": training, "seeds": [1, 2]})
    from lmntk.reports.rerun import as_toml

    (tmp_path / "experiment.toml").write_text(
        as_toml(json.loads(json.dumps(experiment.model_dump(mode="json")))), encoding="utf8"
    )
    assert load_experiment(tmp_path / "experiment.toml", {}) == experiment
