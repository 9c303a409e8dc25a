"""Trainings on the page: those that diverged, the marks of their tests, their splits, SignGD beside Adam."""

from __future__ import annotations

import json

import pytest
from report_runs import write, write_run

from lmntk.reports.page import build_page

# plots are left undrawn, but where a test is about them
pytestmark = pytest.mark.usefixtures("empty_plots")


def test_a_run_that_diverged_does_not_flatten_the_others(tmp_path, drawn_plots):
    folder = write_run(tmp_path / "run", ks=(4,), seeds=(13,), kernels=False)
    for path in (folder / "finetunings").glob("*.json"):
        content = json.loads(path.read_text())
        content["runs"][3]["curve"] = [
            {"step": 0, "loss": 1.0, "dev": 0.5},
            {"step": 10, "loss": 1e30, "dev": 0.5},
        ]
        write(path, content)
    text = build_page([folder])
    assert "1 of 4 runs diverged." in text and "Faint: 4 other settings" in text and "1e30" not in text


def test_a_diagnosed_training_that_diverged_and_an_emulation_without_bound(tmp_path, drawn_plots):
    folder = write_run(tmp_path / "run", ks=(4,), seeds=(13,), kernels=False)
    for path in (folder / "diagnoses").glob("*.json"):
        content = json.loads(path.read_text())
        emulated = content["emulation"]["emulated"]
        emulated[-1] = [[None] * len(one) for one in emulated[-1]]
        content["emulation"]["error"] = None
        content["logits"] |= {"fine_tuned": None, "linearized": None}
        write(path, content)
        last = content["emulation"]["steps"][-1]
    text = build_page([folder])
    assert f"by the kernel training grows without bound, from step {last:g} on beyond any number." in text
    assert "nan" not in text and "Left out" not in text and "logit of the linearized model" not in text


def test_the_marks_of_the_tests_are_those_of_the_verdict_and_splits_are_counted(tmp_path):
    from lmntk.reports.verdicts import Tested

    def tested(passed, *alone):
        one = Tested("solves", "95.0 %", "", "", passed, alone)
        return one.state, one.split, one.outcome

    assert tested(True, True, True) == ("yes", "", "passed")
    assert tested(None, False, None, True) == (
        "unclear",
        "1 of 3",
        "cannot be told; alone 1 passed, 1 failed, 1 cannot be told",
    )
    assert tested(True, False, None, None) == ("yes", "0 of 3", "passed; alone 1 failed, 2 cannot be told")
    assert tested(False, False) == ("no", "", "failed")


def test_a_method_whose_trainings_all_diverged_is_marked_and_fewer_splits_are_not_compared(tmp_path):
    from lmntk.reports.tables import DIVERGED, result_tables

    def row(method, seed, test):
        return {
            "task": "sst-2",
            "k": 16,
            "seed": seed,
            "mode": "prompt",
            "method": method,
            "metric": "accuracy",
            "test": test,
        }

    rows = [
        row("sgd ridge", 13, 0.6),
        row("sgd ridge", 21, 0.6),
        row("adamw fine-tuning", 13, 0.9),
        row("adamw fine-tuning", 21, None),
    ]
    rows += [row("sgd fine-tuning", seed, None) for seed in (13, 21)] + [
        row("sgd ridge", seed, 0.5) | {"task": "mr"} for seed in (13, 21)
    ]
    (table,) = result_tables(rows, {})
    entries = {line.method: line.entries for line in table.blocks[0].lines}
    ridge, sgd, adamw = (entries[method] for method in ("sgd ridge", "sgd fine-tuning", "adamw fine-tuning"))
    assert sgd == (DIVERGED, None)  # on mr it was not run
    assert ridge[0].best and not adamw[0].best and not adamw[0].near and adamw[0].few == 1

    folder = write_run(tmp_path / "run", ks=(4,), seeds=(13,), kernels=False)
    path = next((folder / "finetunings").glob("*-sgd-fine-tuning.json"))
    write(path, json.loads(path.read_text()) | {"test": None})
    assert '<span class="state no">diverged</span>' in build_page([folder])


def test_signgd_stands_beside_adam_of_the_same_weights(tmp_path):
    folder = write_run(tmp_path / "run", ks=(4,), seeds=(13, 21), kernels=False)
    assert "SignGD beside Adam" not in build_page([folder])
    for path in (folder / "splits").glob("*.json"):
        content = json.loads(path.read_text())
        predictions = {row["method"]: [0, 1, 1, 1] for row in content["rows"]}
        write(path, content | {"test_labels": [0, 1, 1, 0], "predictions": predictions})
    for path in (folder / "finetunings").glob("*adamw*.json"):
        content = json.loads(path.read_text())
        for method, predictions, test in (
            ("adamw fine-tuning", [0, 1, 1, 1], 0.75),
            ("signgd fine-tuning", [0, 1, 1, 0], 1.0),
            ("adamw fine-tuning (lora)", [0, 1, 1, 0], 1.0),
            ("signgd fine-tuning (lora)", [0, 1, 1, 0], 1.0),
            ("signgd fine-tuning (linearized)", [0, 1, 1, 0], 1.0),
        ):
            mine = content | {"method": method, "predictions": predictions, "test": test}
            write(path.with_name(f"{content['split']}-{method.replace(' ', '-')}.json"), mine)
    text = build_page([folder])
    section = text[text.index("SignGD beside Adam") :]
    section = section[: section.index("</section>")]
    assert section.count("<li>") == 2 and "(linearized)" not in section
    assert (
        "Signgd fine-tuning has 100.0 % and adamw fine-tuning 75.0 % over 2 splits" in section
        and "on 75.0 % of the test texts" in section
    )
    assert (
        "Signgd fine-tuning (lora) has 100.0 % and adamw fine-tuning (lora) 100.0 % over 2 splits" in section
    )


def test_a_mean_over_fewer_splits_says_so(tmp_path):
    folder = write_run(tmp_path / "run", ks=(4,), seeds=(13, 21), kernels=False)
    path = next((folder / "finetunings").glob("*seed13*-sgd-fine-tuning.json"))
    write(path, json.loads(path.read_text()) | {"test": None})
    text = build_page([folder])
    assert (
        text.count('<sup class="few">1</sup>') == 1
        and "over so many splits alone" in text
        and "over 2 splits, bars" not in text
    )
    whole = build_page([write_run(tmp_path / "whole", ks=(4,), seeds=(13, 21), kernels=False)])
    assert '<sup class="few">' not in whole and "over so many splits alone" not in whole
