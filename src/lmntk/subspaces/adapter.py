"""A candidate as peft's configuration, to be copied."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from lmntk.kernels.lora import LoraStart


def target_modules(adapted: Sequence[str], modules: Collection[str]) -> list[str] | str:
    """Return ``target_modules`` for peft that match these modules, and no other linear map.

    peft matches a list's entries with the ends of names, and a string as a regular expression with all of a name. The shortest ends are
    taken; where even a name after its layer's number is another's end too, an expression.

    Args:
        adapted: names of the modules to adapt.
        modules: names of all linear maps.

    Example:
        >>> names = [f"layer.{n}.attention.{part}" for n in (0, 1) for part in ("query", "key")]
        >>> target_modules([name for name in names if "query" in name], names)
        ['query']
    """
    others = set(modules) - set(adapted)
    ends: set[str] = set()
    for tail in sorted({_tail(name) for name in adapted}):
        pieces = tail.split(".")
        matching = (".".join(pieces[start:]) for start in range(len(pieces) - 1, -1, -1))
        end = next((end for end in matching if not any(_ends_with(name, end) for name in others)), None)
        if end is None:
            return "|".join(sorted({_expression(name) for name in adapted}))
        ends.add(end)
    return sorted(ends)


def lora_config(modules: list[str] | str, rank: int, start: LoraStart) -> str:
    """Return the call of peft's ``LoraConfig``, as text."""
    more = {
        "one": f", lora_alpha={rank}",
        "alpha/r": f", lora_alpha={start.alpha:g}",
        "alpha/sqrt(r)": f", lora_alpha={start.alpha:g}, use_rslora=True",
    }[start.scaling]
    init = "" if start.init == "kaiming" else ', init_lora_weights="gaussian"'
    return f"LoraConfig(r={rank}{more}, target_modules={modules!r}{init})"


def _tail(name: str) -> str:
    """Return a module's name after its layer's number; all of it outside of layers."""
    return re.split(r"(?:^|\.)\d+\.", name)[-1]


def _expression(name: str) -> str:
    """Return an expression that matches a module in every layer, whatever the network is wrapped in."""
    pieces = name.split(".")
    first = next((at for at, piece in enumerate(pieces) if piece.isdigit()), 1)
    kept = (r"\d+" if piece.isdigit() else re.escape(piece) for piece in pieces[max(first - 1, 0) :])
    return r".*\." + r"\.".join(kept)


def _ends_with(name: str, end: str) -> bool:
    return name == end or name.endswith(f".{end}")
