"""What a page shows: its blocks of code, the commands in them, and what it says that they print.

A block that is fenced as ``bash`` or ``python`` is run by ``test_shown_runs.py``, in the page's order; a block fenced as ``text``
that comes next is what it prints. A comment in front of a block says what is not so:

    <!-- not run: the reason -->              the block is not run
    <!-- figures of another model -->         run with a stand-in for the hub's model: its figures are not compared
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    path for pattern in ("*.md", "docs/**/*.md", "benchmarks/*.md") for path in PROJECT.glob(pattern)
)
FENCE = re.compile(
    r"(?:<!-- (?P<mark>(?:not run: |figures)[^>]*?) -->\n+)?^```(?P<language>[a-z]*)[^\n]*\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
NUMBER = re.compile(r"(?<![\w.])[+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?")


@dataclass(frozen=True)
class Block:
    """One fenced block, its mark, and the text block that follows it."""

    language: str
    text: str
    mark: str
    printed: str | None


def blocks_of(page: Path) -> list[Block]:
    """Return the blocks of a page that are bash or Python, in order."""
    found = list(FENCE.finditer(page.read_text(encoding="utf8")))
    blocks = []
    for match, after in zip_longest(found, found[1:]):
        prints = after is not None and after["language"] == "text"
        if match["language"] in ("bash", "python"):
            blocks.append(
                Block(
                    match["language"], match["text"], match["mark"] or "", after["text"] if prints else None
                )
            )
    return blocks


def commands_in(text: str) -> Iterator[list[str]]:
    """Yield the words of each command in a block; a backslash goes on, a hash begins a comment."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        if words:
            yield words


def lmntk_commands(page: Path) -> list[list[str]]:
    """Return every command of lmntk in any fenced or indented block of a page, without the name of the program."""
    text = page.read_text(encoding="utf8")
    blocks = [match["text"] for match in FENCE.finditer(text)] + re.findall(
        r"^    lmntk [^\n]*$", text, re.MULTILINE
    )
    found = []
    for block in blocks:
        for line in block.replace("\\\n", " ").splitlines():
            if re.match(r"\s*(\$ )?lmntk [a-z]", line):
                (words,) = commands_in(line.strip())
                found.append(words[1:])
    return found


def differences(printed: str, said: str, *, figures: bool = True, close: float = 0.05) -> list[str]:
    """Return where what was printed is not what a page says, a line each; ``...`` in the page stands for any lines."""
    lines, faults = printed.splitlines(), []
    skips = False
    for expected in said.splitlines():
        if expected.strip() == "...":
            skips = True
            continue
        place = next((at for at, line in enumerate(lines) if _agree(line, expected, figures, close)), None)
        if place is None or (place > 0 and not skips):
            faults.append(f"said: {expected!r}; printed: {lines[0] if lines else 'nothing more'!r}")
            continue
        lines, skips = lines[place + 1 :], False
    if lines and not skips:
        faults.append(f"printed, and not said: {lines[0]!r}")
    return faults


def _agree(line: str, expected: str, figures: bool, close: float) -> bool:
    """Return whether two lines have the same words and, if figures count, nearly the same numbers."""
    if "…" in expected:  # stands for what is another time or rate on another day
        return re.fullmatch(".+".join(map(re.escape, expected.split("…"))), line) is not None
    if NUMBER.sub("#", line).split() != NUMBER.sub("#", expected).split():
        return False
    numbers = [
        [float(number.replace(",", "")) for number in NUMBER.findall(text)] for text in (line, expected)
    ]
    return not figures or all(
        abs(one - other) <= max(close * abs(other), 0.02) for one, other in zip(*numbers, strict=True)
    )
