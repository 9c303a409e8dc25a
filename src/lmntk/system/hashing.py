"""Where a result comes from: hashes of content, and the versions of what computed it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from typing import Any

import lmntk

SHORT = 8  # letters of a digest in a file's name; the whole digest stands in the file
LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "scipy", "scikit-learn")


def content_key(**parts: Any) -> str:
    """Return the sha256 of plain data, the same for equal content."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


class Key(dict[str, Any]):
    """All that a result depends on, by name: results of equal keys are the same result.

    Example:
        >>> key = Key(weights="3f", texts=["a fine film"])
        >>> key.but("texts") == Key(weights="3f")
        True
    """

    @property
    def digest(self) -> str:
        """The sha256 of the key, which stands inside the files of the result."""
        return content_key(**self)

    @property
    def short(self) -> str:
        """The first letters of the digest, which end the names of the result's files."""
        return short(self.digest)

    def but(self, *names: str) -> Key:
        """Return the key without these parts: what results of different parts still share."""
        return Key({name: value for name, value in self.items() if name not in names})

    def also(self, **parts: Any) -> Key:
        """Return the key with more parts."""
        return Key({**self, **parts})


def short(digest: str) -> str:
    """Return the letters of a digest that end a file's name."""
    return digest[:SHORT]


def versions() -> dict[str, str]:
    """Return the versions of lmntk, Python and the libraries whose numbers matter."""
    libraries = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {"lmntk": lmntk.__version__, "python": platform.python_version(), **libraries}
