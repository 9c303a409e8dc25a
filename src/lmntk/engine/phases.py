"""The memory model: what each phase of the work holds at most, of the host's memory and of a GPU's.

    capturing            row factors, the column factors of a tile, and what a batch's passes take
    contracting          row factors, the column factors of a tile, buffers, the result
    measuring            factors of a few texts in two precisions, and what their passes take
    checking             what the check of the captured gradients took, before all else
    summing directions   sums in float64, a batch's passes, one parameter's sum
    classifying          a batch's passes of the linearized model

The first four are those of kernels, and in ``kernel_phases``. The numbers come from a trial on the longest texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lmntk.engine.budget import Bytes, Phases
from lmntk.engine.lengths import evenly, most_tokens, padded_tokens
from lmntk.kernels.formulas import kernel_names

MARGIN = 192 * 2**20  # what libraries take when they are first used, and what freed memory leaves in pieces
GPU_MARGIN = (
    96 * 2**20
)  # a matrix library's workspace (32 MiB and more on recent GPUs), and freed memory in pieces
DOUBLE = 8
SUMS = (
    3 * DOUBLE
)  # bytes a coordinate of the largest parameter: its sum so far, one example's part, and both together
SIGNED = 20  # and a logit, of the gradient whose sign is taken: in float32, in float64, and as the product takes it


@dataclass(frozen=True)
class Trial:
    """Memory that a few of the longest texts took.

    Attributes:
        tokens: how many they had in all, and ``longest`` the longest.
        factors: bytes of their factors, and ``largest`` of the largest parameter's.
        working: bytes that the process grew by at most while they were captured.
        resident: bytes that the process holds without them.
        outputs: logits a text.
        held: of a GPU, on which then factors and working lie: what it holds without them. Else 0.
        checked: the most that the process held in the check of the captured gradients that came first, and ``gpu_checked`` the GPU.
    """

    tokens: int
    longest: int
    factors: int
    largest: int
    working: int
    resident: int
    outputs: int = 1
    held: int = 0
    checked: int = 0
    gpu_checked: int = 0


def result_bytes(pairs: int, outputs: int, formulas: Sequence[str], groups: int) -> int:
    """Return the bytes of the kernels between so many pairs of texts, as they are handed out.

    ``groups`` of parameters have parts of a formula's kernel beside the whole.
    """
    return DOUBLE * (len(kernel_names(formulas)) + len(formulas) * groups) * outputs**2 * pairs


def measuring_bytes(trial: Trial, lengths: Sequence[int], count: int, batch_size: int) -> int:
    """Return what it takes to measure a lower precision on ``count`` of the row texts.

    That is their factors in both precisions, and a batch's passes.
    """
    few = evenly(sorted(lengths), count)
    passes = trial.working * most_tokens([few], batch_size)
    return int((2 * trial.factors * padded_tokens(few, batch_size) + passes) / trial.tokens)


@dataclass(frozen=True)
class DirectionSizes:
    """Sizes of the directions of a solution.

    Attributes:
        trial: what a few texts took.
        coordinates: of the parameters that count, and ``largest`` of the largest of them.
        weights: bytes of these parameters.
        count: directions of the solution.
        signs: the sum is of signs, which take more.
        on_gpu: a GPU sums, and the host holds what is written.
    """

    trial: Trial
    coordinates: int
    largest: int
    weights: int
    count: int
    signs: bool
    on_gpu: bool


def direction_phases(sizes: DirectionSizes, batch_size: int, at_once: int) -> Phases:
    """Return what summing directions holds, by the texts of a batch and the directions of a round.

    Those of the round are held in float64, each other in the model's precision.
    """
    trial, tokens = sizes.trial, sizes.trial.longest * batch_size
    a_coordinate = SUMS + (SIGNED * trial.outputs if sizes.signs else 0)
    part = a_coordinate * sizes.largest + 2 * DOUBLE / 4 * trial.largest * tokens / trial.tokens
    directions = DOUBLE * sizes.coordinates * at_once + sizes.weights * (sizes.count - at_once)
    summing = directions + part + trial.working * tokens / trial.tokens
    host = trial.resident + MARGIN
    if not sizes.on_gpu:
        return {"summing directions": Bytes(int(host + summing))}
    gpu = int(trial.held + GPU_MARGIN + summing)
    return {"summing directions": Bytes(host + sizes.weights * sizes.count, gpu)}


def classifying_phases(resident: int, held: int | None, passes: float) -> Phases:
    """Return what classification by the linearized model holds.

    Args:
        resident: bytes that the process holds without it.
        held: bytes that a GPU holds without it; None where the processor computes.
        passes: bytes that the passes of a batch take.
    """
    if held is None:
        return {"classifying": Bytes(resident + MARGIN + passes)}
    return {"classifying": Bytes(resident + MARGIN, held + GPU_MARGIN + passes)}
