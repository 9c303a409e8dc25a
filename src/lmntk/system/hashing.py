"""Where a result comes from: hashes of content, and the versions of what computed it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from typing import Any

import lmntk

LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "scipy", "scikit-learn")


def content_key(**parts: Any) -> str:
    """Returns a sha256 of plain data, the same for equal content."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Returns the versions of lmntk, Python and the libraries whose numbers matter."""
    found = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {"lmntk": lmntk.__version__, "python": platform.python_version(), **found}
