"""Amounts of memory as people write them."""

from __future__ import annotations

import pytest

from lmntk.errors import UserError
from lmntk.system.memory import parse_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4GiB", 2**32),
        (" 4 gib ", 2**32),
        ("1.5KiB", 1536),
        ("500MB", 500 * 10**6),
        ("2TiB", 2**41),
        ("77", 77),
        ("77B", 77),
        ("1e9", 10**9),
    ],
)
def test_a_size(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "0", "0.1", "-1GiB", "much", "1,000MB", "4GiB x", "4G", "4k", "4Gbit", "inf", "nanGB", "1e400GB"],
)
def test_no_size(text):
    with pytest.raises(UserError, match=r"^device-memory: '.*' is not a size; write 4GiB or 500MB$"):
        parse_bytes(text, "device-memory")
