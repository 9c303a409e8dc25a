"""The cost of a lower precision than float32: a small block of the kernels in both, and the solutions on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from lmntk.engine.batches import Capturer
from lmntk.engine.lengths import evenly
from lmntk.engine.schedule import LOSS_TEXTS
from lmntk.kernels.formulas import SYMMETRIC
from lmntk.kernels.gram import EVERYTHING, TILE_BYTES, Panel, gram
from lmntk.prompts.encoding import EncodedText
from lmntk.system.precision import FULL, Precision, products
from lmntk.tangents.factors import Tangents
from lmntk.tangents.noise import noise_coordinates, silence

RIDGE = 0.01  # of the largest eigenvalue, as the ridge solver counts it; a smaller one magnifies the error, a larger one hides it


@dataclass(frozen=True)
class PrecisionLoss:
    """Relative errors of a block of kernels between a few training texts, beside the same block in float32.

    Attributes:
        precision: that was measured.
        texts: of the block.
        kernels: by kernel, the Frobenius norm of the difference over that of the kernel.
        coefficients: by symmetric kernel, the same of (K + 0.01 ||K|| I)^-1 y for labels y that alternate.
        logits: the largest error of a pre-trained logit, over the largest logit.
    """

    precision: str
    texts: int
    kernels: Mapping[str, float]
    coefficients: Mapping[str, float]
    logits: float

    def describe(self) -> str:
        """Return one line."""
        errors = ", ".join(f"{name} {error:.1e}" for name, error in self.kernels.items())
        solved = ", ".join(f"{name} {error:.1e}" for name, error in self.coefficients.items())
        line = f"{self.precision} beside float32 on {self.texts} texts: kernels are off by {errors}"
        return (
            line + (f"; ridge coefficients by {solved}" if solved else "") + f"; logits by {self.logits:.1e}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, two digits each: the last bits are of no use, and differ from machine to machine."""
        return {key: _two_digits(value) for key, value in asdict(self).items()}


def measure_precision_loss(
    capturer: Capturer,
    texts: Sequence[EncodedText],
    formulas: Sequence[str],
    drop_noise: bool,
    most: int = LOSS_TEXTS,
) -> PrecisionLoss:
    """Return what the precision of ``capturer`` costs on up to ``most`` of the texts, evenly from all lengths.

    Cost: the passes of these texts, in both precisions, and the contraction of the block. Memory: their factors in both.
    """
    ordered = sorted(texts, key=lambda text: text.length)
    count = min(most, len(ordered))
    few = evenly(ordered, count)
    batches = [[few[index] for index in chosen] for chosen in capturer.batches(few)]
    exact = [tangents for batch in batches for tangents in capturer.of_batch_in_full(batch)]
    lower = [tangents for batch in batches for tangents in capturer.of_batch(batch)]
    masks = noise_coordinates(exact) if drop_noise and set(formulas) != {"sgd"} else {}
    expected = _block(exact, masks, formulas, FULL)
    lowered = _block(lower, masks, formulas, capturer.precision)
    reference, logits = (torch.cat([batch.logits for batch in side]).double() for side in (exact, lower))
    names = list(dict.fromkeys(formulas))
    return PrecisionLoss(
        capturer.precision,
        count,
        {name: _relative(lowered[name], expected[name]) for name in names},
        {
            name: _relative(_solved(lowered[name]), _solved(expected[name]))
            for name in names
            if name in SYMMETRIC
        },
        float(
            (logits - reference).abs().max()
            / reference.abs().max().clamp(min=torch.finfo(torch.float64).tiny)
        ),
    )


def _block(
    batches: Sequence[Tangents], masks: Mapping[str, Tensor], formulas: Sequence[str], precision: Precision
) -> dict[str, Tensor]:
    """Return the kernels [n c, n c] between the batches' texts."""
    panel = Panel([silence(batch, masks) for batch in batches])
    with products(precision):
        kernels = gram(panel, panel, formulas, tile_bytes=TILE_BYTES)
    return {name: groups[EVERYTHING].flatten(0, 1).flatten(1) for name, groups in kernels.items()}


def _solved(kernel: Tensor) -> Tensor:
    """Return the coefficients of ridge regression on alternating labels."""
    ridge = (
        RIDGE
        * torch.linalg.matrix_norm(kernel, 2)
        * torch.eye(len(kernel), dtype=kernel.dtype, device=kernel.device)
    )
    labels = 1.0 - 2.0 * (torch.arange(len(kernel), device=kernel.device) % 2).to(kernel.dtype)
    coefficients: Tensor = torch.linalg.solve(kernel + ridge, labels)
    return coefficients


def _relative(values: Tensor, expected: Tensor) -> float:
    scale = float(torch.linalg.vector_norm(expected))
    return float(torch.linalg.vector_norm(values - expected)) / scale if scale else 0.0


def _two_digits(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _two_digits(each) for key, each in value.items()}
    return float(f"{value:.1e}") if isinstance(value, float) else value
