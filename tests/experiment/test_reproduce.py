"""``lmntk reproduce``: the paper's experiments are whole configurations, and run on tiny models and texts."""

from __future__ import annotations

import gzip
import json

import pytest
from kept import kept_at
from tiny import BASELINES, write_model, write_rows
from typer.testing import CliRunner

from lmntk.bundled.experiments import path_of, titles
from lmntk.cli.app import app
from lmntk.errors import UserError
from lmntk.experiment.configuration import load_experiment
from lmntk.reports.rerun import as_toml
from lmntk.tasks import SEEDS, TASKS

SMALL = [
    "--k",
    "2",
    "--seeds",
    "13",
    "--test-limit",
    "6",
    "--learning-rates",
    "1e-3",
    "--batch-sizes",
    "4",
    "--steps",
    "2",
    "--json",
]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A model's folder, and one of texts of two tasks."""
    base = tmp_path_factory.mktemp("reproduce")
    for task in ("sst-2", "mr"):
        (base / "data" / task).mkdir(parents=True)
        for side, count in (("train", 20), ("test", 8)):
            content = write_rows(base / "rows.jsonl", count, offset=side == "test").read_bytes()
            (base / "data" / task / f"{side}.jsonl.gz").write_bytes(gzip.compress(content))
    return ["--model", str(write_model(base / "model")), "--data", str(base / "data")]


@pytest.mark.parametrize("name", titles())
def test_every_experiment_is_the_papers(name, tmp_path):
    found = load_experiment(path_of(name), {"model": "m", "data": "d"})
    (tmp_path / "again.toml").write_text(as_toml(found.model_dump(mode="json")), encoding="utf8")
    assert load_experiment(tmp_path / "again.toml", {}) == found  # as the page has it, to run it again
    assert found.diagnose and found.finetune and found.seeds == SEEDS and found.finetuning.steps == 1000
    assert (
        found.finetuning.batch_sizes == (2, 4, 8)
        and found.finetuning.eval_every == 100
        and found.finetuning.learning_rates is None
    )
    if name == "main":
        assert (
            set(found.tasks) == set(TASKS)
            and found.k == (16, 64)
            and found.finetune == ("sgd", "adamw")
            and len(found.formulas) == 3
        )
    if name == "subspaces":
        arms = [(arm.lora_rank, arm.train_only, arm.intrinsic_dimension) for arm in found.finetuning.choices]
        assert arms == [(None, None, None), (8, None, None), (None, "biases", None), (None, None, 1000)]
    assert len(titles()[name]) > 40


def test_subspaces_stand_side_by_side_each_with_its_own_regime_and_forecast(places, tmp_path):
    words = ["reproduce", "subspaces", *places, "--tasks", "sst-2", "--out", str(tmp_path / "out"), *SMALL]
    found = json.loads(CliRunner().invoke(app, words, catch_exceptions=False).stdout)
    arms = ["", " (lora r=8 on query+value)", " (biases)", " (intrinsic dimension 1000)"]
    assert {one["method"] for one in found["verdicts"]} == {f"sgd fine-tuning{arm}" for arm in arms}
    for one in found["verdicts"]:
        assert one["regime"]["error"] is not None and one["forecast"]["kernel"] is not None
    rates = {
        row["method"]: row["setting"]["learning_rate"]
        for row in found["rows"]
        if "fine-tuning" in row["method"]
    }
    assert [rates[f"sgd fine-tuning{arm}"] for arm in arms] == [1e-3, 0.1, 1e-2, 1e-3]


def test_one_that_is_cut_to_size_runs_to_its_verdicts(places, tmp_path):
    words = ["reproduce", "main", *places, "--tasks", "sst-2,mr", "--out", str(tmp_path / "out"), *SMALL]
    found = json.loads(CliRunner().invoke(app, words, catch_exceptions=False).stdout)
    methods = [
        *BASELINES,
        "sgd ridge",
        "signgd ridge",
        "asigngd asym",
        "sgd fine-tuning",
        "adamw fine-tuning",
    ]
    assert [row["method"] for row in found["rows"]] == methods * 2
    assert [(one["title"], one["method"]) for one in found["verdicts"]] == [
        (title, f"{optimizer} fine-tuning") for title in ("SST-2", "MR") for optimizer in ("sgd", "adamw")
    ]  # fmt: skip
    assert (tmp_path / "out" / "report.html").is_file()


def test_prompts_of_one_task_stand_side_by_side(places, tmp_path):
    words = [
        "reproduce",
        "prompt-choice",
        *places,
        "--out",
        str(tmp_path / "out"),
        *SMALL,
        "--kind",
        "masked",
    ]
    path = path_of("prompt-choice")
    tasks = [task.name for task in load_experiment(path, {"model": "m", "data": "d"}).own_tasks]
    with pytest.raises(UserError, match="label word 'red'"):  # the tiny model knows neither red nor blue
        CliRunner().invoke(app, words, catch_exceptions=False)
    own = [
        task
        for task in load_experiment(path, {"model": "m", "data": "d"}).own_tasks
        if "red" not in (task.label_words or ())
    ]
    assert len(tasks) == 6 and len(own) == 5
    from lmntk.experiment.run import run

    how = {"learning_rates": [1e-3], "batch_sizes": [4], "steps": 2}
    change = {
        "model": places[1],
        "data": places[3],
        "out": tmp_path / "out",
        "k": [2],
        "seeds": [13],
        "own_tasks": own[:2],
    }
    rows = run(load_experiment(path, change | {"finetuning": how, "test_limit": 6}))
    assert {row["task"] for row in rows} == {"it-was", "a-film"} and {row["test_texts"] for row in rows} == {
        6
    }
    splits = [
        json.loads(kept_at(tmp_path / "out" / "splits" / f"{task}-k2-seed13-prompt.json").read_text())[
            "row_numbers"
        ]
        for task in ("it-was", "a-film")
    ]
    assert splits[0] == splits[1]


def test_what_there_is_and_mistakes():
    said = CliRunner().invoke(app, ["reproduce", "--list"], catch_exceptions=False).stdout
    assert (
        all(line.split()[0] in titles() for line in said.splitlines())
        and len(said.splitlines()) == len(titles()) == 9
    )
    for words, expected in [
        (["mian", "--model", "m", "--data", "d"], "'mian' is not one of main"),
        (["main", "--data", "d"], "give --model"),
        (["main", "--model", "m"], "give --data"),
        (["prompt-choice", "--model", "m", "--data", "d", "--tasks", "mr"], "--tasks does not fit"),
        ([], "name an experiment: main"),
    ]:
        with pytest.raises(UserError, match=expected):
            CliRunner().invoke(app, ["reproduce", *words], catch_exceptions=False)


@pytest.mark.parametrize(
    ("option", "value"), [("learning-rates", "sgd:1e-3"), ("steps", "0"), ("k", "0"), ("tasks", "sst")]
)
def test_a_wrong_option_is_named_and_not_the_file_that_it_goes_over(option, value):
    words = ["reproduce", "main", "--model", "m", "--data", "d", f"--{option}", value]
    with pytest.raises(UserError, match=f"^{option.replace('-', '_')}") as caught:
        CliRunner().invoke(app, words, catch_exceptions=False)
    assert (
        value in str(caught.value) and ".toml" not in str(caught.value) and "tuple" not in str(caught.value)
    )


def test_what_is_wrong_in_a_file_names_the_file(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text('tasks = ["sst-2"]\ndata = "d"\nfinetune = ["sgd"]\n[finetuning]\nsteps = 0\n')
    with pytest.raises(UserError, match=r"own\.toml: finetuning\.steps: "):
        load_experiment(path, {"model": "m", "finetuning": {"eval_every": 3}})
