"""Check the built site: every link leads to a page and to a mark on it, and nothing is fetched from elsewhere.

    python tools/site/links.py build/docs/site

Zensical checks the links between the pages' sources; it does not check the navigation, nor what the theme and the docstrings add.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

FETCHED = {
    ("img", "src"), ("script", "src"), ("iframe", "src"), ("source", "src"), ("video", "src"), ("object", "data"),
}  # fmt: skip
NOT_FETCHED = {"canonical", "next", "prev", "edit"}  # what a <link> may say without the browser asking for it


class Page(HTMLParser):
    """The marks of a page, its links, and what a browser fetches with it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.marks: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Note what a tag names, links to, or fetches."""
        values = {name: value or "" for name, value in attributes}
        self.marks.update(values[name] for name in ("id", "name") if name in values)
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag == "link" and "href" in values and not NOT_FETCHED & set(values.get("rel", "").split()):
            self.fetched.append(values["href"])
        self.fetched += [values[name] for of, name in FETCHED if of == tag and name in values]


def faults(site: Path) -> list[str]:
    """Return what is wrong with a built site, a line each."""
    pages = {path: Page(path.read_text(encoding="utf8")) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        for link in dict.fromkeys([*page.links, *page.fetched]):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if link in page.fetched and parts.scheme != "data":
                    found.append(f"{path.relative_to(site)}: {link} is fetched from elsewhere")
                continue
            target = (
                site / unquote(parts.path).lstrip("/")
                if link.startswith("/")
                else path.parent / unquote(parts.path)
            )
            target = (target if parts.path else path).resolve()
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                found.append(f"{path.relative_to(site)}: {link} leads nowhere")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].marks:
                found.append(f"{path.relative_to(site)}: {link}: the page has no such mark")
    return found


if __name__ == "__main__":
    complaints = faults(Path(sys.argv[1]).resolve())
    print("\n".join(complaints) or "all links lead somewhere, and nothing is fetched from elsewhere")
    sys.exit(bool(complaints))
