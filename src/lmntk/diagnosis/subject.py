"""The subject of a diagnosis: labelled examples, a fine-tuning, and the kernel that it is held against."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from lmntk.diagnosis.before import Kernels
from lmntk.diagnosis.examples import Examples
from lmntk.solvers.emulated_training import Training


@dataclass(frozen=True, eq=False)
class LabelledExamples:
    """Examples with their classes, and the metric that they are scored by.

    Attributes:
        examples: of the sides ``train``, ``dev`` and ``test``.
        labels: class numbers of the same sides.
        metric: ``accuracy`` or ``f1``.
    """

    examples: Mapping[str, Examples]
    labels: Mapping[str, Sequence[int]]
    metric: str = "accuracy"


@dataclass(frozen=True, eq=False)
class FineTuning:
    """A fine-tuning, as far as it is known.

    Attributes:
        weights: the fine-tuned weights by the names of ``model.named_parameters()``; None if training
            diverged.
        trainable: the parameters that were trained; None: those that require a gradient.
        training: how it was trained; without it there is no emulation, and the stable rates are the
            cross-entropy's.
        trajectory: (step, weights) along the training, in order; taken one at a time.
        diverged: why there are no weights.
    """

    weights: Mapping[str, Tensor] | None
    trainable: Mapping[str, nn.Parameter] | None = None
    training: Training | None = None
    trajectory: Iterable[tuple[int, Mapping[str, Tensor]]] = ()
    diverged: str = ""


@dataclass(frozen=True, eq=False)
class KernelSolution:
    """The kernel whose solution is held against a fine-tuning.

    Attributes:
        kernels: by (side, formula), those of theta_0 that are there already; sgd kernels that are not are
            computed.
        formula: of the kernel: the optimizer's own, ``sgd`` or of Adam and SignGD ``asigngd``.
        solver: with which it is solved; None: the formula's usual one.
    """

    kernels: Kernels = field(default_factory=dict)
    formula: str = "sgd"
    solver: str | None = None
