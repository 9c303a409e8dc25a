"""Groups of parameters, for kernels by layer."""

from __future__ import annotations

from itertools import pairwise


def group_of_layer(parameter: str) -> str:
    """Return a parameter's group: ``layer.03`` for a numbered block, else ``embeddings`` or ``head``."""
    parts = parameter.split(".")
    for before, part in pairwise(parts):
        if part.isdigit():
            return f"{before}.{int(part):02d}"
    return "embeddings" if "embeddings" in parameter else "head"
