"""One labelled text, or pair of texts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Example:
    """One text (or pair of texts) and its class, numbered from 0; ``label`` is None when it is not known."""

    text_a: str
    text_b: str | None = None
    label: int | None = None
