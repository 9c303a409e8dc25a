"""A guard against pickles that a library opens while it loads a model: whatever names one, it is not read."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from lmntk.errors import UserError

_lock = threading.Lock()
_guards = 0  # threads load models side by side: the last one that ends takes the guard away
_load: Callable[..., Any] = torch.load


def _refuse(file: Any, *_: Any, **__: Any) -> Any:
    raise UserError(
        f"model: {str(file)[:200]!r} is a pickle, and is not read; take out what names it, or save it as safetensors"
    )


@contextmanager
def without_pickles() -> Iterator[None]:
    """Make ``torch.load`` refuse every file while the body runs.

    Raises:
        UserError: the body came to one.
    """
    global _guards, _load
    with _lock:
        if _guards == 0:
            _load, torch.load = torch.load, _refuse  # type: ignore[assignment]
        _guards += 1
    try:
        yield
    finally:
        with _lock:
            _guards -= 1
            if _guards == 0:
                torch.load = _load
