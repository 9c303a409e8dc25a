"""A check's finding: one line and its figures; and whether all is well."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lmntk.models.invariants import INVARIANTS

Level = Literal["fine", "note", "fault"]
FACTS = ("model", "input", "parameters", "coverage", "speed")  # said of any model; nothing is broken by them
MARKS: dict[Level, str] = {"fine": "ok   ", "note": "note ", "fault": "FAULT"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: ``fine``, worth a ``note``, or a ``fault`` with what to do about it.

    Attributes:
        check: what was looked at: the name of one of ``INVARIANTS``, or of a fact.
        level: fine, note or fault.
        line: what was found, for people.
        details: the same in figures and whole lists of names, for programs.
    """

    check: str
    level: Level
    line: str
    details: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.check not in FACTS and all(self.check != invariant.name for invariant in INVARIANTS):
            raise ValueError(f"no invariant is called {self.check!r}")

    def as_dict(self) -> dict[str, Any]:
        """Return plain data; a figure that is not finite is None, for JSON knows none."""
        return {"check": self.check, "level": self.level, "line": self.line, **_plain(self.details)}

    def as_text(self) -> str:
        """Return one line."""
        return f"{MARKS[self.level]}  {self.check}: {self.line}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def is_well(findings: Iterable[Finding]) -> bool:
    """Return whether nothing is a fault."""
    return all(finding.level != "fault" for finding in findings)


def some(names: Sequence[str], most: int = 3) -> str:
    """Return the first names, and the count of the others.

    Names that differ in a layer's number alone are one.

    ``some(["layer.0.bias", "layer.1.bias", "out.bias"])`` is "layer.*.bias x 2, out.bias".
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(re.sub(r"(?<=\.)\d+(?=\.)", "*", name), []).append(name)
    shown = [
        group[0] if len(group) == 1 else f"{pattern} x {len(group)}" for pattern, group in groups.items()
    ][:most]
    rest = sum(len(group) for group in list(groups.values())[most:])
    return ", ".join(shown) + (f" and {rest} more" if rest else "")


def counted(count: int, noun: str) -> str:
    """Return a number with its noun: "1 text", "2,000 texts"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
