"""The ranges of what solvers and the emulator are told in numbers, checked where it comes in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lmntk.errors import UserError


@dataclass(frozen=True)
class _Range:
    """Numbers that a setting may be; ``words`` say so."""

    words: str
    low: float = 0.0
    high: float = math.inf
    has_low: bool = True
    is_finite: bool = True
    is_whole: bool = False

    def has(self, value: float) -> bool:
        return (
            (self.low <= value if self.has_low else self.low < value)
            and value <= self.high
            and (math.isfinite(value) or not self.is_finite)
            and (not self.is_whole or value == int(value))
        )


_POSITIVE = _Range("a positive finite number", has_low=False)
_NOT_NEGATIVE = _Range("a finite number, 0 or more")
RANGES = {
    "regularization": _NOT_NEGATIVE,
    "cost": _POSITIVE,
    "epsilon": _NOT_NEGATIVE,
    "gamma": _POSITIVE,
    "mixture": _Range("a number from 0 to 1", high=1.0),
    "f0_scale": _Range(
        "positive, or inf to leave the pre-trained logits out", has_low=False, is_finite=False
    ),
    "rank_tolerance": _NOT_NEGATIVE,
    "max_iter": _Range("a whole number from 1 up", low=1, is_whole=True),
    "steps": _Range("a whole number, 0 or more", is_whole=True),
    "rate": _Range("a finite number, 0 or more"),
    "clip": _POSITIVE,
}


def check_setting(name: str, value: Any) -> None:
    """Refuse a setting outside of its range.

    Raises:
        UserError: one line with its name, its value and what it may be.
    """
    known = RANGES.get(name)
    if known is None or value is None:
        return
    is_number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not is_number or not known.has(float(value)):
        raise UserError(f"{name} is {value!r}; it must be {known.words}")


def check_settings(values: Mapping[str, Any]) -> None:
    """Refuse settings outside of their ranges; see ``check_setting``."""
    for name, value in values.items():
        check_setting(name, value)


def check_rates(rates: Sequence[float] | npt.NDArray[np.float64]) -> None:
    """Refuse learning rates that are no finite numbers from 0 up."""
    for rate in np.unique(np.asarray(rates, dtype=np.float64)):
        check_setting("rate", float(rate))


def check_texts(chosen: Sequence[int] | npt.NDArray[np.int64], count: int, name: str) -> None:
    """Refuse numbers of training texts that are not there; a negative one would count from the end.

    Raises:
        UserError: one line with the first of them.
    """
    numbers = np.asarray(chosen)
    if numbers.ndim != 1 or numbers.size == 0 or numbers.dtype.kind not in "iu":
        raise UserError(
            f"{name}: {str(chosen)[:60]} is not a list of training texts; give their numbers from 0"
        )
    wrong = numbers[(numbers < 0) | (numbers >= count)]
    if wrong.size:
        raise UserError(f"{name}: {int(wrong[0])} is not a training text; there are 0 to {count - 1}")
