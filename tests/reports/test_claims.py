"""Regime and forecast in the page, in summary.md and in print: the same words and numbers, and no green where the kernel overshoots."""

from __future__ import annotations

import json
import re
from html import unescape

import pytest
from report_runs import write, write_run

from lmntk.cli.printing import print_verdicts
from lmntk.diagnosis.forecast import NOT_CONVERGED, forecast_of
from lmntk.diagnosis.over_splits import over_splits, sentences
from lmntk.diagnosis.regime import regime_of
from lmntk.reports.page import build_page
from lmntk.reports.results import summary_markdown
from lmntk.reports.verdicts import verdicts


@pytest.fixture(autouse=True)
def quick_plots(empty_plots):
    """Leave plots undrawn."""


def claimed(folder, kernel, fine_tuned=36, seeds=(13, 21), error=0.04, method="sgd"):
    """A run whose kernel has so many of forty texts right, and its diagnoses; all of the paper's tests are passed."""
    write_run(folder, ks=(4,), seeds=seeds, kernels=False)
    found = []
    for path in sorted((folder / "diagnoses").glob("*.json")):
        content = json.loads(path.read_text())
        if not path.name.endswith(f"-{method}-fine-tuning.json"):
            path.unlink()
            continue
        truth = content["logits"]["labels"]
        right = {"kernel": kernel, "fine_tuned": fine_tuned, "zero_shot": 4, "linearized": fine_tuned}
        for name, count in right.items():
            content["numbers"][name] = count / 40
            classes = [label if place < count else 1 - label for place, label in enumerate(truth)]
            content["predictions"][name] = classes
        content["numbers"] |= {"kernel_distance": 0.3, "logit_error": error}
        content["numbers"] |= {"emulation_test_error": error} if method == "sgd" else {}
        content |= {"verdict": "kernel-like"}
        content["tests"] = [test | {"passed": True} for test in content["tests"]]
        write(path, content)
        found.append(content)
    return found


@pytest.mark.parametrize("seeds", [(13,), (13, 21)])
@pytest.mark.parametrize(
    ("kernel", "fine_tuned", "error", "green"),
    [
        (37, 36, 0.04, {"regime holds", "✓ kernel-like"}),
        (36, 20, 0.04, set()),  # 180 % of fine-tuning's
        (37, 36, 0.2, {"✓ kernel-like"}),
        (37, 36, 0.31, set()),
    ],
)
def test_no_badge_is_green_where_the_kernel_overshoots_or_is_left(
    tmp_path, seeds, kernel, fine_tuned, error, green
):
    found = claimed(tmp_path / "run", kernel, fine_tuned, seeds, error)
    text = unescape(build_page([tmp_path / "run"]))
    assert set(re.findall(r'<span class="chip yes">([^<]*)</span>', text)) == green
    assert not re.search(r"18\d(\.\d)? %", text)
    (one,) = verdicts(found, {})
    marks = [(test.mark, test.state) for test in one.tests]
    if fine_tuned == 20:
        assert (
            'class="state yes' not in text
            and '<span class="chip unclear">training had not converged</span>' in text
        )
        assert marks == [("↑", "unclear"), ("✓", "met"), ("✓", "met")]
        assert (
            re.search(r'<td class="number">\+40\.0 ± \d+\.\d .*↑', text)
            and "passed; the kernel is above" in text
        )
    else:
        assert 'class="state yes' in text and NOT_CONVERGED not in text.split("<h2>Results")[0]
        assert marks == [("✓", "yes")] * 3


@pytest.mark.parametrize(
    ("method", "whose"),
    [
        ("sgd", "the training emulated by its kernel"),
        ("adamw", "the model linearized at the reached weights, in place of"),
    ],
)
def test_page_summary_and_print_say_the_same_and_whose_error_it_is(tmp_path, capsys, method, whose):
    found = claimed(tmp_path / "run", 30, 36, method=method)
    regime, forecast = regime_of(found), forecast_of(found)
    results = over_splits(found, [], {})
    (verdict,) = results["verdicts"]
    print_verdicts(results)
    page = " ".join(unescape(build_page([tmp_path / "run"])).split())
    summary = unescape(summary_markdown([], {}, {}, sentences(results)))
    for text in (page, summary, capsys.readouterr().out):
        assert regime.phrase[1:] in text and whose in text and regime.about[1:] in text
        assert forecast.sentence[1:] in text and forecast.kernel.figure in text
        assert f"aper's three tests: {verdict['verdict']}: {verdict['reason']}" in text
    assert forecast.kernel.figure.startswith("-15.0 ± ")


def test_solves_is_printed_as_points_on_both_sides(tmp_path, capsys):
    print_verdicts(over_splits(claimed(tmp_path / "run", 36, 20), [], {}))
    printed = capsys.readouterr().out
    assert re.search(
        r"\n  solves +\+40\.0 ± \d+\.\d points  \(at least 0\.9 of fine-tuning's\): passed; the kernel is above\n",
        printed,
    )
    assert printed.startswith(
        "fictitious, k = 4, prompt, sgd fine-tuning (2 splits): the kernel regime holds, e = 0.040 ± 0.000\n"
    )
    assert NOT_CONVERGED in printed and "180" not in printed


def test_old_diagnoses_are_read_where_they_have_the_numbers(tmp_path):
    folder = tmp_path / "run"
    claimed(folder, 37)
    for path in (folder / "diagnoses").glob("*.json"):
        content = json.loads(path.read_text())
        del content["numbers"]["emulation_test_error"]
        write(
            path,
            content | {"numbers": content["numbers"] | {"emulation_move_error": 0.2, "logit_error": 0.5}},
        )
    text = unescape(build_page([folder]))
    assert (
        "The kernel regime is rough, e = 0.200 ± 0.000 (the share of the move of the dev texts' logits at the last step"
        in text
    )
    for path in (folder / "diagnoses").glob("*.json"):
        content = json.loads(path.read_text())
        write(path, content | {"numbers": dict.fromkeys(content["numbers"])})
    text = unescape(build_page([folder]))
    assert "regime not measured" in text and 'class="chip yes">regime' not in text
