"""One labelled text, or pair of texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

from lmntk.errors import UserError
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


def examples_of(texts: Any) -> list[Example]:
    """Return texts as examples: strings, pairs of them, or what are examples already.

    A table of one or two columns, such as a data frame, is its rows.

    Raises:
        UserError: they are none; says what each has to be.
    """
    if isinstance(texts, str):
        raise UserError("texts: a list of strings is needed, not a single one; write [text]")
    examples = []
    for number, item in enumerate(_items(texts)):
        if isinstance(item, Example):
            examples.append(item)
            continue
        parts = (item,) if isinstance(item, str) else tuple(item) if isinstance(item, list | tuple) else ()
        if len(parts) not in (1, 2) or not all(isinstance(part, str) for part in parts):
            raise UserError(
                f"texts: number {number} is {str(item)[:40]!r} ({type(item).__name__}); give strings, or pairs of them"
            )
        examples.append(Example(*parts))
    if not examples:
        raise UserError("texts: there are none; give at least one")
    return examples


def _items(texts: Any) -> list[Any]:
    """Return what a series, an array, the rows of a table, or any other row of things holds.

    Raises:
        UserError: it is none, or one without an order, whose labels would go to other texts.
    """
    if hasattr(texts, "columns") and hasattr(
        texts, "to_numpy"
    ):  # which as a list is the names of its columns
        texts = texts.to_numpy()
    listed = texts.tolist() if hasattr(texts, "tolist") else texts
    if isinstance(listed, str | bytes | Mapping | Set) or not isinstance(listed, Iterable):
        raise UserError(
            f"texts: a list of strings is needed, not {str(texts)[:40]!r} ({type(texts).__name__}); write [text], or list(...)"
        )
    return list(listed)
