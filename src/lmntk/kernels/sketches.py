"""IntrinsicDimension: theta = theta_0 + Pi z with Pi [P, d] random, whose gradient is Pi^T g, and whose kernel is <Pi^T g, Pi^T g'>.

Pi is never there: it is made block by block from seeds, applied to a block of the gradients, and forgotten. In the mean over draws the
kernel is <g, g'>. What a block is depends on the parameter alone, so that the features of a text do not depend on anything else.

    sparse      a coordinate goes to one of d places, with a random sign: a hash says where (Johnson-Lindenstrauss, one entry a row)
    fastfood    S H D P H B of each block of 2^12 coordinates: H Hadamard's, B signs, P a permutation, D and S diagonal and random
    kronecker   L G R of a weight with L [l, o], R [i, r] and l r = d, from its factors: sum_t (L g_t) (R^T x_t)^T builds no gradient
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, isqrt, sqrt
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from lmntk.errors import UserError
from lmntk.tangents.factors import DenseFactors, OuterFactors, RowFactors, StackedFactors, Tangents
from lmntk.tangents.form import Factors

Kind = Literal["sparse", "fastfood", "kronecker"]
BLOCK = 2**12  # coordinates of a fastfood block; of all blocks that are built at a time
WIDTH = 1.97  # standard deviations of an error bar: with 16 probes 95 in 100 of the entries that are no probes, measured
WORD = 2**64


@dataclass(frozen=True)
class Sketch:
    """A random map from gradients to d numbers.

    Attributes:
        kind: ``sparse``, ``fastfood`` or ``kronecker``.
        dimension: d.
        seed: of the map.

    Raises:
        UserError: an unknown kind, or no dimension.
    """

    kind: Kind
    dimension: int
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what is no sketch."""
        if self.kind not in get_args(Kind):
            raise UserError(f"sketch: no {self.kind!r} is known; give one of {', '.join(get_args(Kind))}")
        if self.dimension < 1:
            raise UserError(f"sketch: the dimension is {self.dimension}; give 1 or more")

    @property
    def sides(self) -> tuple[int, int]:
        """The l and r of a two-sided sketch, l r = d, as equal as they can be."""
        left = next(side for side in range(isqrt(self.dimension), 0, -1) if self.dimension % side == 0)
        return left, self.dimension // left

    def features(self, tangents: Tangents) -> Tensor:
        """Return Pi^T g [n, c, d] of a batch, in float64.

        Cost: P operations a text and logit (sparse), 24 P (fastfood), 2 T (o l + i r + l r) a weight (kronecker). Memory: the result, and
        a block of the batch's gradients.
        """
        n, c = tangents.logits.shape
        total = torch.zeros(c, n, self.dimension, dtype=torch.float64, device=tangents.logits.device)
        for name, factors in tangents.factors.items():
            self._add(name, factors, total)
        return total.transpose(0, 1).contiguous()

    def _add(self, name: str, factors: Factors, total: Tensor) -> None:
        if isinstance(factors, StackedFactors):
            for index, member in enumerate(factors.parts):
                if member is not None:
                    self._add(f"{name} {index}", member, total)
        elif isinstance(factors, RowFactors):
            self._add_rows(name, factors, total)
        elif isinstance(factors, OuterFactors) and self.kind == "kronecker":
            left, right = self.sides
            generator = self._generator(name)
            i, o = factors.inputs.shape[-1], factors.output_gradients.shape[-1]
            rows = _normal(generator, (o, left), factors.inputs) / sqrt(left)
            columns = _normal(generator, (i, right), factors.inputs) / sqrt(right)
            inputs = factors.inputs @ columns  # (n, t, r)
            for logit, gradients in enumerate(factors.output_gradients):
                total[logit] += ((gradients @ rows).transpose(1, 2) @ inputs).flatten(1)  # (n, l r)
        else:
            for number, (coordinates, values) in enumerate(_blocks(factors)):
                if self.kind == "fastfood":
                    self._add_fastfood(f"{name}/{number}", values, total)
                else:
                    places, signs = self._hashed(name, coordinates)
                    total.flatten(0, 1).index_add_(1, places, values.double().flatten(0, 1) * signs)

    def _add_rows(self, name: str, factors: RowFactors, total: Tensor) -> None:
        """Add a table's rows, each with signs, or places, of its own."""
        c, n, u, i = factors.values.shape
        index = factors.ids[:, :, None] * i + torch.arange(i, device=factors.ids.device)  # (n, u, i)
        values = factors.values.double()
        if self.kind == "sparse":
            places, signs = self._hashed(name, index)
            spread = places.flatten(1).expand(c, n, u * i)
            total.scatter_add_(2, spread, (values * signs).flatten(2))
        elif self.kind == "fastfood":
            _, signs = self._hashed(name, index)
            rows = (values * signs).sum(2)  # (c, n, i): rows are apart by their signs
            for start in range(0, i, BLOCK):
                self._add_fastfood(f"{name}/{start}", rows[:, :, start : start + BLOCK], total)
        else:
            left, right = self.sides
            places, signs = self._hashed(name, factors.ids, left)  # (n, u)
            columns = _normal(self._generator(name), (i, right), values) / sqrt(right)
            rows = (values * signs[:, :, None]) @ columns  # (c, n, u, r)
            spread = places[:, :, None] * right + torch.arange(right, device=places.device)
            total.scatter_add_(2, spread.flatten(1).expand(c, n, u * right), rows.flatten(2))

    def _add_fastfood(self, name: str, values: Tensor, total: Tensor) -> None:
        """Add one block [c, n, p], filled with zeros to a power of two."""
        width = 1 << (values.shape[-1] - 1).bit_length()
        generator = self._generator(name)
        filled = torch.nn.functional.pad(values.double(), (0, width - values.shape[-1]))
        for start in range(0, self.dimension, width):
            taken = min(width, self.dimension - start)
            signs = _like(generator.integers(0, 2, width) * 2.0 - 1, filled)
            order = torch.from_numpy(generator.permutation(width)).to(filled.device)
            diagonal = generator.standard_normal(width)
            lengths = np.sqrt(2 * generator.standard_gamma(width / 2, taken)) / np.linalg.norm(diagonal)
            mixed = hadamard(hadamard(filled * signs)[..., order] * _like(diagonal, filled))
            scale = _like(lengths, filled) / sqrt(width * self.dimension)
            total[..., start : start + taken] += mixed[..., :taken] * scale

    def _hashed(self, name: str, index: Tensor, places: int | None = None) -> tuple[Tensor, Tensor]:
        """Return the places and signs of coordinates, by a hash of their numbers (splitmix64)."""
        mixed = index * _signed(0x9E3779B97F4A7C15) + self._start(name)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ _shifted(mixed, shift)) * _signed(factor)
        mixed = mixed ^ _shifted(mixed, 31)
        return _shifted(mixed, 1) % (places or self.dimension), ((mixed & 1) * 2 - 1).double()

    def _start(self, name: str) -> int:
        digest = hashlib.sha256(f"{self.seed} {self.kind} {name}".encode()).digest()
        return int.from_bytes(digest[:8], "big", signed=True)

    def _generator(self, name: str) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(self._start(name) % WORD))


def hadamard(values: Tensor) -> Tensor:
    """Return the values [..., q] times Hadamard's matrix of +-1, q a power of two. Cost: q log2 q."""
    width, half = values.shape[-1], 1
    while half < width:
        pairs = values.reshape(*values.shape[:-1], -1, 2, half)
        first, second = pairs[..., 0, :], pairs[..., 1, :]
        values = torch.stack([first + second, first - second], -2).flatten(-3)
        half *= 2
    return values


def entry_sd(kernel: Tensor, row_norms: Tensor, column_norms: Tensor, dimension: int) -> Tensor:
    """Return theory's standard deviation of each entry [n, c, m, d] of a sketched kernel of independent features.

    With k features it is sqrt((|g|^2 |g'|^2 + <g, g'>^2) / k): exact for a dense Gaussian Pi, and all but exact for the sparse one.

    Args:
        kernel: <g, g'>, sketched or exact.
        row_norms: |g|^2 [n, c].
        column_norms: |g'|^2 [m, d].
        dimension: the number of independent features.
    """
    return ((row_norms[:, :, None, None] * column_norms + kernel**2) / dimension).sqrt()


def bars(sketched: Tensor, sd: Tensor, probes: tuple[Tensor, Tensor], exact: Tensor) -> Tensor:
    """Return error bars [n, c, m, d]: ``WIDTH`` standard deviations, whose size is measured on entries that are known.

    The errors of one draw go together, so that what the probes miss by tells how large the others' are. Of a two-sided sketch theory knows
    the size only by them.

    Args:
        sketched: the sketched kernel.
        sd: theory's standard deviations, right up to a factor.
        probes: which rows, and which columns, are known.
        exact: their kernel.
    """
    rows, columns = probes
    errors = sketched[rows][:, :, columns] - exact
    factor = ((errors / sd[rows][:, :, columns]) ** 2).mean().sqrt()
    return WIDTH * factor * sd


def needed_dimension(kind: Kind, dimension: int, error: float, tolerance: float) -> int:
    """Return the dimension at which a kernel's relative error is the tolerance, from what it is at another dimension.

    The error of independent features falls as 1 / sqrt(d); a two-sided sketch has sqrt(d) on each side, and its error falls as d^(-1/4).

    Args:
        kind: of the sketch.
        dimension: at which the error was measured.
        error: ||sketched - K|| / ||K|| there, Frobenius norms.
        tolerance: the error that is wanted.
    """
    return max(1, ceil(dimension * (error / tolerance) ** (4 if kind == "kronecker" else 2)))


def reached_error(kind: Kind, dimension: int, needed: int, tolerance: float) -> float:
    """Return the relative error at a dimension, where the tolerance needs another one."""
    return float(tolerance * (needed / dimension) ** (0.25 if kind == "kronecker" else 0.5))


def _blocks(factors: Factors) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield coordinates' numbers [p] and gradients [c, n, p], block by block: the same blocks for the same parameter."""
    like = factors.tensors()[-1]
    assert isinstance(factors, OuterFactors | DenseFactors)
    c, n = like.shape[:2]
    width = factors.extents()[0].inputs if isinstance(factors, OuterFactors) else 1
    for outputs, inputs in factors.blocks(BLOCK):
        rows = torch.arange(outputs.start, outputs.stop, device=like.device)[:, None]
        columns = torch.arange(inputs.start, inputs.stop, device=like.device)
        index = (rows * width + columns).flatten()
        values = like.new_empty(c, n, len(index))
        factors.materialise((outputs, inputs), values)
        yield index, values


def _normal(generator: np.random.Generator, shape: tuple[int, int], like: Tensor) -> Tensor:
    return _like(generator.standard_normal(shape), like)


def _like(values: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(values).to(like)


def _signed(value: int) -> int:
    return value - WORD if value >= WORD // 2 else value


def _shifted(values: Tensor, bits: int) -> Tensor:
    """Return the words moved to the right, with zeros in their place."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)
