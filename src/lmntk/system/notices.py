"""Notices: one line on what was guessed, counted or left out, from wherever that is found to whoever listens.

The deepest reader says it with ``say``. The command line listens and prints; a run listens and keeps it with its results.
Where nobody listens, in a notebook, it is a Python warning.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[str], None]


class Notice(UserWarning):
    """A line worth reading about the user's data."""


def _warn(line: str) -> None:
    warnings.warn(line, Notice, stacklevel=3)


_LISTENER: ContextVar[Listener] = ContextVar("listener", default=_warn)


def say(line: str) -> None:
    """Tell the listener a line."""
    _LISTENER.get()(line)


@contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Give every notice of the block to a listener."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


@contextmanager
def kept() -> Iterator[list[str]]:
    """Keep the block's notices, each once, in a list that grows; nobody else hears them."""
    lines: list[str] = []
    with heard_by(lambda line: None if line in lines else lines.append(line)):
        yield lines
