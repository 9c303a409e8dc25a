"""What stands first on a diagnosed run's page: a cell an optimizer and task; and what accuracies are read beside."""

from __future__ import annotations

import json
import re
from html import unescape

import pytest
from html_page import Page
from report_runs import write_run

from lmntk.reports.page import build_page
from lmntk.reports.regimes import regime_matrix
from lmntk.reports.tables import result_tables
from lmntk.reports.verdicts import at_largest_k, verdicts
from lmntk.reports.yardsticks import Yardstick, yardsticks


@pytest.fixture(autouse=True)
def quick_plots(empty_plots):
    """Leave plots undrawn."""


def test_a_row_a_task_and_a_column_an_optimizer(tmp_path):
    folder = write_run(tmp_path / "run", ("films", "<b>news"), ks=(4, 16), seeds=(13, 21), kernels=False)
    for path in (folder / "diagnoses").glob("<b>news*adamw*"):
        path.unlink()
    found = [json.loads(path.read_text()) for path in sorted((folder / "diagnoses").glob("*.json"))]
    matrix = regime_matrix(verdicts(found, {}), {("", "films"): Yardstick(40, 2, True)})
    assert set(matrix.methods) == {"sgd fine-tuning", "adamw fine-tuning"}
    cells = {row.title: dict(zip(matrix.methods, row.cells, strict=True)) for row in matrix.rows}
    assert set(cells) == {"films", "<b>news"}
    for title, by_method in cells.items():
        for method, one in by_method.items():
            if (title, method) == ("<b>news", "adamw fine-tuning"):
                assert one is None
            else:
                assert (one.title, one.method, one.k) == (title, method, 16)
    assert {row.title: row.beside for row in matrix.rows} == {
        "films": "chance 50.0 · 40 test texts, ± 7.9",
        "<b>news": "",
    }

    text = build_page([folder])
    page, first = Page(text), text.split("<h2>Results")[0]
    table = first[first.index("<table") : first.index("</table>")]
    assert first.index("<table") < first.index('<ul class="verdicts')
    assert unescape(re.search(r"<b>(.*?)</b>", table[table.index("&lt;") - 9 :])[1]) == "<b>news"
    assert len(re.findall('<span class="chip [a-z]+">(?:✓ kernel-like|✗ not a kernel)<', table)) == 3
    assert table.count(">regime not measured<") == 3
    assert "not diagnosed" in table
    assert table.count("chance 50.0 · 40 test texts, ± 7.9") == 2
    for one in at_largest_k(verdicts(found, {})):
        assert one.forecast.kernel.figure.replace("-", "−") in unescape(table)
    assert page.tags.count("table") > 1


def test_chance_and_the_error_of_the_test_texts_stand_beside_results_that_nobody_diagnosed(tmp_path):
    folder = write_run(tmp_path / "run", ks=(4,), seeds=(13,), finetuned=False, kernels=False, classes=3)
    text = build_page([folder])
    assert "<small>chance 33.3</small><small>40 test texts, ± 7.9</small>" in text
    assert "<span>chance 33.3 · 40 test texts, ± 7.9</span>" in text
    opened = re.sub(r"<details.*?</details>", "", text, flags=re.DOTALL)
    assert str(folder) not in opened  # the folder's path and the settings are folded away
    assert str(folder) in text
    assert "no_such" not in opened
    assert "all_logits" not in opened


@pytest.mark.parametrize(
    ("stick", "phrase"),
    [
        (Yardstick(100, 2, True), "chance 50.0 · 100 test texts, ± 5.0"),
        (Yardstick(100, None, True), "100 test texts, ± 5.0"),
        (Yardstick(100, 2, False), "100 test texts"),
        (Yardstick(0, 4, True), "chance 25.0"),
    ],
    ids=["an accuracy", "classes that are not known", "another metric", "texts that are not known"],
)
def test_a_yardstick_in_words(stick, phrase):
    assert stick.phrase == phrase


def test_yardsticks_are_of_each_run_and_task():
    rows = [
        {"task": "a", "run": run, "metric": metric, "test_texts": texts}
        for run, metric, texts in (("x", "accuracy", 40), ("x", "accuracy", 30), ("y", "f1", 50))
    ]
    splits = [{"rows": [{"task": "a"}], "run": "x", "labels": ["p", "q", "r"]}]
    found = yardsticks(rows, splits)
    assert found == {("x", "a"): Yardstick(30, 3, True), ("y", "a"): Yardstick(50, None, False)}


def test_a_method_that_was_diagnosed_at_a_lower_k_alone_stands_beside_the_others_there(tmp_path):
    folder = write_run(tmp_path / "run", ("films",), ks=(4, 16), seeds=(13,), kernels=False)
    found = [json.loads(path.read_text()) for path in sorted((folder / "diagnoses").glob("*.json"))]
    found = [one for one in found if (one["k"], one["method"]) != (16, "adamw fine-tuning")]
    matrix = regime_matrix(verdicts(found, {}), {})
    cells = {row.place: dict(zip(matrix.methods, row.cells, strict=True)) for row in matrix.rows}
    assert cells["k = 16 · prompt"]["adamw fine-tuning"] is None
    assert all(cells["k = 4 · prompt"].values())  # "not diagnosed" would be wrong of SGD


@pytest.mark.parametrize(
    ("sticks", "parts"),
    [
        ({"x": Yardstick(400, 2, True)}, ("chance 50.0", "400 test texts, ± 2.5")),
        (
            {"x": Yardstick(25, 2, True), "y": Yardstick(400, 2, True)},
            ("chance 50.0", "25 test texts, ± 10.0"),
        ),
        ({"x": Yardstick(400, 2, True), "y": Yardstick(25, 4, True)}, ("25 test texts, ± 10.0",)),
    ],
    ids=["a run", "of fewer test texts", "of other classes"],
)
def test_a_column_of_several_runs_has_what_holds_of_all(sticks, parts):
    rows = [
        {"run": run, "task": "a", "k": 4, "seed": 13, "mode": "prompt", "method": "m", "metric": "accuracy", "test": 0.5}
        for run in sticks
    ]  # fmt: skip
    (table,) = result_tables(rows, {}, {(run, "a"): stick for run, stick in sticks.items()})
    assert table.columns[0][2] == parts
