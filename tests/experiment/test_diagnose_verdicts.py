"""Verdicts over splits and ways of training: what the command prints, what stands in one mean, and what against what."""

from __future__ import annotations

import html
import json

import pytest
from diagnosed_runs import changed, diagnosed_values, diagnosis
from tiny import write_model
from typer.testing import CliRunner

from lmntk.cli.app import app
from lmntk.experiment.configuration import make_experiment
from lmntk.experiment.report import verdicts_of
from lmntk.experiment.run import run
from lmntk.experiment.steps import diagnose as diagnoses


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def values(model, tmp_path):
    return diagnosed_values(model, tmp_path)


def test_signgd_is_held_against_adam(values, monkeypatch):
    run(make_experiment(values | {"finetune": ["adamw"], "seeds": [13, 21]}))
    assert "signgd" not in diagnosis(values, "adamw-fine-tuning")["numbers"]
    real, made = diagnoses.diagnose_split, []
    monkeypatch.setattr(
        diagnoses,
        "diagnose_split",
        lambda shared, job, *rest: (made.append(job.subject.method), real(shared, job, *rest))[1],
    )
    run(make_experiment(values | {"finetune": ["signgd", "adamw"], "seeds": [13, 21]}))
    assert set(made) == {"signgd fine-tuning"}  # the other's diagnosis is not made again
    said = verdicts_of(values["out"])
    assert [(one["method"], one["splits"]) for one in said["verdicts"]] == [
        ("adamw fine-tuning", 2),
        ("signgd fine-tuning", 2),
    ]
    (one,) = said["comparisons"]
    assert one["splits"] == 2 and "over 2 splits" in one["sentence"] and 0 <= one["agreement"] <= 1
    means = {verdict["method"].split()[0]: verdict["numbers"]["fine_tuned"] for verdict in said["verdicts"]}
    assert (one["first"], one["second"]) == pytest.approx((means["signgd"], means["adamw"]))
    assert one["sentence"] in (values["out"] / "summary.md").read_text()
    page = html.unescape(
        (values["out"] / "report.html").read_text()
    )  # says what is printed, not what most splits say
    assert page.count("over 2 splits") >= 2 and all(
        verdict["reason"][1:] in page for verdict in said["verdicts"]
    )


def test_adam_is_held_against_the_kernel_of_adam_where_the_run_has_it(values):
    run(make_experiment(values | {"finetune": ["sgd", "adamw"]}))
    assert [diagnosis(values, f"{arm}-fine-tuning")["formula"] for arm in ("sgd", "adamw")] == ["sgd", "sgd"]
    rows = run(
        make_experiment(
            values
            | {"finetune": ["sgd", "adamw"], "formulas": ["sgd", "asigngd"], "solvers": ["ridge", "asym"]}
        )
    )
    tests = {row["method"]: row["test"] for row in rows}
    for arm, formula in (("sgd", "sgd"), ("adamw", "asigngd")):
        found = diagnosis(values, f"{arm}-fine-tuning")
        solver = {"sgd": "ridge", "asigngd": "asym"}[formula]
        assert found["formula"] == formula and found["numbers"]["kernel"] == pytest.approx(
            tests[f"{formula} {solver}"]
        )
        assert f"the {formula} kernel's accuracy" in found["tests"][0]["sentence"]
        assert [len(one) for one in found["predictions"].values()] == [12] * (
            5 if arm == "sgd" else 4
        )  # SGD's emulated


def test_the_command_prints_a_verdict_a_task(values):
    task = values["own_tasks"][0]
    words = [
        "diagnose", "--model", values["model"], "--train", task["train"], "--test", task["test"], "--text-column", "text_a",
        "--template", task["template"], "--label-words", "terrible,great", "--k", "2", "--seeds", "13,21", "--optimizers", "signgd,adamw",
        "--learning-rates", "1e-3", "--batch-sizes", "2", "--steps", "3", "--eval-every", "2", "--out", str(values["out"]),
    ]  # fmt: skip
    printed = CliRunner().invoke(app, words, catch_exceptions=False)
    said = printed.stdout
    assert printed.exit_code == 0 and "own, k = 2, prompt, signgd fine-tuning (2 splits): " in said
    assert said.count("the model linearized at the reached weights, in place of an emulation, misses") == 2
    assert (
        said.count("solves ") == 2 and said.count("fixed features") >= 2 and "signgd fine-tuning has" in said
    )
    found = json.loads(CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False).stdout)
    assert [one["method"] for one in found["verdicts"]] == ["adamw fine-tuning", "signgd fine-tuning"]
    run_words = ["run", *words[1:], "--formulas", "sgd", "--diagnose"]
    run_words[run_words.index("--optimizers")] = "--finetune"
    assert (
        "own, k = 2, prompt, adamw fine-tuning (2 splits): "
        in CliRunner().invoke(app, run_words, catch_exceptions=False).stdout
    )


def test_verdicts_are_of_all_that_the_folder_holds(values):
    run(make_experiment(values | {"seeds": [13, 21]}))
    other = [values["own_tasks"][0] | {"name": "books"}]
    run(make_experiment(values | {"own_tasks": other}))
    run(make_experiment(values | {"seeds": [42], "diagnose": False}))
    found = [(one["task"], one["splits"]) for one in verdicts_of(values["out"])["verdicts"]]
    assert sorted(found) == [("books", 1), ("films", 2)]
    summary = (values["out"] / "summary.md").read_text()
    assert "* films, k = 2, prompt, sgd fine-tuning: **" in summary and "* books, k = 2" in summary


def test_splits_of_other_settings_make_no_mean_with_the_last(values):
    run(make_experiment(values | {"seeds": [13, 42]}))
    run(make_experiment(changed(values, steps=5) | {"seeds": [21, 42]}))
    (verdict,) = verdicts_of(values["out"])["verdicts"]
    assert verdict["splits"] == 2
    for text in ((values["out"] / name).read_text() for name in ("summary.md", "report.html")):
        assert "films, sgd fine-tuning: split 13 had other settings than the last run" in text
    lines = (values["out"] / "results.csv").read_text().splitlines()
    assert sorted(line.split(",")[2] for line in lines if "sgd fine-tuning" in line) == ["21", "42"]
    run(make_experiment(values | {"seeds": [13]}))  # the first settings are now the last ones
    lines = (values["out"] / "results.csv").read_text().splitlines()
    assert [line.split(",")[2] for line in lines if "sgd fine-tuning" in line] == ["13", "42"]


def test_verdicts_do_not_mix_kernels_of_other_precision(values):
    run(make_experiment(values | {"seeds": [13], "precision": "bfloat16"}))
    run(make_experiment(values | {"seeds": [21]}))
    (verdict,) = verdicts_of(values["out"])["verdicts"]
    assert (
        verdict["splits"] == 1
        and "diagnosis, films, sgd fine-tuning: split 13 had other settings"
        in (values["out"] / "summary.md").read_text()
    )
