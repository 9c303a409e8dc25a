"""The page of an explanation: predictions with the training texts that speak for and against them, in their words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmntk.reports.page import fill, missing_libraries
from lmntk.system.files import write_text

PAGE = "explain.html"


def write_explain_page(folder: Path, contents: Mapping[str, Any]) -> str:
    """Write the page into a folder; returns why not where a library is missing, else nothing.

    Args:
        folder: where it goes.
        contents: all that is shown, as plain data; texts are escaped here.
    """
    missing = missing_libraries()
    if not missing:
        write_text(folder / PAGE, fill("explain.html", contents))
    return missing
