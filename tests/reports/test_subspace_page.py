"""The page of ``lmntk subspace``: the sentence first, then plots and a table, whatever the record lacks."""

from __future__ import annotations

from typing import Any

import pytest

from lmntk.reports.subspace_page import COLUMNS, FEW, build_subspace_page

SENTENCE = "Take mlp r=4: the smallest that keeps up with the best."


def row(name: str, target: str, rank: int | None, **change: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "name": name, "target": target, "rank": rank, "parameters": 100 * (rank or 50), "accuracy": 0.8, "accuracy_error": 0.04,
        "distance": 0.2, "distance_deviation": 0.01 if rank else None, "distance_to_adapted": 0.1 if rank else None, "cka": 0.9,
        "condition": "inf", "loss": 0.5, "stable_rate": 1e-3, "rate_ratio": 12.5, "escapes_minima": None if rank is None else rank > 2,
    }  # fmt: skip
    return values | change


def record(**change: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "file": "here/<b>.csv", "mode": "prompt", "counts": {"a": 8, "b": 8}, "draws": 3, "model": {"name": "there/tiny"},
        "candidates": [row("all parameters", "all", None), row("biases", "biases", None),
            row("mlp r=1", "mlp", 1), row("mlp r=4", "mlp", 4)],
        "recommendation": {"name": "mlp r=4", "outcome": "smallest", "sentence": SENTENCE},
        "lora_config": "LoraConfig(r=4, target_modules=['<dense>'])", "shares": {"type: mlp": 0.6, "type: head": 0.4, "layer: 0": 1.0},
    }  # fmt: skip
    return values | change


@pytest.mark.usefixtures("drawn_plots")
def test_the_recommendation_comes_first_then_plots_and_a_row_for_each() -> None:
    page = build_subspace_page(record())
    places = [
        page.index(words) for words in ("<h2>Take mlp r=4</h2>", SENTENCE, "LoraConfig(r=4", "<svg", "<table")
    ]
    assert places == sorted(places)
    assert "&lt;dense&gt;" in page and "<dense>" not in page and "<b>.csv" not in page
    assert page.count("<svg") == 3
    assert "mlp r=4: 0.200 ± 0.010" in page and "mlp: 60.0 %" in page  # said to those who see no plot
    table = page[page.index("<tbody>") : page.index("</tbody>")]
    assert table.count("<tr") == 4 and table.count("<td") == 4 * len(COLUMNS)
    assert table.count('class="best"') == 1 and "∞" in table and "80.0 ± 4.0" in table


@pytest.mark.parametrize(
    ("change", "words", "plots"),
    [
        ({"recommendation": None, "lora_config": None}, FEW, 3),
        ({"recommendation": {"name": "biases", "outcome": "cannot be told", "sentence": "So."}}, "<h2>It cannot be told</h2>", 3),
        ({"candidates": [row("all parameters", "all", None, accuracy=None, accuracy_error=None)]}, "<td", 1),
        ({"shares": {}}, "<td", 2),
    ],
)  # fmt: skip
def test_what_is_not_there_is_left_out(change: dict[str, Any], words: str, plots: int) -> None:
    page = build_subspace_page(record(**change))
    assert words in page and page.count("<svg") == plots
