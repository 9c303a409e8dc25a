"""A page as tests look at it: its nesting, references and texts by tag."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Checks the nesting, and keeps what the tests ask for."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open, self.ids, self.references, self.tags, self.texts = [], [], [], [], {}
        self.svgs: list[dict[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append(tag)
        self.ids += [values["id"]] if "id" in values else []
        for name, value in values.items():
            if name in ("href", "src", "xlink:href", "action", "data"):
                self.references.append(value)
            self.references += re.findall(r"url\(([^)]+)\)", value or "")
            assert not name.startswith("on"), f"{tag} has {name}"
        if tag == "svg":
            self.svgs.append(values)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> without an opening"
        assert self.open[-1] == tag, f"<{self.open[-1]}> is closed by </{tag}>"
        self.open.pop()

    def handle_data(self, data):
        where = self.open[-1] if self.open else ""
        self.texts.setdefault(where, []).append(data)

    def text(self, *tags):
        return " ".join("".join(self.texts.get(tag, [])) for tag in tags)
