"""The vocabulary's two tables in a network: what looks words up, and the head's weight; either may be missing."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def word_table(network: Any) -> Tensor | None:
    """Return the table [v, i] of the words' vectors, None where the network has none of its own."""
    return _weight(network, "get_input_embeddings")


def head_weight(network: Any) -> Tensor | None:
    """Return the weight [v, i] of the head over the vocabulary, None where there is no such weight."""
    return _weight(network, "get_output_embeddings")


def head_of(network: Any) -> nn.Module | None:
    """Return the head over the vocabulary, None where there is none."""
    return _module(network, "get_output_embeddings")


def table_of(network: Any) -> nn.Module | None:
    """Return the module that looks words up, None where there is none."""
    return _module(network, "get_input_embeddings")


def is_tied(network: Any) -> bool:
    """Return whether the head's weight is the words' table."""
    weight = head_weight(network)
    return weight is not None and weight is word_table(network)


def _module(network: Any, getter: str) -> nn.Module | None:
    try:
        module = getattr(network, getter, lambda: None)()
    except (AttributeError, NotImplementedError):  # a family without such a table
        return None
    return module if isinstance(module, nn.Module) else None


def _weight(network: Any, getter: str) -> Tensor | None:
    weight = getattr(_module(network, getter), "weight", None)
    return weight if isinstance(weight, Tensor) else None
