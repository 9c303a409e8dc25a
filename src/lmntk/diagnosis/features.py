"""Fixed features: how far the gradients, and the kernel that they make, move in fine-tuning.

Two distances go by the name, and both are here, by name: the *kernel distance*, mean |K_after - K_before| /
|K_before|, element by element, and the *gradient distance*, mean ||g_after - g_before|| / ||g_before||, text
by text and logit by logit. The first is that of the paper's test; both are 0 where features are fixed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lmntk.diagnosis.examples import Examples, device_of, fitted
from lmntk.engine.kernel_work import KernelWork, Pair
from lmntk.engine.settings import Settings
from lmntk.engine.stream import Streamed, stream_kernels
from lmntk.engine.work_folder import WorkFolder
from lmntk.errors import UserError
from lmntk.kernels.diagonal import diagonal
from lmntk.kernels.gram import Grouping, Panel, gram
from lmntk.models.fingerprint import fingerprint
from lmntk.models.logit_model import LogitModel
from lmntk.models.weights import at_weights
from lmntk.prompts.encoding import EncodedText
from lmntk.solvers.inputs import Array
from lmntk.system.hashing import content_key
from lmntk.tangents.coverage import Coverage
from lmntk.tangents.factors import Tangents

# |K| below this part of ||g|| ||g'|| is what rounding leaves of zero: kernels of float32 gradients are good
# to 3e-7.
SIZE_ZERO = 1e-6


@dataclass(frozen=True)
class KernelDistance:
    """The distances that a kernel moved.

    Attributes:
        elementwise: mean of |K_after - K_before| / |K_before| over the entries whose K_before is not of size
            zero.
        median: the median of the same, which a few small entries do not decide.
        left_out: the share of entries of size zero: |K_before| <= 1e-6 sqrt(K_before[a, a] K_before[b, b]),
            where a ratio is one of rounding errors (across classes of a linear head it is 0 / 0).
        frobenius: ||K_after - K_before||_F / ||K_before||_F, over all entries.
        cosine: <K_after, K_before> / (||K_after||_F ||K_before||_F), 1 where the kernel only grew or shrank
            as a whole.
    """

    elementwise: float
    median: float
    left_out: float
    frobenius: float
    cosine: float


def kernel_distance(before: Array, after: Array) -> KernelDistance:
    """Return the distances between two train kernels [n, c, n, c] of the same texts.

    Raises:
        UserError: kernels of other shapes, or one that is zero before.
    """
    before, after = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if before.shape != after.shape or before.ndim != 4 or before.shape[:2] != before.shape[2:]:
        raise UserError(
            f"kernels of the shapes {before.shape} and {after.shape} have no distance; "
            "give two [n, c, n, c] of the same texts"
        )
    n, c = before.shape[:2]
    first, second = before.reshape(n * c, n * c), after.reshape(n * c, n * c)
    sizes = np.sqrt(np.diag(first).clip(min=0))
    counted = np.abs(first) > SIZE_ZERO * np.outer(sizes, sizes)
    if not counted.any():
        raise UserError(
            "the kernel before fine-tuning is zero, so its move cannot be measured; look at `lmntk check`"
        )
    ratios = np.abs(second - first)[counted] / np.abs(first)[counted]
    norms = float(np.linalg.norm(first)), float(np.linalg.norm(second))
    return KernelDistance(
        elementwise=float(ratios.mean()),
        median=float(np.median(ratios)),
        left_out=float(1 - counted.mean()),
        frobenius=float(np.linalg.norm(second - first)) / norms[0],
        cosine=float((first * second).sum()) / (norms[0] * norms[1]) if norms[1] > 0 else 0.0,
    )


@dataclass(frozen=True, eq=False)
class GradientDistance:
    """The distance that each gradient g_c(x_n) moved.

    Attributes:
        relative: [n, c], ||g_after - g_before|| / ||g_before||; nan where g_before is zero.
        cosine: [n, c], of g_after and g_before; nan where one is zero.
    """

    relative: Array
    cosine: Array

    @classmethod
    def of_batches(cls, examples: Examples, parts: Iterable[tuple[Array, Array]]) -> GradientDistance:
        """Return the distances of all batches' ``moved_gradients``, in the user's order."""
        order = examples.order().numpy()
        return cls(*(np.concatenate(part)[order] for part in zip(*parts, strict=True)))

    @property
    def mean(self) -> float:
        """The mean relative distance over texts and logits that have one; nan if none has."""
        known = self.relative[np.isfinite(self.relative)]
        return float(known.mean()) if known.size else float("nan")


def gradient_distance(
    model: nn.Module,
    examples: Examples,
    weights: Mapping[str, Tensor],
    trainable: Mapping[str, nn.Parameter],
    coverage: Coverage | None = None,
) -> GradientDistance:
    """Return the distance that every text's gradients move from theta_0 to the fine-tuned weights.

        ||g_a - g_b||^2 = <g_a, g_a> - 2 <g_a, g_b> + <g_b, g_b>

    These are three diagonals of Gram matrices of captured factors.

    Args:
        model: at theta_0.
        examples: n of them.
        weights: the fine-tuned weights, by name.
        trainable: the parameters whose gradients count.
        coverage: how gradients are captured at theta_0, if that was looked at before.

    Cost: two forward and 2 c backward passes a text. Memory: the factors of one batch, twice, and a copy of
    the weights. The subtraction loses digits where g hardly moved: in float32 a distance below 1e-3 is
    rounding.
    """
    examples, coverage = captured_as(coverage, model, examples, trainable)
    parts = []
    for _, batch in examples.on(device_of(model)):
        before = coverage.capture(model, batch, trainable)
        with at_weights(model, weights):
            after = coverage.capture(model, batch, trainable)
        parts.append(moved_gradients(before, after))
    return GradientDistance.of_batches(examples, parts)


def moved_gradients(before: Tangents, after: Tangents) -> tuple[Array, Array]:
    """Return the relative distance and the cosine [n, c] of a batch's gradients at two weights; see ``GradientDistance``."""
    bb, aa, ab = (_own_products(*pair) for pair in ((before, before), (after, after), (after, before)))
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.sqrt((aa - 2 * ab + bb).clip(min=0)) / np.sqrt(bb)
        cosine = ab / np.sqrt(aa * bb)
    relative[bb == 0] = np.nan
    return relative, cosine


def gradient_norms(
    model: nn.Module,
    examples: Examples,
    trainable: Mapping[str, nn.Parameter],
    grouping: Grouping,
    coverage: Coverage | None = None,
) -> dict[str, float]:
    """Return sum_nc ||g_c(x_n)||^2 by parameter group: the trace of its sgd kernel, without the kernel.

    Cost: a forward and c backward passes a text. Memory: the factors of one batch.
    """
    examples, coverage = captured_as(coverage, model, examples, trainable)
    batches = (batch for _, batch in examples.on(device_of(model)))
    return norms_of((coverage.capture(model, batch, trainable) for batch in batches), grouping)


def norms_of(batches: Iterable[Tangents], grouping: Grouping) -> dict[str, float]:
    """Return sum_nc ||g_c(x_n)||^2 of captured batches by parameter group."""
    totals: dict[str, float] = {}
    for tangents in batches:
        for name, squares in diagonal(tangents, tangents).items():
            totals[grouping(name)] = totals.get(grouping(name), 0.0) + float(squares.sum())
    return totals


def captured_as(
    coverage: Coverage | None, model: nn.Module, examples: Examples, trainable: Mapping[str, nn.Parameter]
) -> tuple[Examples, Coverage]:
    """Return the examples in batches that can be captured, and how: as is known, else as a look at the model says."""
    if coverage is None:
        return fitted(model, examples, trainable)
    return (examples if coverage.batched else examples.alone()), coverage


def _own_products(left: Tangents, right: Tangents) -> Array:
    """Return <g_c(x_n), g'_c(x_n)> [n, c] of each text, by the same summation for any two sides."""
    start = torch.zeros(left.logits.shape, dtype=torch.float64, device=left.logits.device)
    return sum(diagonal(left, right).values(), start).cpu().numpy()


def stream_sgd(
    model: LogitModel,
    texts: Mapping[str, Sequence[EncodedText]],
    pairs: Sequence[Pair],
    trainable: Mapping[str, nn.Parameter],
    pad_id: int,
    settings: Settings,
    coverage: Coverage | None = None,
) -> Streamed:
    """Return sgd kernels between groups of texts at the model's present weights; see ``stream_kernels``.

    With ``coverage`` there is no start-up check.

    Factors that do not fit into memory go to the settings' scratch folder, under a name of all that they
    depend on, and are removed.
    """
    key = ""
    if settings.scratch is not None:
        # label words, which no state has
        own = {name: buffer.tolist() for name, buffer in model.named_buffers(recurse=False)}
        reads = [type(model).__name__, own, model.difference, getattr(model, "kind", None)]
        shown = {name: [repr(text) for text in part] for name, part in texts.items()}
        cut = [sorted(trainable), settings.cut(), settings.drop_noise, settings.grouping is not None]
        key = content_key(
            weights=fingerprint(model), reads=reads, texts=shown, pairs=pairs, cut=cut, pad_id=pad_id
        )
    work = KernelWork(model, texts, pairs, ["sgd"], trainable, pad_id, coverage=coverage)
    streamed = stream_kernels(work, settings, key=key)
    WorkFolder.finish(settings, key)
    return streamed


def sgd_kernel(
    model: nn.Module,
    examples: Examples,
    trainable: Mapping[str, nn.Parameter],
    settings: Settings | None = None,
    weights: Mapping[str, Tensor] | None = None,
    coverage: Coverage | None = None,
) -> dict[str, Array]:
    """Return the sgd kernel [n, c, n, c] of examples by parameter group, at theta_0 or at other weights.

    With ``coverage`` it is not looked at again how gradients are captured.

    Texts of a ``LogitModel`` stream in bounded memory (``stream_kernels``); of ready batches all factors are
    kept.
    """
    settings = settings or Settings()
    with at_weights(model, weights or {}):
        if examples.texts is not None and isinstance(model, LogitModel):
            texts, pairs = {"all": examples.texts}, [("all", "all")]
            streamed = stream_sgd(model, texts, pairs, trainable, examples.pad_id, settings, coverage)
            return {name: part.numpy() for name, part in streamed.kernels["all", "all"]["sgd"].items()}
        examples, coverage = captured_as(coverage, model, examples, trainable)
        panel = Panel(
            [coverage.capture(model, batch, trainable) for _, batch in examples.on(device_of(model))]
        )
        order = examples.order()
        by_group = gram(panel, panel, ["sgd"], settings.grouping)["sgd"]
        return {name: part.cpu()[order][:, :, order].numpy() for name, part in by_group.items()}
