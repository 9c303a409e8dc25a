"""Names for sets of parameters, whatever the family calls its layers: ``query+value``, ``mlp``, ``biases``, ``top-2``.

A target is one term or several: ``+`` joins sets, ``&`` keeps what they share (``attention&top-2``). A term is a name of ``TERMS``,
``top-K``, ``layer-K``, or a pattern of full names such as ``*.layer.11.*``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase

from lmntk.errors import UserError
from lmntk.models.parts import Part

TERMS: Mapping[str, Callable[[Part], bool]] = {
    "all": lambda part: True,
    "query": lambda part: "query" in part.roles,
    "key": lambda part: "key" in part.roles,
    "value": lambda part: "value" in part.roles,
    "attention-output": lambda part: "attention-output" in part.roles,
    "attention": lambda part: part.place == "attention" and part.kind in ("weight", "bias"),
    "mlp": lambda part: part.place == "mlp" and part.kind in ("weight", "bias"),
    "all-linear": lambda part: part.adaptable,
    "embeddings": lambda part: part.kind == "table",
    "norms": lambda part: part.kind == "norm",
    "biases": lambda part: part.bias,
    "head": lambda part: part.place == "head",
}
LAYERS = re.compile(r"(top|layer)-(\d+)")


def parameters_of(target: str, parts: Mapping[str, Part], low_rank: bool = False) -> tuple[str, ...]:
    """Return the names of the parameters that a target takes, in the model's order.

    Args:
        target: such as ``query+value``.
        parts: what each parameter is.
        low_rank: for LoRA: of them the linear maps, without the head's.

    Raises:
        UserError: an unknown term, one that matches nothing, more layers than there are, or nothing for LoRA.
    """
    chosen: set[str] = set()
    for joined in target.split("+"):
        sets = [_of_term(term.strip(), parts) for term in joined.split("&")]
        chosen |= set.intersection(*sets)
    adapted = {name for name in chosen if parts[name].adaptable}
    if not chosen or (low_rank and not adapted):
        what = "no linear map for LoRA" if chosen else "no parameter"
        raise UserError(f"targets: {target!r} takes {what} here; there are {_there(parts, low_rank)}")
    return tuple(name for name in parts if name in (adapted if low_rank else chosen))


def takes_any(target: str, parts: Mapping[str, Part]) -> bool:
    """Return whether a target takes any parameter."""
    try:
        return bool(parameters_of(target, parts))
    except UserError:
        return False


def is_above(name: str, part: Part, bottom: int) -> bool:
    """Return whether a parameter is above so many bottom layers; tables, and what is called embeddings, are below all."""
    if part.kind == "table":
        return False
    return "embeddings" not in name if part.layer is None else part.layer >= bottom


def depth(parts: Mapping[str, Part]) -> int:
    """Return the number of layers; of an encoder and a decoder those of the deeper."""
    return 1 + max((part.layer for part in parts.values() if part.layer is not None), default=-1)


def check_rank(rank: int, target: str, names: tuple[str, ...], parts: Mapping[str, Part]) -> None:
    """Refuse a rank that is larger than a layer.

    Raises:
        UserError: it is; says which layer, and the largest rank that all of them have.
    """
    narrow = min(names, key=lambda name: min(parts[name].shape[-2:]))  # a stack of experts has them last
    if rank > (most := min(parts[narrow].shape[-2:])):
        wide = " x ".join(map(str, parts[narrow].shape))
        raise UserError(
            f"rank: {rank} is more than {narrow!r} has, which is {wide}; of {target} give at most {most}"
        )


def _of_term(term: str, parts: Mapping[str, Part]) -> set[str]:
    if numbered := LAYERS.fullmatch(term):
        return _of_layers(term, numbered[1], int(numbered[2]), parts)
    if term in TERMS:
        chosen = {name for name, part in parts.items() if TERMS[term](part)}
    elif "." in term or "*" in term:
        chosen = {name for name in parts if fnmatchcase(name, term)}
    else:
        raise UserError(
            f"targets: no {term!r} is known; give one of {', '.join(TERMS)}, top-K, layer-K, or a pattern of names"
        )
    if not chosen:
        raise UserError(f"targets: {term!r} matches nothing here; there are {_there(parts)}")
    return chosen


def _of_layers(term: str, which: str, number: int, parts: Mapping[str, Part]) -> set[str]:
    deepest = depth(parts)
    most, least = (deepest, 1) if which == "top" else (deepest - 1, 0)
    if not least <= number <= most:
        raise UserError(
            f"targets: {term!r} of a network of {deepest} layers; give {which}-{least} to {which}-{most}"
        )
    if which == "layer":
        return {name for name, part in parts.items() if part.layer == number}
    return {name for name, part in parts.items() if is_above(name, part, deepest - number)}


def _there(parts: Mapping[str, Part], low_rank: bool = False) -> str:
    """Return the terms that match something, and a name."""
    matched = [
        term
        for term, takes in TERMS.items()
        if any(takes(part) and (part.adaptable or not low_rank) for part in parts.values())
    ]
    return f"{', '.join(matched)}, and names like {next(iter(parts))!r}"
