"""Docstrings are plain text: an angle bracket is one, brackets side by side are no link, and an example is code.

The site's builder reads docstrings as Markdown. There ``<g(x), g(x')>`` would be a tag, and ``K [n] [m]`` a link.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension

SPANS = re.compile(r"(```.+?```|``.+?``|`[^`]+`)", re.DOTALL)
EXAMPLE = re.compile(r"^Example:\n((?:    .*\n|\n)+(?:    .*)?|    .*)", re.MULTILINE)


class PlainDocstrings(Extension):
    """An extension of what collects the docstrings."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Fence examples, and escape what Markdown would take for something else, but for code between backticks."""
        if obj.docstring is None:
            return
        text = EXAMPLE.sub(r"Example:\n    ```python\n\1\n    ```\n", obj.docstring.value)
        parts = SPANS.split(text)
        parts[::2] = [
            re.sub(r"\](\s*)\[", r"]\1\\[", re.sub(r"<(?=[a-zA-Z/])", "&lt;", part)) for part in parts[::2]
        ]
        obj.docstring.value = "".join(parts)
