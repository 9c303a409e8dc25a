"""The pages as a browser has them: no error, no request, no overflow on a phone, and each plot named to those who cannot see it."""

from __future__ import annotations

import pytest
from browser import CHROMIUM, Browser
from fit_records import audit_record, fit_record, picture
from report_runs import write_run

from lmntk.reports.audit_page import write_audit_page
from lmntk.reports.explain_page import write_explain_page
from lmntk.reports.fit_page import write_fit_page
from lmntk.reports.page import write_page

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on this machine (Debian: apt-get install chromium)"
)


@pytest.fixture(scope="module")
def browser():
    with Browser() as one:
        yield one


LONG = "a-name-that-is-much-longer-than-a-phone-is-wide-" * 2


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = write_run(
        tmp_path_factory.mktemp("runs") / "run", tasks=("films", LONG), ks=(4,), seeds=(13, 21), classes=3
    )
    assert write_page(folder) == ""
    return folder / "report.html"


@pytest.fixture(scope="module")
def pages(page, tmp_path_factory):
    """The pages of a run, of a fit, of an audit and of an explanation."""
    folder = tmp_path_factory.mktemp("pages")
    labels = (*(f"class number {n}" for n in range(8)), LONG)
    assert write_fit_page(folder, fit_record(labels, text=LONG), picture(labels)) == ""
    assert write_explain_page(folder, explained(LONG)) == ""
    assert write_audit_page(folder, audit_record(LONG), LONG) == ""
    names = {"fit": "report.html", "audit": "audit.html", "explain": "explain.html"}
    return {"run": page} | {name: folder / file for name, file in names.items()}


def explained(text):
    """What the page of an explanation shows, made up."""
    line = {
        "weight": "strongly",
        "label": text,
        "row": 3,
        "text": text,
        "without": "bad",
        "contribution": 0.5,
        "influence": None,
    }
    said = {
        "row": 2, "label": "good", "predicted": "bad", "runner_up": text, "text": text, "sides": [("for it", [line, line])], "offset": 0.1,
        "rest": -0.2, "margin": 0.9, "layers": [(text, 0.4)],
    }  # fmt: skip
    return {
        "name": text, "held_out": True, "texts": [said, said], "settings": {"model": text}, "trained": 20, "notes": [text],
        "regime": {"sentence": "the regime was not measured", "about": "not measured"}, "version": "0",
    }  # fmt: skip


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", ["run", "fit", "audit", "explain"])
def test_the_page_opens_without_errors_requests_or_overflow(browser, pages, name, width, dark):
    page = pages[name]
    browser.open(page, width, dark=dark)
    browser.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert browser.evaluate("innerWidth") == width
    assert browser.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    assert [one["entry"] for one in browser.named("Log.entryAdded")] == []
    assert browser.named("Runtime.consoleAPICalled") == [] and browser.named("Runtime.exceptionThrown") == []
    requested = {one["request"]["url"] for one in browser.named("Network.requestWillBeSent")}
    assert {url for url in requested if not url.startswith("data:image/png")} == {page.resolve().as_uri()}
    if name in ("run", "fit"):  # the drawings follow the theme
        ink = browser.evaluate("getComputedStyle(document.querySelector('svg text')).fill")
        assert (ink == "rgb(229, 232, 235)") == dark
    assert browser.evaluate(
        "[...document.querySelectorAll('svg')].every(one => one.getBoundingClientRect().width > 200)"
    )


@pytest.mark.parametrize("name", ["run", "fit"])
def test_a_table_that_is_wider_than_the_phone_can_be_seen_to_scroll(browser, pages, name):
    browser.open(pages[name], 390, height=4000)
    browser.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    wide = "[...document.querySelectorAll('.wide')].filter(one => one.scrollWidth > one.clientWidth + 1)"
    assert browser.evaluate(f"{wide}.length") > 1
    # all of it can be reached, by the keyboard too where it has a name, and its first column stays
    assert browser.evaluate(f"{wide}.every(one => {{ one.scrollLeft = 1e6; return one.scrollLeft > 0 }})")
    assert browser.evaluate(f"{wide}.every(one => one.tabIndex === 0 && one.getAttribute('aria-label'))")
    # a shadow at either edge, and paper that covers it where the table ends
    assert browser.evaluate(
        f"{wide}.every(one => getComputedStyle(one).backgroundImage.split('linear').length === 5)"
    )
    assert browser.evaluate(
        "[...document.querySelectorAll('.wide:has(> .results)')].every(one => {"
        " one.scrollLeft = 80; const edge = one.getBoundingClientRect().left;"
        " return [...one.querySelectorAll('th:first-child:not(.group)')].every(cell => cell.getBoundingClientRect().left >= edge - 1) })"
    )


@pytest.mark.parametrize(("name", "least"), [("run", 21), ("fit", 3)])
def test_each_plot_has_a_name_and_a_description_in_the_accessibility_tree(browser, pages, name, least):
    browser.open(pages[name], 1280)
    browser.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    images = [
        node for node in nodes if node.get("role", {}).get("value") == "image" and not node.get("ignored")
    ]
    assert len(images) == browser.evaluate("document.querySelectorAll('svg').length") >= least
    for image in images:
        assert len(image["name"]["value"]) > 10
        assert any(letter.isdigit() for letter in image["description"]["value"])


def test_a_verdicts_sentences_take_three_lines_at_most(browser, page):
    browser.open(page, 1280)
    lines = browser.evaluate(
        "[...document.querySelectorAll('.verdicts.told p:not(.quiet)')]"
        ".map(p => p.getBoundingClientRect().height / parseFloat(getComputedStyle(p).lineHeight))"
    )
    assert lines
    assert max(lines) < 3.1


def test_what_is_folded_away_is_printed(browser, page, tmp_path):
    browser.open(page, 1280)
    folded = browser.evaluate("document.querySelectorAll('details:not([open])').length")
    browser.call("Emulation.setEmulatedMedia", media="print")
    shown = browser.evaluate(
        "[...document.querySelectorAll('details:not([open]) table, details:not([open]) svg')].every(one => one.checkVisibility())"
    )
    browser.call("Emulation.setEmulatedMedia", media="")
    assert folded > 1 and shown
