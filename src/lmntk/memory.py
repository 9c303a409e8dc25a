"""Amounts of memory, as people write them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from lmntk.errors import UserError


def parse_bytes(text: str) -> int:
    """Returns the bytes that ``4GiB``, ``500MB`` or a plain number say.

    Raises:
        UserError: anything else.
    """
    units = {"kib": 2**10, "mib": 2**20, "gib": 2**30, "kb": 10**3, "mb": 10**6, "gb": 10**9, "b": 1, "": 1}
    number = text.strip().lower().rstrip("bikmg")
    unit = text.strip().lower()[len(number) :]
    try:
        size = int(float(number) * units[unit])
        if size > 0:
            return size
        raise ValueError
    except (ValueError, KeyError, OverflowError):
        raise UserError(f"memory: {text!r} is not a size; write 4GiB or 500MB") from None


def default_memory() -> int:
    """Returns half of the memory that this process may use, in bytes: the machine's, or its container's."""
    amounts = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with suppress(OSError, ValueError):  # no container, or "max"
        amounts.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(amounts) // 2
