"""Remarks on texts that were read: how many are empty, and how many test texts are train texts too."""

from __future__ import annotations

from lmntk.system.notices import say
from lmntk.tasks.data import TaskData
from lmntk.tasks.example import Example


def is_empty(example: Example) -> bool:
    """Return whether the text, or one of the two, is nothing but white space."""
    return not example.text_a.strip() or (example.text_b is not None and not example.text_b.strip())


def empty_remark(empty: int, total: int, side: str = "") -> str:
    """Return how many of the texts are empty, in words; nothing if none is."""
    be = "is" if empty == 1 else "are"
    return f"{empty} of {total} {side + ' ' if side else ''}texts {be} empty" if empty else ""


def say_remarks(data: TaskData, name: str) -> None:
    """Say how many texts of a task are empty, and how many of its test texts it trains or validates on."""
    for side, examples in (("train", data.train), ("dev", data.dev or ()), ("test", data.test)):
        if line := empty_remark(sum(map(is_empty, examples)), len(examples), side):
            say(f"{name}: {line}")
    known = {(example.text_a, example.text_b) for example in (*data.train, *(data.dev or ()))}
    shared = sum((example.text_a, example.text_b) in known for example in data.test)
    if shared:
        say(
            f"{name}: {shared} of {len(data.test)} test texts {'is' if shared == 1 else 'are'} among the train texts too"
        )
