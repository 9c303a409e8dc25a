"""One labelled text, or pair of texts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lmntk.system.hashing import content_key


@dataclass(frozen=True, slots=True)
class Example:
    """One text (or pair of texts) and its class, numbered from 0; ``label`` is None when it is not known."""

    text_a: str
    text_b: str | None = None
    label: int | None = None


def digest_examples(examples: Iterable[Example]) -> str:
    """Return a sha256 of texts and labels, in their order."""
    return content_key(examples=[(e.text_a, e.text_b, e.label) for e in examples])
