"""``summary.md``: means over the splits, and over how many."""

from __future__ import annotations

from lmntk.reports.results import summary_markdown
from lmntk.reports.tables import result_tables


def row(task, seed, test, method="sgd ridge", k=16):
    known = {"task": task, "seed": seed, "test": test, "method": method}
    return {"k": k, "mode": "prompt", "metric": "accuracy", "notes": [], **known}


def test_a_mean_over_fewer_splits_than_are_named_says_so():
    rows = [row("mr", seed, test) for seed, test in ((13, 0.5), (21, 0.7), (42, 0.9))]
    rows += [
        row("trec", 13, 0.4),
        row("mr", 13, None, "sgd fine-tuning"),
        row("mr", 21, 0.25, "sgd fine-tuning"),
    ]
    page = summary_markdown(rows, {"mr": "MR", "trec": "TREC"}, {})
    assert "over the splits 13, 21, 42;" in page
    assert "| 16 | prompt | sgd ridge | 70.0 (16.3) | 40.0, 1 split |" in page
    assert "| 16 | prompt | sgd fine-tuning | 25.0, 1 split | - |" in page


def test_so_does_one_of_another_k_and_the_page_says_the_same():
    """Both name the splits once, for all k."""
    rows = [row("mr", seed, 0.5) for seed in (13, 21, 42)] + [row("mr", seed, 0.7, k=64) for seed in (13, 21)]
    assert "| 64 | prompt | sgd ridge | 70.0 (0.0), 2 splits |" in summary_markdown(rows, {"mr": "MR"}, {})
    assert [table.blocks[0].lines[0].entries[0].few for table in result_tables(rows, {"mr": "MR"})] == [0, 2]


def test_notes_are_listed_once_each_where_there_are_some():
    rows = [row("mr", seed, 0.5) for seed in (13, 21)]
    assert "## Notes" not in summary_markdown(rows, {}, {})
    noted = [one | {"notes": ["the rate is low", f"seed {one['seed']}"]} for one in rows]
    page = summary_markdown(noted, {}, {})
    listed = "\n".join(f"* mr, sgd ridge: {note}" for note in ("seed 13", "seed 21", "the rate is low"))
    assert f"## Notes\n\n{listed}\n\n## Where" in page


def test_what_the_user_wrote_is_text_everywhere():
    attack = "<script>alert(1)</script> | [a](javascript:b) `c`"
    rows = [row(attack, seed, 0.5) | {"notes": [attack]} for seed in (13, 21)]
    facts = {"model": attack, attack: "a template"}
    page = summary_markdown(rows, {attack: attack}, facts, [f"{attack} is kernel-like"])
    assert "<" not in page.replace("<small>", "")
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt; \\| \\[a\\](javascript:b) \\`c\\`") >= 5
    cells = {len(line.replace("\\|", "").split("|")) for line in page.splitlines() if line.startswith("|")}
    assert len(cells) == 1  # a stroke in a name makes no further cell
