"""A few texts of two classes, and a prompt for them."""

from __future__ import annotations

TEMPLATE = "{a} it was {mask}."
WORDS = {"good": "great", "bad": "terrible"}
TEXTS = [
    f"{word} film {'.' * (1 + number % 3)} {number}" for number in range(5) for word in ("a great", "a dull")
]
LABELS = ["good", "bad"] * 5
NEW = ["a happy story", "a sad book", "it was"]
