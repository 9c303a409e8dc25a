"""The page of a fit: every part by the record's numbers, texts that stay text, and records that lack the newer parts."""

from __future__ import annotations

import pytest
from fit_records import fit_record, picture
from html_page import Page

from lmntk.reports.fit_page import confusion, contents_of, cost_words
from lmntk.reports.page import fill

LABELS = ("bad", "good", "so-so")
ATTACK = "<script>alert(1)</script><img src=x onerror=alert(2)>&amp;$\\frac{1}{2}$\x00"


def page_of(record, shown=None):
    text = fill("fit.html", contents_of(record, shown))
    return text, Page(text)


def test_all_parts_are_there_with_their_numbers():
    text, page = page_of(fit_record(LABELS), picture(LABELS))
    plain = " ".join(text.split())
    for part in (
        "<b>75.0 %</b>", "<b>± 6.2</b>", "<b>33.3 %</b>", "<b>60</b>", "66.0 to 82.0", "+5.0 ± 4.0", "word of so-so", "More would help.",
        "62.0 ± 5.0", "hold?", "Hardest", "Most doubtful", "+0.25", "−0.50", "lmntk audit data/text.csv",
        "61.5 s: 60 forward and 120 backward passes of a text",
    ):  # fmt: skip
        assert part in plain, part
    assert len(page.svgs) == 3
    folded = text[text.rindex("<details>") : text.rindex("</details>")]
    assert "models/made-up" in folded
    assert "models/made-up" not in text.replace(folded, "")
    assert {one["aria-label"] for one in page.svgs} == {
        "Accuracy by the number of labels", "How sure, and how often right", "Kernel of the training texts",
    }  # fmt: skip
    assert "60 labels: 74.0 ± 5.0 %; chance 33.3 %" in page.text("desc")
    assert "12 texts 55 % sure, 75 % right" in page.text("desc")


def test_what_a_user_wrote_stays_text():
    labels = (f"a {ATTACK}", f"b {ATTACK}")
    record = fit_record(labels, text=ATTACK)
    record["model"]["name"] = record["template"] = ATTACK
    record["standing"]["sentence"] = record["curve"]["sentence"] = f"Better than {ATTACK}."
    text, page = page_of(record, picture(labels))
    assert {"script", "img", "link", "iframe"}.isdisjoint(page.tags)
    assert all(one.startswith(("#", "data:image/png")) for one in page.references)
    assert text.count("&lt;script&gt;alert(1)") > 30
    assert "\x00" not in text


@pytest.mark.parametrize(
    ("change", "absent"),
    [
        ({"curve": None}, "more labels"),
        ({"suspects": None}, "probably wrong"),
        ({"cost": None}, "backward"),
        ({"doubtful": []}, "Hardest"),
        ({"standing": None, "held_out": [], "doubtful": []}, "rivals"),
    ],
    ids=lambda change: next(iter(change)) if isinstance(change, dict) else "",
)
def test_what_is_not_known_has_no_heading(change, absent):
    assert absent in page_of(fit_record())[0]
    assert absent not in page_of(fit_record() | change)[0]


def test_a_record_of_an_earlier_version_has_a_page():
    record = fit_record()
    for name in ("doubtful", "suspects", "curve", "cost"):
        del record[name]
    _, page = page_of(record)
    assert len(page.svgs) == 1


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"no_training": "centred"}, "Nothing was trained"),
        ({"regularization": 0.0}, "Without a ridge"),
    ],
    ids=["no training", "no ridge"],
)
def test_nobody_is_suspected_and_no_text_speaks(setting, said):
    record = fit_record() | {"setting": setting}
    record["suspects"] = []
    for text in record["doubtful"]:
        text["speak_for"] = text["speak_against"] = []
    text, _ = page_of(record)
    assert "None is named" in text
    assert text.count(said) == 3


def test_a_curve_names_no_share_of_the_labels_that_it_lacks():
    record = fit_record()
    del record["curve"]["points"][0]
    text, _ = page_of(record)
    assert "A quarter" not in text
    assert "8 parts of the texts were drawn" in text


def test_confusion_by_hand():
    pairs = [("a", "a"), ("a", "b"), ("a", "a"), ("a", "c"), ("b", "b")]
    rows = confusion(["a", "b", "c"], [{"label": label, "decided": decided} for label, decided in pairs])
    assert [[cell["count"] for cell in row["cells"]] for row in rows] == [[2, 1, 1], [0, 1, 0], [0, 0, 0]]
    assert [(row["texts"], row["right"]) for row in rows] == [(4, 0.5), (1, 1.0), (0, 0.0)]


@pytest.mark.parametrize(
    ("spent", "said"),
    [(99.94, "99.9 s"), (600.0, "10 min"), (7200.0, "2.0 h")],
    ids=["seconds", "minutes", "hours"],
)
def test_a_cost_in_words(spent, said):
    cost = {
        "texts": 9,
        "forward": 0,
        "backward": 0,
        "kernel_seconds": spent,
        "choice_seconds": 1.0,
        "curve_seconds": 0.0,
    }
    assert dict(cost_words(cost))["kernels"] == f"{said}: read from an earlier fit"
