"""For tests of the front door: pages are written, and their plots left undrawn, which tests of reports look at."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def quick_plots(empty_plots: None) -> None:
    """Leave plots undrawn."""
