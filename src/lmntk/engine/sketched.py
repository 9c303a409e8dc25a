"""IntrinsicDimension's kernels of texts: each text's gradients become a few thousand numbers, and are dropped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lmntk.engine.batches import Capturer
from lmntk.engine.kernel_work import KernelWork, Pair
from lmntk.engine.plan import capturer_of
from lmntk.engine.settings import Settings
from lmntk.engine.tiles import in_order
from lmntk.errors import UserError
from lmntk.kernels.formulas import SIGNS
from lmntk.kernels.gram import EVERYTHING, Panel, gram
from lmntk.kernels.sketches import Kind, Sketch, bars, entry_sd, needed_dimension, reached_error
from lmntk.prompts.encoding import EncodedText
from lmntk.system.memory import shown_bytes
from lmntk.system.precision import products
from lmntk.tangents.factors import Tangents

PROBES = 16  # texts a group whose kernels are exact; with fewer, bars must be wider to cover as much
PILOT, PILOT_DRAWS = 256, 8  # dimension and number of sketches whose errors tell which dimension is needed


@dataclass(frozen=True)
class Sketched:
    """Kernels of features, and how far off they may be.

    Attributes:
        kernels: ``{(row group, column group): {kernel name: [n, c, m, d]}}``; of sign formulas those of the features' signs, which are what
            a sign step in the subspace does, and no estimate of the full sign kernels.
        bars: of ``sgd``, by pair: error bars [n, c, m, d] about the full kernel.
        features: by group, [n, c, d].
    """

    kernels: dict[Pair, dict[str, Tensor]]
    bars: dict[Pair, Tensor]
    features: dict[str, Tensor]


def sketch_kernels(work: KernelWork, sketch: Sketch, settings: Settings | None = None) -> Sketched:
    """Return IntrinsicDimension's kernels between the named groups of texts.

    Cost: a capture of each text, ``Sketch.features`` of it, and 2 d operations a pair of texts. Memory: the features, one batch's factors,
    and those of a few texts that are probes.

    Raises:
        UserError: the features alone do not fit into the memory.
    """
    settings = settings or Settings()
    texts = sum(len(work.texts[name]) for name in work.groups)
    needed = 8 * sketch.dimension * texts * int(work.model.outputs)
    if needed > settings.share:
        raise UserError(
            f"memory: {shown_bytes(settings.share)} is too little for {texts} texts of {sketch.dimension} features, "
            f"which are {shown_bytes(needed)}; give more, or a smaller dimension"
        )
    capturer = capturer_of(work, settings)
    with products(settings.precision):
        features = {name: _features(capturer, sketch, work.texts[name]) for name in work.groups}
        probes = {name: _probes(capturer, work.texts[name]) for name in work.groups}
    kernels: dict[Pair, dict[str, Tensor]] = {}
    found: dict[Pair, Tensor] = {}
    for row, column in work.pairs:
        left, right = features[row], features[column]
        kernels[row, column] = {name: _kernel(name, left, right) for name in work.kernel_names}
        values = _kernel("sgd", left, right)
        sd = entry_sd(values, left.square().sum(2), right.square().sum(2), sketch.dimension)
        (rows, row_panel), (columns, column_panel) = probes[row], probes[column]
        exact = gram(row_panel, column_panel, ["sgd"])["sgd"][EVERYTHING].cpu()
        found[row, column] = bars(values, sd, (rows, columns), exact)
    return Sketched(kernels, found, features)


def sketch_within(
    work: KernelWork, kind: Kind, tolerance: float, seed: int = 0, settings: Settings | None = None
) -> Sketch:
    """Return the sketch whose kernels of these texts miss by a relative error of about the tolerance, in the Frobenius norm.

    The error is measured on a few texts of each group, by eight sketches of 256 dimensions, and told for others by how it falls with d.

    Cost: a capture of the few texts, their exact kernel, and eight times ``Sketch.features`` of them.

    Raises:
        UserError: a tolerance that is none, a kind whose error no dimension sets, or features that do not fit into the memory; says what
            is reached there, and the cost.

    Example:
        >>> sketch_within(work, "sparse", 0.05).dimension  # doctest: +SKIP
        1873
    """
    if kind == "fastfood":
        raise UserError(
            "tolerance: fastfood's error does not fall with the dimension alone, because its blocks share a diagonal; "
            "take sparse or kronecker, or give a dimension"
        )
    if not 0 < tolerance < 1:
        raise UserError(
            f"tolerance: {tolerance} is not a share; give more than 0 and less than 1, such as 0.05"
        )
    settings = settings or Settings()
    capturer = capturer_of(work, settings)
    every = [text for name in work.groups for text in work.texts[name]]
    with products(settings.precision):
        _, panel = _probes(capturer, every)
        exact = gram(panel, panel, ["sgd"])["sgd"][EVERYTHING].cpu()
        errors = []
        for number in range(PILOT_DRAWS):
            pilot = Sketch(kind, PILOT, seed + number)
            features = torch.cat([pilot.features(batch).cpu() for batch in panel.batches])
            errors.append(((_kernel("sgd", features, features) - exact).norm() / exact.norm()).square())
    error = float(torch.stack(errors).mean().sqrt())
    needed = needed_dimension(kind, PILOT, error, tolerance)
    a_feature = 8 * len(every) * int(work.model.outputs)
    if needed * a_feature > settings.share:
        most = max(1, int(settings.share // a_feature))
        reached = reached_error(kind, most, needed, tolerance)
        raise UserError(
            f"tolerance: {tolerance:g} needs {needed:,} features of each text, {shown_bytes(needed * a_feature)} for {len(every)}; "
            f"{shown_bytes(settings.share)} hold {most:,}, which reach {reached:.2g}; give that, more memory, or the exact kernel"
        )
    return Sketch(kind, needed, seed)


def _features(capturer: Capturer, sketch: Sketch, texts: Sequence[EncodedText]) -> Tensor:
    """Return the features [n, c, d] of texts, in their order."""
    parts, order = [], []
    for chosen in capturer.batches(texts):
        batches = capturer.of_batch([texts[index] for index in chosen])
        parts += [sketch.features(batch).cpu() for batch in batches]
        order += chosen
    return in_order(torch.cat(parts), order)


def _probes(capturer: Capturer, texts: Sequence[EncodedText]) -> tuple[Tensor, Panel]:
    """Return the indices of a few texts spread over the group, and their tangents."""
    chosen = torch.linspace(0, len(texts) - 1, min(PROBES, len(texts))).round().long()
    batches: list[Tangents] = []
    for index in chosen.tolist():
        batches += capturer.of_batch([texts[index]])
    return chosen, Panel(batches)


def _kernel(name: str, rows: Tensor, columns: Tensor) -> Tensor:
    row_sign, column_sign = SIGNS[name]
    return torch.einsum(
        "ncp,mdp->ncmd", rows.sign() if row_sign else rows, columns.sign() if column_sign else columns
    )
