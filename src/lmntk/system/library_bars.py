"""Other libraries' progress bars: none is shown, for whoever calls lmntk is told by lmntk, and a pipe is no place for bars.

transformers, huggingface_hub, datasets and peft each have a switch of their own, and some of their bars heed none. All of them
are tqdm's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def without_bars() -> Iterator[None]:
    """Keep every bar that is made within the block from being shown, whoever makes it and in whatever thread."""
    from tqdm.std import tqdm  # the class that all kinds of bars derive from

    shown = tqdm.__init__

    def hidden(bar: Any, *args: Any, **options: Any) -> None:
        shown(bar, *args, **options | {"disable": True})

    tqdm.__init__ = hidden
    try:
        yield
    finally:
        tqdm.__init__ = shown
