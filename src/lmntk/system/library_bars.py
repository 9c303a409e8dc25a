"""Other libraries' progress bars: none is shown, for whoever calls lmntk is told by lmntk, and a pipe is no place for bars.

transformers, huggingface_hub, datasets and peft each have a switch of their own, and some of their bars heed none. All of them
are tqdm's.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_LOCK = threading.Lock()
_open: list[Any] = []  # tqdm's own constructor, once for each block that has begun and not ended


@contextmanager
def without_bars() -> Iterator[None]:
    """Keep every bar that is made within the block from being shown, whoever makes it and in whatever thread.

    Blocks of several threads may overlap: the last to end gives bars back.
    """
    from tqdm.std import tqdm  # the class that all kinds of bars derive from

    with _LOCK:
        _open.append(_open[-1] if _open else tqdm.__init__)
        shown = _open[-1]

        def hidden(bar: Any, *args: Any, **options: Any) -> None:
            shown(bar, *args, **options | {"disable": True})

        tqdm.__init__ = hidden
    try:
        yield
    finally:
        with _LOCK:
            own = _open.pop()
            if not _open:
                tqdm.__init__ = own
