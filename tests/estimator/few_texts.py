"""A few texts of two classes, and a prompt for them; the tiny tokenizer knows each word, so that no two become the same tokens."""

from __future__ import annotations

from typing import Any

import tiny

from lmntk import TangentClassifier

TEMPLATE = "{a} it was {mask}."
WORDS = {"good": "great", "bad": "terrible"}
THINGS = ("film", "book", "story", "film and book", "very fun story")
TEXTS = [f"{word} {thing} ." for thing in THINGS for word in ("a great", "a dull")]
LABELS = ["good", "bad"] * 5
NEW = ["a happy story", "a sad book", "it was"]


def numbered(number: int) -> str:
    """Return two words that no other number has."""
    first, second = divmod(number, len(tiny.WORDS))
    return f"{tiny.WORDS[first]} {tiny.WORDS[second]}"


def prompted(model: str, **settings: Any) -> TangentClassifier:
    """Return a classifier with a prompt, in float64."""
    return TangentClassifier(model, TEMPLATE, WORDS, **{"mode": "prompt", "dtype": "float64"} | settings)
