"""LoRA at its start, where B = 0 and A is random: its kernels are random projections of the adapted layers'.

With s LoRA's scaling, B's gradient is s G A^T, and A's is zero. Each of A's rows a_j gives one column G a_j, so ranks are *nested*:
rank r takes the first r rows of one drawn matrix Z with rows of unit variance, and A = size(r) Z. Every kernel is then a sum over columns,

    sgd      K_r = (s size)^2  sum_{j<=r} <G z_j, G' z_j>
    signgd   K_r =             sum_{j<=r} <sign G z_j, sign G' z_j>
    asigngd  K_r = (s size)    sum_{j<=r} <sign G z_j, G' z_j>

With size = 1 / sqrt(r) and s = 1 the mean of ``sgd`` over draws is the kernel of the adapted weights, with a spread of about 1 / sqrt(r).
A gradient sum_t g_t x_t^T becomes sum_t g_t (Z x_t)^T: the inputs alone change.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from lmntk.errors import UserError
from lmntk.kernels.formulas import SIGNS
from lmntk.tangents.form import Factors

Init = Literal["gaussian", "gaussian-peft", "kaiming"]
Scaling = Literal["one", "alpha/r", "alpha/sqrt(r)"]


@dataclass(frozen=True)
class LoraStart:
    """LoRA's start: how A is drawn, and at which scale B A is added to a weight.

    Attributes:
        init: ``gaussian``: of variance 1 / r; ``gaussian-peft``: of standard deviation 1 / r, as peft's ``gaussian``; ``kaiming``: uniform
            on +-1 / sqrt(inputs), as peft's default.
        scaling: ``one``; ``alpha/r``, as peft's default; ``alpha/sqrt(r)``, as its rsLoRA.
        alpha: of the scaling.
    """

    init: Init = "gaussian"
    scaling: Scaling = "one"
    alpha: float = 16.0

    def __post_init__(self) -> None:
        """Refuse names that are not known.

        Raises:
            UserError: an unknown init or scaling, or a scaling of nothing.
        """
        for field_name, known in (("init", Init), ("scaling", Scaling)):
            if (value := getattr(self, field_name)) not in get_args(known):
                raise UserError(f"lora: no {field_name} {value!r}; give one of {', '.join(get_args(known))}")
        if not 0 < self.alpha < float("inf"):
            raise UserError(f"lora: alpha is {self.alpha}; give a positive number")

    def scale(self, rank: int) -> float:
        """Return the factor s of B A."""
        factors = {"one": 1.0, "alpha/r": self.alpha / rank, "alpha/sqrt(r)": self.alpha / math.sqrt(rank)}
        return factors[self.scaling]

    def size(self, rank: int) -> float:
        """Return the factor of the drawn matrix: A = size Z."""
        return {"gaussian": 1 / math.sqrt(rank), "gaussian-peft": 1 / rank, "kaiming": 1.0}[self.init]

    def multiplier(self, kernel: str, rank: int) -> float:
        """Return the factor of a kernel's sum over columns: once for each side without signs."""
        without_signs = sum(not sign for sign in SIGNS[kernel])
        return math.pow(self.scale(rank) * self.size(rank), without_signs)


@dataclass(frozen=True)
class Draw:
    """Random matrices Z, one for each parameter: the same whatever else is adapted, and at whatever rank."""

    seed: int = 0
    init: Init = "gaussian"

    def matrix(self, name: str, rank: int, width: int) -> Tensor:
        """Return Z [r, i] of a parameter in float64: the first rows are the same for every rank."""
        start = int.from_bytes(hashlib.sha256(f"{self.seed} {name}".encode()).digest()[:16], "big")
        generator = np.random.Generator(np.random.PCG64(start))
        if self.init == "kaiming":
            return torch.from_numpy(generator.uniform(-(width**-0.5), width**-0.5, (rank, width)))
        return torch.from_numpy(generator.standard_normal((rank, width)))


class Draws:
    """Several draws, each of a rank; a parameter's matrices are one below the other, and drawn once."""

    def __init__(self, ranks: Sequence[tuple[Draw, int]]) -> None:
        self.ranks = ranks
        self._drawn: dict[str, Tensor] = {}

    def projected(self, name: str, factors: Factors) -> Factors:
        """Return the factors of G Z^T, the columns of all draws.

        Raises:
            UserError: G is there as a vector, whose rows are not known: it came by plain autograd.
        """
        if not factors.has_inputs:
            raise no_rows(name)

        def change(member: str, inputs: Tensor) -> Tensor:
            if member not in self._drawn:
                drawn = [draw.matrix(member, rank, inputs.shape[-1]) for draw, rank in self.ranks]
                self._drawn[member] = torch.cat(drawn).to(inputs)
            return inputs @ self._drawn[member].T

        return factors.with_inputs(change, name)


def no_rows(name: str) -> UserError:
    """Return the error of gradients whose rows are not known."""
    return UserError(
        f"lora-rank: the gradients of {name!r} came by plain autograd, as vectors; "
        f"leave it out: --exclude {name}"
    )


def columns_of(name: str, projected: Factors, first: int, last: int) -> Factors:
    """Return the factors of some columns of G Z^T, views."""
    return projected.with_inputs(lambda _, inputs: inputs[..., first:last], name)
