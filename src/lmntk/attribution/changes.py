"""Changes of the training texts, and what training on changed texts means.

*Training on a part S of N texts* is the same training with the others taken away, and nothing else changed:

* a solver's ridge is the fixed number lambda ||K||_op of the kernel of **all** N texts;
* a mean loss divides by the texts that are there, |S|, or by the sum of their weights;
* learning rate and number of steps stay;
* minibatches are those that the trainer would draw for S;
* the last step counts, not the one that was best on dev.

Without any text nothing is learnt: the outcome is the offset alone. A part with texts of one class is trained on like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lmntk.errors import UserError
from lmntk.solvers.inputs import Array, Labels, as_kernel, as_logits, as_train_kernel, encode_labels


@dataclass(frozen=True, eq=False)
class TrainedTexts:
    """The texts that training is on, and those whose outcome is asked for.

    Texts of a pool stand among the N, with weight 0 where they are not used.

    Attributes:
        kernel: K [N, C, N, C] of the training texts; [N, 1, N, 1] where C classes share it.
        cross: K [N, C, M, C] of the training texts with the others; likewise.
        labels: class numbers [N].
        f0: pre-trained logits [N, C].
        cross_f0: those of the others [M, C].
    """

    kernel: Array
    cross: Array
    labels: Labels
    f0: Array
    cross_f0: Array

    @classmethod
    def of(
        cls, kernel: Any, cross: Any, labels: Any, f0: Any, cross_f0: Any, classes: int | None = None
    ) -> TrainedTexts:
        """Return the texts, after a look at their shapes.

        Args:
            kernel: see the class, as for the others.
            cross: K of the training texts with the others.
            labels: class numbers.
            f0: pre-trained logits.
            cross_f0: those of the others.
            classes: how many share the kernel; None where each logit has its own.

        Raises:
            UserError: shapes that do not fit, or numbers that are not finite.
        """
        train, other = as_train_kernel(kernel), as_kernel(cross, "the kernel of the others")
        n, c = train.shape[:2]
        if other.shape[:2] != (n, c) or other.shape[3] != c:
            raise UserError(
                f"attribution: a kernel {list(other.shape)} does not begin with the {n} texts and {c} logits of {list(train.shape)}"
            )
        shares = classes is not None and c == 1
        c = (classes or c) if shares else c
        numbers = encode_labels(labels, c, what="attributed")
        if len(numbers) != n:
            raise UserError(f"attribution: {len(numbers)} labels for {n} texts; give one for each")
        logits = as_logits(f0, (n, c), "f0"), as_logits(cross_f0, (other.shape[2], c), "f0 of the others")
        return cls(train, other, numbers, *logits)

    def without(self, group: Sequence[int]) -> TrainedTexts:
        """Return training on all but a group, whose own outcomes are asked for: they are held out."""
        out = _checked(group, self.texts)
        left = [number for number in range(self.texts) if number not in set(out)]
        kernel = self.kernel[left]
        return TrainedTexts(
            kernel[:, :, left], kernel[:, :, out], self.labels[left], self.f0[left], self.f0[out]
        )

    def at_both_ends(self, kernel: Any, cross: Any) -> TrainedTexts:
        """Return the same texts with the mean of these kernels and those after one real training on all of them.

            f_T = f_0 - sum_t eta_t K_t chi_t / |S|  with  K_t about (K_0 + K_T) / 2

        A training that leaves the kernel regime moves K. This assumes that training on a part S moves it in about the same way. On
        halves of three tasks it foretold the outcome better than K before training; of much smaller parts nothing is known.

        Args:
            kernel: K [N, C, N, C] of the training texts at the weights after training on all.
            cross: K [N, C, M, C] of them with the others, likewise.

        Raises:
            UserError: shapes that are not those of the kernels before training.

        Example:
            texts = TrainedTexts.of(before, cross_before, labels, f0, cross_f0).at_both_ends(after, cross_after)
            DescentRefits(texts, rates).outcomes(Changes.without([[3]], texts.texts))
        """
        after = as_train_kernel(kernel), as_kernel(cross, "the kernel of the others after training")
        for before, later in zip((self.kernel, self.cross), after, strict=True):
            if before.shape != later.shape:
                raise UserError(
                    f"attribution: a kernel {list(later.shape)} after training for one {list(before.shape)} before it; "
                    "take both of the same texts"
                )
        return replace(self, kernel=(self.kernel + after[0]) / 2, cross=(self.cross + after[1]) / 2)

    @property
    def texts(self) -> int:
        """The number of training texts N."""
        return len(self.kernel)

    @property
    def outputs(self) -> int:
        """The number of rows that a text has in the kernel: C, or 1 where the classes share it."""
        return int(self.kernel.shape[1])

    @property
    def classes(self) -> int:
        """The number of logits C."""
        return int(self.f0.shape[1])

    @property
    def is_shared(self) -> bool:
        """Return whether the classes share the kernel: each is decided by itself then."""
        return self.classes != self.outputs


@dataclass(frozen=True, eq=False)
class Changes:
    """Several changes of the same texts, to be trained on one by one.

    Attributes:
        weights: of each text in each change [S, N]; 0 takes a text away, 1 leaves it, 2 counts it twice.
        labels: class numbers [S, N]; None where they stay.
    """

    weights: Array
    labels: Labels | None = None

    def __post_init__(self) -> None:
        """Refuse weights that are none.

        Raises:
            UserError: they are negative or not finite, or the labels are not as many.
        """
        if self.weights.ndim != 2 or not np.isfinite(self.weights).all() or (self.weights < 0).any():
            raise UserError("attribution: weights are [changes, texts], each a finite number of 0 or more")
        if self.labels is not None and self.labels.shape != self.weights.shape:
            raise UserError(
                f"attribution: labels {list(self.labels.shape)} for weights {list(self.weights.shape)}"
            )

    def __len__(self) -> int:
        """Return the number of changes."""
        return len(self.weights)

    @classmethod
    def parts(cls, parts: Sequence[Sequence[int]], texts: int) -> Changes:
        """Return training on each part alone, given by the numbers of its texts."""
        weights = np.zeros((len(parts), texts))
        for row, part in zip(weights, parts, strict=True):
            row[_checked(part, texts)] = 1.0
        return cls(weights)

    @classmethod
    def without(cls, groups: Sequence[Sequence[int]], texts: int) -> Changes:
        """Return training without each group."""
        return cls(1.0 - cls.parts(groups, texts).weights)

    @classmethod
    def relabelled(cls, numbers: Sequence[int], classes: Sequence[int], labels: Labels) -> Changes:
        """Return training with one text's label changed: text ``numbers[s]`` is of class ``classes[s]``, the others as they are."""
        changed = np.tile(labels, (len(numbers), 1))
        for row, number, label in zip(changed, _checked(numbers, len(labels)), classes, strict=True):
            row[number] = label
        return cls(np.ones(changed.shape), changed)

    def labels_of(self, change: int, labels: Labels) -> Labels:
        """Return the labels [N] of one change."""
        return labels if self.labels is None else self.labels[change]


def _checked(numbers: Sequence[int], texts: int) -> list[int]:
    wrong = [number for number in numbers if not 0 <= number < texts]
    if wrong:
        raise UserError(
            f"attribution: text {wrong[0]} is not in the training set, whose texts are 0 to {texts - 1}"
        )
    return list(numbers)
