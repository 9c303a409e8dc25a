"""Training in a random subspace (Li et al. 2018, "intrinsic dimension"): theta = theta_0 + Pi z, only z [d] trains.

Pi [P, d] has one entry, -1 or +1, in each row: every parameter follows one coordinate of z, drawn at random, with a random sign. So
E[Pi Pi^T] = 1, and the kernel in z, <Pi^T g, Pi^T g'>, is <g, g'> on average over Pi, with a variance of at most 2 / d times
||g||^2 ||g'||^2, which is that of dense Gaussian matrices. Pi is never there: blocks of rows are drawn anew, from the seed, the
parameter's name and the block's number, whenever they are multiplied.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lmntk.errors import UserError
from lmntk.finetuning.trained import Trained, own_head
from lmntk.models.logit_model import LogitModel
from lmntk.models.state import Batch

BLOCK = 1 << 20  # rows of Pi at a time: 8 MiB of draws
COORDINATES = "coordinates"


def blocks(seed: int, name: str, rows: int, dimension: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield a parameter's rows of Pi, block by block: which rows, the coordinate of each, and its sign."""
    for number, start in enumerate(range(0, rows, BLOCK)):
        digest = hashlib.sha256(f"{seed} {name} {number}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        stop = min(start + BLOCK, rows)
        drawn = torch.randint(2 * dimension, (stop - start,), generator=generator)
        yield slice(start, stop), drawn >> 1, 1 - 2 * (drawn & 1)


class _Spread(torch.autograd.Function):
    """The product Pi z [P] of one parameter's rows of Pi, linear in z [d]."""

    @staticmethod
    def forward(z: Tensor, seed: int, name: str, rows: int) -> Tensor:
        """Return Pi z."""
        moved = z.new_empty(rows)
        for place, coordinate, sign in blocks(seed, name, rows, len(z)):
            moved[place] = z[coordinate.to(z.device)] * sign.to(z)
        return moved

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep what Pi is drawn from."""
        z, *ctx.drawn_from = inputs
        ctx.dimension = len(z)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Return Pi^T gradient."""
        seed, name, _ = ctx.drawn_from
        return _Gathered.apply(gradient, seed, name, ctx.dimension), None, None, None  # type: ignore[no-untyped-call]

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Any:
        """Return Pi tangent."""
        return _Spread.apply(tangent, *ctx.drawn_from)  # type: ignore[no-untyped-call]


class _Gathered(torch.autograd.Function):
    """The product Pi^T g [d], linear in g [P]."""

    @staticmethod
    def forward(g: Tensor, seed: int, name: str, dimension: int) -> Tensor:
        """Return Pi^T g."""
        total = g.new_zeros(dimension)
        for place, coordinate, sign in blocks(seed, name, len(g), dimension):
            total.index_add_(0, coordinate.to(g.device), g[place] * sign.to(g))
        return total

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep what Pi is drawn from."""
        g, ctx.seed, ctx.name, _ = inputs
        ctx.rows = len(g)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Return Pi gradient."""
        return _Spread.apply(gradient, ctx.seed, ctx.name, ctx.rows), None, None, None  # type: ignore[no-untyped-call]


class SubspaceModel(nn.Module):
    """A LogitModel whose chosen parameters are theta_0 + Pi z.

    Args:
        model: the LogitModel, at theta_0; it is left as it is.
        names: the parameters that Pi moves, by their names in it.
        dimension: d.
        seed: of Pi.

    Attributes:
        coordinates: z [d], zero at the start.

    Cost: beside the model's passes, P draws and P operations a pass and direction. Memory: the moved parameters once more.
    """

    def __init__(self, model: LogitModel, names: tuple[str, ...], dimension: int, seed: int) -> None:
        super().__init__()
        self.model, self.names, self.seed = model, names, seed
        first = dict(model.named_parameters())[names[0]]
        self.coordinates = nn.Parameter(torch.zeros(dimension, dtype=first.dtype, device=first.device))

    def moved(self, coordinates: Tensor) -> dict[str, Tensor]:
        """Return theta_0 + Pi z of the chosen parameters."""
        parameters = dict(self.model.named_parameters())
        return {
            name: parameters[name].detach()
            + self._product(coordinates, name, parameters[name]).reshape(parameters[name].shape)
            for name in self.names
        }

    def forward(self, batch: Batch) -> Tensor:
        """Return the logits [n, c] at theta_0 + Pi z."""
        return functional_call(self.model, self.moved(self.coordinates), (batch,), tie_weights=True)  # type: ignore[no-any-return]

    def prepare(self, batch: Batch) -> None:
        """Let the model prepare itself for a batch, at theta_0, if it wants to."""
        prepare = getattr(self.model, "prepare", None)
        if prepare is not None:
            prepare(batch)

    def _product(self, coordinates: Tensor, name: str, parameter: Tensor) -> Tensor:
        return _Spread.apply(coordinates, self.seed, name, parameter.numel())  # type: ignore[no-any-return,no-untyped-call]


def intrinsic(model: LogitModel, chosen: Mapping[str, nn.Parameter], dimension: int, seed: int) -> Trained:
    """Return the coordinates of a random subspace of the chosen parameters.

    A head that was put on the network trains itself beside them: no pre-trained point of it is worth keeping.

    Raises:
        UserError: nothing but such a head, or more coordinates than parameters.
    """
    head = own_head(model)
    names = tuple(name for name in chosen if name not in head)
    count = sum(chosen[name].numel() for name in names)
    if not 1 <= dimension <= count:
        raise UserError(
            f"intrinsic-dimension: {dimension} of {count} parameters; give at least 1 and at most as many as there are"
        )
    subspace = SubspaceModel(model, names, dimension, seed)
    beside = {f"model.{name}": parameter for name, parameter in head.items() if name in chosen}

    def own(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with torch.no_grad():
            z = values[COORDINATES].to(subspace.coordinates)
            moved = {name: value.cpu() for name, value in subspace.moved(z).items()}
        return moved | {name: values[f"model.{name}"] for name in head if name in chosen}

    return Trained(subspace, {COORDINATES: subspace.coordinates, **beside}, own)
