"""The site: it builds without a warning, every link leads somewhere, no page is lost, and a browser has nothing to complain of."""

from __future__ import annotations

import re
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from site_builder import BUILDER, PROJECT, build_site, link_faults

sys.path.append(str(PROJECT / "tests" / "reports"))  # the browser of the reports' pages
from browser import CHROMIUM, Browser

DOCS = PROJECT / "docs"
PAGES = sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))
NAVIGATION = re.findall(r"^\s*- (?:.*: )?(\S+\.md)$", (PROJECT / "mkdocs.yml").read_text(), re.MULTILINE)
needs_builder = pytest.mark.skipif(
    not BUILDER.exists(), reason="the site's builder is not there: make docs-venv"
)


def links_of(page: Path) -> set[str]:
    """Return the pages of the site that one page links to."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf8"), flags=re.DOTALL)
    targets = ((page.parent / name).resolve() for name in re.findall(r"\]\(([^)#:]+\.md)", text))
    return {str(target.relative_to(DOCS)) for target in targets if target.is_relative_to(DOCS)}


def test_the_navigation_leads_to_pages_and_no_page_is_lost() -> None:
    assert len(NAVIGATION) > 10
    assert set(NAVIGATION) <= set(PAGES)
    reached, new = set(), {*NAVIGATION, *links_of(PROJECT / "README.md")}
    while new:
        reached |= new
        new = set().union(*(links_of(DOCS / page) for page in new)) - reached
    assert set(PAGES) - reached == set(), "a line in mkdocs.yml, or a link from a page that has one"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    code, said, folder = build_site(tmp_path_factory.mktemp("site"))
    assert code == 0, said
    return folder


@needs_builder
def test_every_link_leads_somewhere_and_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    assert link_faults(site) == []
    assert len(list(site.rglob("index.html"))) >= len(PAGES)


@needs_builder
@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        ('<a href="../nowhere/">there</a>', "leads nowhere"),
        ('<a href="#no-such-mark">there</a>', "no such mark"),
        ('<script src="https://example.org/math.js"></script>', "fetched from elsewhere"),
    ],
)
def test_a_broken_page_is_found(tmp_path: Path, broken: str, complaint: str) -> None:
    (tmp_path / "index.html").write_text(f"<html><body>{broken}</body></html>")
    (fault,) = link_faults(tmp_path)
    assert complaint in fault


@needs_builder
@pytest.mark.parametrize(
    "broken", ["[there](nowhere.md)", "[there](index.md#no-such-mark)", "::: lmntk.nothing"]
)
def test_a_broken_source_stops_the_build(tmp_path: Path, broken: str) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# Whole\n")
    assert build_site(tmp_path)[0] == 0
    (tmp_path / "docs" / "index.md").write_text(f"# Broken\n\n{broken}\n")
    assert build_site(tmp_path)[0] != 0


@needs_builder
def test_formulas_are_drawn_by_the_browser_itself(site: Path) -> None:
    pages = [path.read_text(encoding="utf8") for path in site.rglob("index.html")]
    assert sum(page.count("<math") for page in pages) >= sum(
        len(re.findall(r"\$\$[^$]+\$\$", (DOCS / page).read_text())) for page in PAGES
    )
    assert not any(re.search(r"\$\$|\\frac|\\langle", page) for page in pages)


@pytest.fixture(scope="module")
def address(site: Path):
    """The site, served on this machine alone, since a browser reads no search index from a file."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(site))
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@needs_builder
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (Debian: apt-get install chromium)")
@pytest.mark.parametrize("width", [390, 1280])
def test_pages_open_without_errors_requests_or_overflow(site: Path, address: str, width: int) -> None:
    with Browser() as browser:
        for page in sorted(path.parent.relative_to(site) for path in site.rglob("index.html")):
            browser.open_address(f"{address}{page}/".replace("/./", "/"), width)
            complaints = [entry["entry"]["text"] for entry in browser.named("Log.entryAdded")]
            assert complaints + browser.named("Runtime.exceptionThrown") == [], page
            requested = [event["request"]["url"] for event in browser.named("Network.requestWillBeSent")]
            assert [url for url in requested if not url.startswith((address, "data:", "blob:"))] == [], page
            assert browser.evaluate("document.scrollingElement.scrollWidth <= innerWidth"), page
