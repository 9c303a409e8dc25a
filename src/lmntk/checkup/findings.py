"""What a check found: one line and its figures; and whether all is well."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Level = Literal["fine", "note", "fault"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: ``fine``, worth a ``note``, or a ``fault`` with what to do about it."""

    check: str
    level: Level
    line: str
    details: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Returns plain data."""
        return {"check": self.check, "level": self.level, "line": self.line, **self.details}


def is_well(findings: list[Finding]) -> bool:
    """True when nothing is a fault."""
    return all(finding.level != "fault" for finding in findings)


def some(names: list[str] | tuple[str, ...], most: int = 3) -> str:
    """Returns the first names, and how many more there are."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
