"""``summary.md``: means over the splits, and over how many."""

from __future__ import annotations

from lmntk.reports.results import summary_markdown


def row(task, seed, test, method="sgd ridge"):
    known = {"task": task, "seed": seed, "test": test, "method": method}
    return {"k": 16, "mode": "prompt", "metric": "accuracy", "notes": [], **known}


def test_a_mean_over_fewer_splits_than_are_named_says_so():
    rows = [row("mr", seed, test) for seed, test in ((13, 0.5), (21, 0.7), (42, 0.9))]
    rows += [row("trec", 13, 0.4), row("mr", 13, None, "sgd fine-tuning"), row("mr", 21, 0.25, "sgd fine-tuning")]
    page = summary_markdown(rows, {"mr": "MR", "trec": "TREC"}, {})
    assert "over the splits 13, 21, 42;" in page
    assert "| 16 | prompt | sgd ridge | 70.0 (16.3) | 40.0, 1 split |" in page
    assert "| 16 | prompt | sgd fine-tuning | 25.0, 1 split | - |" in page
