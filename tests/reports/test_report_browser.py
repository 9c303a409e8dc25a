"""The page as a browser has it: no error, no request, no overflow on a phone, and each plot named to those who cannot see it."""

from __future__ import annotations

import pytest
from browser import CHROMIUM, Browser
from report_runs import write_run

from lmntk.reports.page import write_page

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on this machine (Debian: apt-get install chromium)"
)


@pytest.fixture(scope="module")
def browser():
    with Browser() as one:
        yield one


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    long = "a-task-with-a-name-that-is-much-longer-than-a-phone-is-wide-" * 2
    folder = write_run(
        tmp_path_factory.mktemp("runs") / "run", tasks=("films", long), ks=(4,), seeds=(13, 21), classes=3
    )
    assert write_page(folder) == ""
    return folder / "report.html"


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_opens_without_errors_requests_or_overflow(browser, page, width, dark):
    browser.open(page, width, dark=dark)
    browser.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert browser.evaluate("innerWidth") == width
    assert browser.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    assert [one["entry"] for one in browser.named("Log.entryAdded")] == []
    assert browser.named("Runtime.consoleAPICalled") == [] and browser.named("Runtime.exceptionThrown") == []
    requested = {one["request"]["url"] for one in browser.named("Network.requestWillBeSent")}
    assert {url for url in requested if not url.startswith("data:image/png")} == {page.resolve().as_uri()}
    ink = browser.evaluate("getComputedStyle(document.querySelector('svg text')).fill")
    assert (ink == "rgb(229, 232, 235)") == dark  # the drawings follow the theme
    assert browser.evaluate(
        "[...document.querySelectorAll('svg')].every(one => one.getBoundingClientRect().width > 200)"
    )


def test_each_plot_has_a_name_and_a_description_in_the_accessibility_tree(browser, page):
    browser.open(page, 1280)
    browser.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    images = [
        node for node in nodes if node.get("role", {}).get("value") == "image" and not node.get("ignored")
    ]
    assert len(images) == browser.evaluate("document.querySelectorAll('svg').length") > 20
    for image in images:
        assert len(image["name"]["value"]) > 10
        assert any(letter.isdigit() for letter in image["description"]["value"])


def test_what_is_folded_away_is_printed(browser, page, tmp_path):
    browser.open(page, 1280)
    folded = browser.evaluate("document.querySelectorAll('details:not([open])').length")
    browser.call("Emulation.setEmulatedMedia", media="print")
    shown = browser.evaluate(
        "[...document.querySelectorAll('details:not([open]) table, details:not([open]) svg')].every(one => one.checkVisibility())"
    )
    browser.call("Emulation.setEmulatedMedia", media="")
    assert folded > 1 and shown
