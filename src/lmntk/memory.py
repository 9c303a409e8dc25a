"""Amounts of memory, as people write them."""

from __future__ import annotations

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
        return int(float(number) * units[unit])
    except (ValueError, KeyError):
        raise UserError(f"memory: {text!r} is not a size; write 4GiB or 500MB") from None
