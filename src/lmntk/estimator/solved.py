"""The solution of a fit, kept with all that refits and explanations ask for: ``training.json``, and the kernel that it names."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from lmntk.attribution.changes import TrainedTexts
from lmntk.attribution.parts import Parts, parts_of
from lmntk.attribution.ridge_refits import RidgeRefits
from lmntk.errors import UserError
from lmntk.estimator.choice import Choice
from lmntk.estimator.texts import LabelledTexts
from lmntk.estimator.ways import key_of
from lmntk.kernels.kernel import Kernel, provenance_of
from lmntk.solvers.inputs import Array
from lmntk.solvers.shared import contrasts, in_classes
from lmntk.system.hashing import versions
from lmntk.system.kept import read_form, write_record
from lmntk.tasks.example import Example

FORMAT = "lmntk training 1"
NAME = "training.json"
KERNELS = "kernels"  # the name of the folder in a fit's


class TrainingRecord(BaseModel):
    """The record of what a fit was trained on, and of what came out.

    Attributes:
        format: of this file.
        key: the digest of all that the kernel depends on.
        kernel: its file, under the folder.
        texts: the N training texts, each with its second text or null.
        numbers: their class numbers.
        same: of each the number of the first text that is the same to the fit; these are held out together.
        labels: the classes' names, in order.
        logits: pre-trained ones [N, C].
        coefficients: of the solution [N, k]; null of no training.
        regularization: lambda; null of no training.
        f0_scale: s; null for inf.
        intercepts: what is added to each class's decision.
        sharing: ``full``, ``contrasts``, or ``shared``.
    """

    format: str
    key: str
    kernel: str
    texts: list[tuple[str, str | None]]
    numbers: list[int]
    same: list[int]
    labels: list[str]
    logits: list[list[float]]
    coefficients: list[list[float]] | None
    regularization: float | None
    f0_scale: float | None
    intercepts: list[float]
    sharing: str


@dataclass(frozen=True, eq=False)
class Solved:
    """A solution, by kernel ridge regression or by no training.

    Attributes:
        record: what is kept of it.
        kernel: [N, k, N, k], k being the outputs that were differentiated: C logits, C - 1 contrasts, or a shared one.
    """

    record: TrainingRecord
    kernel: Array

    @classmethod
    def of(cls, choice: Choice, texts: LabelledTexts) -> Solved:
        """Return the solution that was chosen on labelled texts."""
        way = choice.measured.way
        key, scale = key_of(way, texts.examples), choice.f0_scale
        sharing = (
            "shared" if way.combinations is not None else "contrasts" if way.basis is not None else "full"
        )
        record = TrainingRecord(
            format=FORMAT,
            key=key.digest,
            kernel=f"{KERNELS}/{way.mode}-{key.short}.safetensors",
            texts=[(example.text_a, example.text_b) for example in texts.examples],
            numbers=texts.numbers.tolist(),
            same=[texts.names.index(name) for name in texts.names],
            labels=list(texts.labels),
            logits=choice.measured.logits.tolist(),
            coefficients=None if choice.form is None else choice.coefficients.tolist(),
            regularization=None if choice.form is None else choice.setting["regularization"],
            f0_scale=None if math.isinf(scale) else scale,
            intercepts=list(choice.intercepts),
            sharing=sharing,
        )
        return cls(record, choice.measured.kernel)

    def write(self, folder: Path) -> None:
        """Write both files, the record last; a kernel that is there already stays."""
        path = folder / self.record.kernel
        if (provenance_of(path) or {}).get("key") != self.record.key:
            Kernel("sgd", self.kernel, provenance={"key": self.record.key, "versions": versions()}).save(path)
        write_record(folder / NAME, self.record.model_dump())

    @classmethod
    def read(cls, folder: Path) -> Solved:
        """Return the solution in a fit's folder.

        Raises:
            UserError: an earlier version wrote the fit, or its kernel is gone, or is another's.
            DamagedError: a file is not what was written.
        """
        again = f"`lmntk fit FILE --out {folder}` computes it anew"
        try:
            record: TrainingRecord = read_form(folder / NAME, TrainingRecord)
        except FileNotFoundError:
            raise UserError(
                f"explain: {str(folder)!r} does not hold what it was trained on (there is no {NAME}); {again}"
            ) from None
        path = folder / record.kernel
        if not path.is_file():
            raise UserError(
                f"explain: the kernel of {str(folder)!r} is gone (there is no {record.kernel}); {again}"
            )
        kernel = Kernel.load(path, {"key": record.key})
        return cls(record, kernel.values)

    @cached_property
    def examples(self) -> tuple[Example, ...]:
        """The training texts with their class numbers."""
        pairs = zip(self.record.texts, self.record.numbers, strict=True)
        return tuple(Example(text_a, text_b, number) for (text_a, text_b), number in pairs)

    @property
    def plain(self) -> list[str]:
        """The training texts, each as one string."""
        return [plain_text(example) for example in self.examples]

    def same_as(self, number: int) -> list[int]:
        """Return the numbers of the training texts that are the same as one, itself among them."""
        return [other for other, first in enumerate(self.record.same) if first == self.record.same[number]]

    @property
    def is_shared(self) -> bool:
        """Return whether the classes share the kernel."""
        return self.record.sharing == "shared"

    @property
    def basis(self) -> Array | None:
        """The contrasts [C, C - 1] whose kernel it is, if it is theirs."""
        return contrasts(len(self.record.labels)) if self.record.sharing == "contrasts" else None

    @property
    def f0_scale(self) -> float:
        """The number s that the pre-trained logits are divided by."""
        return math.inf if self.record.f0_scale is None else self.record.f0_scale

    @property
    def logits(self) -> Array:
        """Pre-trained logits of the training texts [N, C]."""
        return np.asarray(self.record.logits, dtype=np.float64)

    @property
    def intercept(self) -> Array:
        """The part of each decision that no training text has [C]."""
        return np.asarray(self.record.intercepts, dtype=np.float64)

    def parts(self, cross: Array, cross_f0: Array) -> Parts:
        """Return the decisions on other texts, taken apart; see ``refits``.

        Where nothing was trained no text has a part, and with a ridge of 0 there are no influences: they are not-a-number.
        """
        if self.record.regularization:
            return parts_of(self.refits(cross, cross_f0), self.intercept)
        return self.parts_alone(cross, cross_f0)

    def parts_alone(self, cross: Array, cross_f0: Array) -> Parts:
        """Return the same by the coefficients that are kept, and without influences; of no training these are 0."""
        offset = cross_f0 / self.f0_scale + self.intercept
        contributions = np.zeros((len(self.kernel), *offset.shape))
        if self.record.coefficients is not None:
            alpha = np.asarray(self.record.coefficients)
            axes = "nimj,nc->nmc" if self.is_shared else "ncmd,nc->nmd"
            contributions = np.einsum(axes, cross, alpha)
            contributions = contributions if self.basis is None else contributions @ self.basis.T
        unknown = 0.0 if self.record.coefficients is None else np.nan
        return Parts.of(offset, contributions, np.full(contributions.shape[:2], unknown))

    def refits(self, cross: Any = None, cross_f0: Any = None) -> RidgeRefits:
        """Return the training, whose outcomes are those of other texts; by default of the training texts themselves.

        Ridge on contrasts is ridge on their kernel between all logits: what these have in common, no cross kernel reaches.

        Args:
            cross: kernel [N, k, M, k] of the training texts with the others.
            cross_f0: their pre-trained logits [M, C].

        Raises:
            UserError: nothing was trained; or without a ridge, and the kernel is singular.
        """
        ridge, c = self.record.regularization, len(self.record.labels)
        if ridge is None:
            raise UserError(
                "explain: this fit trained nothing (its setting is no training); the pre-trained logits decide, "
                "and no training text takes part"
            )
        if ridge == 0 and self.basis is not None:
            raise UserError(
                "explain: regularization is 0, and a kernel of contrasts is singular between all logits; "
                "fit with a regularization above 0, or with --classes full"
            )
        cross, cross_f0 = (self.kernel, self.logits) if cross is None else (cross, cross_f0)
        kernel, towards = in_classes(self.kernel, self.basis), in_classes(cross, self.basis)
        classes = c if self.is_shared else None
        texts = TrainedTexts.of(kernel, towards, self.record.numbers, self.logits, cross_f0, classes)
        return RidgeRefits(texts, ridge, self.f0_scale)


def plain_text(example: Example) -> str:
    """Return an example as people read it, a pair with a stroke between."""
    return example.text_a if example.text_b is None else f"{example.text_a} / {example.text_b}"
