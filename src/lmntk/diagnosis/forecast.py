"""The forecast: by how many points the accuracy that a kernel reaches missed fine-tuning's, signed.

The kernel's solution is what training to the end in the kernel regime would reach. So it can be above a
training that was stopped early, or whose rate was small. The rule, fixed beforehand: where it is above by more
than twice the error, *training had not converged*, and nothing that is said of the pair is good news. The rule
looks at the metrics alone, and not at the training loss, which not every record has.

The *emulator* is the same training by the kernel, stopped at the same step; what it misses is the regime's
fault, not that of stopping.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lmntk.diagnosis.regime import Record, ended, numbers_of
from lmntk.diagnosis.uncertainty import error_over_splits, standard_error
from lmntk.solvers.inputs import Array

FAR = 2.0  # standard errors beyond which a miss is one
NOT_CONVERGED = "training had not converged"
Side = Literal["above", "below", "within"]


@dataclass(frozen=True)
class Miss:
    """The accuracy that was foretold less that of fine-tuning, in points (per cent).

    Attributes:
        points: over splits their mean; positive where the kernel promises more.
        error: its standard error over test texts, and over splits; None where the texts are not known.
        reached: the accuracy that was foretold, in per cent.
    """

    points: float
    error: float | None
    reached: float

    @property
    def figure(self) -> str:
        """The miss in print, such as ``+32.2 ± 3.4``."""
        shown = round(self.points, 1) + 0.0  # no -0.0
        return f"{shown:+.1f}" + ("" if self.error is None else f" ± {self.error:.1f}")

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, in points."""
        return {"points": self.points, "error": self.error, "figure": self.figure, "side": self.side}

    @property
    def side(self) -> Side | None:
        """The side on which the miss is more than twice its error, or ``within``; None where the error is not known."""
        if self.error is None:
            return None
        if abs(self.points) <= FAR * self.error:
            return "within"
        return "above" if self.points > 0 else "below"


@dataclass(frozen=True)
class Forecast:
    """The misses of the kernel and of its emulator; None where there is no such accuracy."""

    metric: str = "accuracy"
    formula: str = "sgd"
    fine_tuned: float | None = None
    kernel: Miss | None = None
    emulator: Miss | None = None
    splits: int = 0

    @property
    def overshoots(self) -> bool:
        """Return whether the kernel is above by more than twice the error; by anything where the error is not known."""
        if self.kernel is None:
            return False
        return self.kernel.points > FAR * (self.kernel.error or 0.0)

    @property
    def sentence(self) -> str:
        """The misses with their errors, and what follows; empty where there is nothing to be held against."""
        if self.fine_tuned is None or (self.kernel is None and self.emulator is None):
            return ""
        mean = "mean " if self.splits > 1 else ""
        tuned = f"fine-tuning's {self.fine_tuned:.1f} %"
        parts = []
        if self.kernel is not None:
            what = f"the {self.formula} kernel's {mean}{self.metric} of {self.kernel.reached:.1f} %"
            parts.append(f"{what} missed {tuned} by {self.kernel.figure} points{_follows(self.kernel)}")
        if self.emulator is not None:
            what = f"the emulator's {self.emulator.reached:.1f} % missed {'it' if parts else tuned}"
            parts.append(f"{what} by {self.emulator.figure}")
        return "; ".join(parts)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, in points."""
        return {
            "kernel": None if self.kernel is None else self.kernel.as_dict(),
            "emulator": None if self.emulator is None else self.emulator.as_dict(),
            "overshoots": self.overshoots,
            "sentence": self.sentence,
        }


def _follows(miss: Miss) -> str:
    return {
        "above": f", more than twice the error above: {NOT_CONVERGED}",
        "below": ", more than twice the error below: fine-tuning did better than its kernel",
        "within": ", within twice the error",
        None: "",
    }[miss.side]


def forecast_of(diagnoses: Sequence[Record]) -> Forecast:
    """Return the forecast of one training or of a task's splits, from diagnoses as ``Diagnosis.as_dict`` has them.

    The errors are those of ``standard_error`` for one split, and of ``error_over_splits`` for several. Trainings
    that diverged are left out. Kernels of two formulas have no mean.
    """
    told = ended(diagnoses)
    tuned = _accuracies(told, "fine_tuned")
    if tuned is None:
        return Forecast()
    formulas = sorted({str(each.get("formula", "sgd")) for each in told})
    return Forecast(
        str(told[0].get("metric", "accuracy")),
        formulas[0],
        100 * float(tuned.mean()),
        _miss(told, "kernel", tuned) if len(formulas) == 1 else None,
        _miss(told, "emulated", tuned),
        len(told),
    )


def _accuracies(told: Sequence[Record], name: str) -> Array | None:
    values = [numbers_of(each).get(name) for each in told]
    return None if not values or None in values else np.array(values, dtype=np.float64)


def _miss(told: Sequence[Record], name: str, tuned: Array) -> Miss | None:
    reached = _accuracies(told, name)
    if reached is None:
        return None
    error = _error(told, name, reached - tuned)
    points = 100 * float((reached - tuned).mean())
    return Miss(points, None if error is None else 100 * error, 100 * float(reached.mean()))


def _error(told: Sequence[Record], name: str, margins: Array) -> float | None:
    """Return the standard error of the mean miss; None where a record lacks the texts' classes."""
    labels = [(each.get("logits") or {}).get("labels") or [] for each in told]
    classes = [each.get("predictions") or {} for each in told]
    if any(not truth for truth in labels) or any(not (c.get(name) and c.get("fine_tuned")) for c in classes):
        return None
    splits = [[(1.0, each[name]), (-1.0, each["fine_tuned"])] for each in classes]
    metric = str(told[0].get("metric", "accuracy"))
    if len(told) == 1:
        return standard_error(metric, labels[0], splits[0])
    return error_over_splits(metric, margins, labels, splits)
