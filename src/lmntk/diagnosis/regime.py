"""The regime of a training, by e = ||real - emulated|| / ||real - f0||, and one word for it.

The *emulation* is the same training (rates, batches, clipping) of the model linearized at theta_0, made of the
kernel alone. Nothing emulates AdamW, SignGD, or a training of which nothing is known; there the model linearized
at the reached weights stands in its place, which is always said: it knows where training went, and is another number, which may be
smaller or larger. The logits are those of the test texts, at the weights that are diagnosed.

The regime *holds* at e <= .1, is *rough* to .3, and training *leaves the kernel* above.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

HOLDS = 0.1  # e up to which the regime holds
ROUGH = 0.3  # and up to which it is rough
TEST_ERROR = (
    "emulation_test_error"  # the number of a diagnosis: e of an emulation, over the test texts' logits
)
EMULATED = "the training emulated by its kernel"
LINEARIZED = "the model linearized at the reached weights, in place of an emulation,"
TEST = "the test texts' logits"
DEV = "the dev texts' logits at the last step"  # of diagnoses that were made before e was that of the test texts
Word = Literal["holds", "rough", "leaves the kernel"]
PHRASES: dict[Word | None, str] = {
    "holds": "the kernel regime holds",
    "rough": "the kernel regime is rough",
    "leaves the kernel": "training leaves the kernel",
    None: "the kernel regime was not measured",
}
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Regime:
    """The regime of one training, or of those of a task's splits.

    Attributes:
        error: e, over splits their mean; inf where the emulation grows without bound, None where not measured.
        deviation: the standard error of the mean over two splits or more; else None.
        whose: what missed the real logits, ``EMULATED`` or ``LINEARIZED``.
        over: of which texts.
        splits: how many were measured.
    """

    error: float | None = None
    deviation: float | None = None
    whose: str = ""
    over: str = ""
    splits: int = 0

    @property
    def word(self) -> Word | None:
        """``holds``, ``rough`` or ``leaves the kernel``; None where it was not measured."""
        if self.error is None:
            return None
        return "holds" if self.error <= HOLDS else "rough" if self.error <= ROUGH else "leaves the kernel"

    @property
    def figure(self) -> str:
        """E with its error, such as ``0.052 ± 0.004``; empty where it was not measured."""
        if self.error is None:
            return ""
        deviation = "" if self.deviation is None else f" ± {self.deviation:.3f}"
        return ("without bound" if np.isinf(self.error) else f"{self.error:.3f}") + deviation

    @property
    def phrase(self) -> str:
        """The word with its number, such as ``the kernel regime holds, e = 0.052 ± 0.004``."""
        return PHRASES[self.word] + (f", e = {self.figure}" if self.figure else "")

    @property
    def about(self) -> str:
        """Whose e it is, and over which texts."""
        if self.error is None:
            return "there are no logits of a fine-tuned model beside a prediction of them"
        mean = f", mean over {self.splits} splits" if self.splits > 1 else ""
        return f"the share of the move of {self.over} that {self.whose} misses{mean}"

    @property
    def sentence(self) -> str:
        """The phrase, and what it is about."""
        return f"{self.phrase} ({self.about})"

    def as_dict(self) -> dict[str, Any]:
        """Return plain data; an error without bound is null, and told by the word."""
        error = self.error if self.error is None or np.isfinite(self.error) else None
        numbers = {"error": error, "deviation": self.deviation, "splits": self.splits}
        return {"regime": self.word, **numbers, "phrase": self.phrase, "about": self.about}


def ended(diagnoses: Sequence[Record]) -> list[Record]:
    """Return the diagnoses of splits whose training ended."""
    return [each for each in diagnoses if numbers_of(each).get("fine_tuned") is not None]


def numbers_of(diagnosis: Record) -> Mapping[str, Any]:
    """Return a diagnosis's numbers; none where the record has none."""
    numbers = diagnosis.get("numbers")
    return numbers if isinstance(numbers, Mapping) else {}


def regime_of(diagnoses: Sequence[Record]) -> Regime:
    """Return the regime of one training or of a task's splits, from diagnoses as ``Diagnosis.as_dict`` has them.

    Diagnoses that were made before e was recorded are read: of SGD with the error of the emulation over the dev
    texts, else with that of the linearization. Trainings that diverged are left out.
    """
    measured = [found for each in ended(diagnoses) if (found := _measured(each)) is not None]
    if not measured:
        return Regime()
    errors = np.array([error for error, _, _ in measured])
    whose = " and ".join(dict.fromkeys(name for _, name, _ in measured))
    over = " and ".join(dict.fromkeys(texts for _, _, texts in measured))
    deviation = None
    if len(errors) > 1 and np.isfinite(errors).all():
        deviation = float(errors.std(ddof=1) / np.sqrt(len(errors)))
    return Regime(float(errors.mean()), deviation, whose, over, len(errors))


def _measured(diagnosis: Record) -> tuple[float, str, str] | None:
    """Return e of one diagnosis, whose it is, and over which texts; None where it has no such number."""
    numbers = numbers_of(diagnosis)
    linearized = numbers.get("logit_error")
    if TEST_ERROR in numbers:
        # null in a file is not finite: nothing moved, and then the linearization's is null too; or the emulation grew
        error = numbers[TEST_ERROR]
        unbounded = error is None and linearized is not None
        found = _number(float("inf") if unbounded else error, EMULATED, TEST)
    elif str(diagnosis.get("method", "")).startswith("sgd "):
        error = numbers.get("emulation_move_error")
        unbounded = error is None and _grows(diagnosis.get("emulation"))
        found = _number(float("inf") if unbounded else error, EMULATED, DEV)
    else:
        found = None
    return found or _number(linearized, LINEARIZED, TEST)


def _number(error: Any, whose: str, over: str) -> tuple[float, str, str] | None:
    is_number = isinstance(error, int | float) and not np.isnan(error)
    return (float(error), whose, over) if is_number else None


def _grows(emulation: Any) -> bool:
    """Return whether the kept emulated logits at the last step are beyond any number, which a file has as null."""
    if not isinstance(emulation, Mapping) or not emulation.get("emulated"):
        return False
    last = np.asarray(emulation["emulated"][-1], dtype=np.float64)
    return not np.isfinite(last).all()
