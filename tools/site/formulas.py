"""Formulas of the pages, as MathML when the site is built: browsers draw it themselves, and no script is fetched.

``$K(x, x')$`` stands in a line, a line ``$$...$$`` by itself. Markdown finds this extension by its name in ``mkdocs.yml``.
"""

from __future__ import annotations

import re
from typing import Any

from latex2mathml.converter import convert
from markdown import Markdown
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor

AFTER_CODE = 185  # code spans come first, at 190: a dollar in them is a dollar
IN_A_LINE = r"(?<![\\$\w])\$(?![\s$])([^$\n]+?)(?<![\s\\])\$(?![\w$])"
BY_ITSELF = r"\$\$\s*([^$]+?)\s*\$\$"


class Formula(InlineProcessor):
    """A formula between dollars, which becomes MathML."""

    def __init__(self, pattern: str, markdown: Markdown, display: str) -> None:
        super().__init__(pattern, markdown)
        self.display = display

    def handleMatch(self, match: re.Match[str], text: str) -> tuple[str, int, int]:  # type: ignore[override]  # noqa: N802
        """Return the formula's MathML, which Markdown puts in its place as it is."""
        return self.md.htmlStash.store(convert(match.group(1), display=self.display)), *match.span()


class Formulas(Extension):
    """Markdown's extension of both kinds of formula."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802
        """Register both patterns, the longer mark first."""
        md.inlinePatterns.register(Formula(BY_ITSELF, md, "block"), "formula by itself", AFTER_CODE + 1)
        md.inlinePatterns.register(Formula(IN_A_LINE, md, "inline"), "formula in a line", AFTER_CODE)


def makeExtension(**options: Any) -> Formulas:  # noqa: N802
    """Return the extension; Markdown asks for it by this name."""
    return Formulas(**options)
