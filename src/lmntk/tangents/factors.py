"""The four forms in which a parameter's per-example gradients are kept.

Axes, here and in all of lmntk: n, m examples; c, d logits; t, s tokens (uses); i, o a layer's input and output;
p coordinates of a parameter. A batch of n examples with c logits has, for each parameter, a gradient (c, n, *shape):

* ``OuterFactors``: a linear map's weight, sum_t g[c, n, t, :] x[n, t, :]^T, in T (i + o) numbers instead of i o;
* ``RowFactors``: a table's rows, of which an example touches few;
* ``DenseFactors``: the gradient itself, for vectors, and for whatever no rule covers;
* ``StackedFactors``: weights stacked along a first axis, each with outer factors of its own: a mixture's experts.

The logit axis comes first, so that what one backward pass leaves behind is one contiguous block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

NO_ROW = -1  # the id of a slot that holds nothing


@dataclass(frozen=True)
class OuterFactors:
    """Per-example gradients sum_t output_gradient[c, n, t] (x) input[n, t] of a weight stored as [o, i].

    ``transposed`` says that the parameter itself is stored as [i, o] (GPT-2's Conv1D); coordinates are only permuted,
    so kernels do not see it.
    """

    inputs: Tensor  # (n, t, i)
    output_gradients: Tensor  # (c, n, t, o)
    transposed: bool = False

    @property
    def is_rank_one(self) -> bool:
        """True when each example has one use, so that sign(g x^T) = sign(g) sign(x)^T."""
        return self.inputs.shape[1] == 1

    def gradients(self, shape: torch.Size) -> Tensor:
        """Returns the full gradients (c, n, *shape). Memory: n c i o numbers; for checks."""
        full = torch.einsum("cnto,nti->cnoi", self.output_gradients, self.inputs)
        return (full.mT if self.transposed else full).reshape(*full.shape[:2], *shape)

    def of_example(self, index: int) -> OuterFactors:
        """Returns one example's factors, views."""
        return replace(
            self,
            inputs=self.inputs[index : index + 1],
            output_gradients=self.output_gradients[:, index : index + 1],
        )

    def of_logit(self, index: int) -> OuterFactors:
        """Returns one logit's factors, views."""
        return replace(self, output_gradients=self.output_gradients[index : index + 1])

    def tensors(self) -> tuple[Tensor, ...]:
        """Returns the tensors that hold memory."""
        return self.inputs, self.output_gradients


@dataclass(frozen=True)
class RowFactors:
    """Per-example gradients of a table [v, i]: row ids[n, u] has the gradient values[c, n, u, :], all others zero.

    Ids are distinct within an example (``coalesce`` sees to it); unused slots have the id ``NO_ROW`` and zero values.
    """

    ids: Tensor  # (n, u), int64
    values: Tensor  # (c, n, u, i)

    def gradients(self, shape: torch.Size) -> Tensor:
        """Returns the full gradients (c, n, *shape). Memory: n c v i numbers; for checks."""
        c, n, _, width = self.values.shape
        full = self.values.new_zeros(c, n, shape[0], width)
        index = self.ids.clamp(min=0)[None, :, :, None].expand_as(self.values)
        return full.scatter_add_(2, index, self.values).reshape(c, n, *shape)

    def of_example(self, index: int) -> RowFactors:
        """Returns one example's factors, views."""
        return RowFactors(self.ids[index : index + 1], self.values[:, index : index + 1])

    def of_logit(self, index: int) -> RowFactors:
        """Returns one logit's factors, views."""
        return RowFactors(self.ids, self.values[index : index + 1])

    def tensors(self) -> tuple[Tensor, ...]:
        """Returns the tensors that hold memory."""
        return self.ids, self.values


@dataclass(frozen=True)
class DenseFactors:
    """Per-example gradients as they are.

    ``cancellation[p]`` is the largest |sum_t a_t| / sum_t |a_t| of the batch, where the a_t are the terms that a coordinate is
    the sum of: a coordinate whose terms cancel to rounding error in *every* example has a gradient that is zero in
    real arithmetic (an attention key's bias), and a sign that is noise. None when the terms are not known.
    """

    values: Tensor  # (c, n, p)
    cancellation: Tensor | None = None  # (p,)

    def gradients(self, shape: torch.Size) -> Tensor:
        """Returns the full gradients (c, n, *shape), a view."""
        return self.values.reshape(*self.values.shape[:2], *shape)

    def of_example(self, index: int) -> DenseFactors:
        """Returns one example's factors, views."""
        return replace(self, values=self.values[:, index : index + 1])

    def of_logit(self, index: int) -> DenseFactors:
        """Returns one logit's factors, views."""
        return replace(self, values=self.values[index : index + 1])

    def tensors(self) -> tuple[Tensor, ...]:
        """Returns the tensors that hold memory."""
        return (self.values,)


@dataclass(frozen=True)
class StackedFactors:
    """Per-example gradients of weights stacked as [e, ...], one outer form for each index of the first axis.

    A mixture's expert sees few of an example's tokens, so sum_t g[c, n, t] (x) x[n, t] runs over those alone. None stands for an
    index that no example of the batch uses, whose gradient is zero; one index at least is used.
    """

    parts: tuple[OuterFactors | None, ...]  # (e,)

    def gradients(self, shape: torch.Size) -> Tensor:
        """Returns the full gradients (c, n, *shape). Memory: n c e i o numbers; for checks."""
        used = {index: part.gradients(shape[1:]) for index, part in enumerate(self.parts) if part is not None}
        some = next(iter(used.values()))
        full = some.new_zeros(*some.shape[:2], *shape)
        for index, gradients in used.items():
            full[:, :, index] = gradients
        return full

    def of_example(self, index: int) -> StackedFactors:
        """Returns one example's factors, views."""
        return StackedFactors(tuple(None if part is None else part.of_example(index) for part in self.parts))

    def of_logit(self, index: int) -> StackedFactors:
        """Returns one logit's factors, views."""
        return StackedFactors(tuple(None if part is None else part.of_logit(index) for part in self.parts))

    def tensors(self) -> tuple[Tensor, ...]:
        """Returns the tensors that hold memory."""
        return tuple(tensor for part in self.parts if part is not None for tensor in part.tensors())


Factors = OuterFactors | RowFactors | DenseFactors | StackedFactors


@dataclass(frozen=True)
class Tangents:
    """The Jacobian of the logits of a batch of n examples, factored, parameter by parameter."""

    logits: Tensor  # (n, c)
    factors: Mapping[str, Factors]

    def __len__(self) -> int:
        """Returns the number of examples."""
        return int(self.logits.shape[0])

    @property
    def nbytes(self) -> int:
        """Bytes held in memory, shared storage (one input under query, key and value) counted once."""
        storages = {}
        for factors in self.factors.values():
            for tensor in factors.tensors():
                storage = tensor.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
        return sum(storages.values())


def packed(tangents: Tangents) -> Tangents:
    """Returns the tangents with every tensor contiguous, as they come back from disk: how a tensor lies changes a product's last bits."""
    made: dict[int, Tensor] = {}

    def lying(tensor: Tensor) -> Tensor:
        if tensor.is_contiguous():
            return tensor
        if id(tensor) not in made:
            made[id(tensor)] = tensor.contiguous()
        return made[id(tensor)]

    return Tangents(
        tangents.logits, {name: changed(factors, lying) for name, factors in tangents.factors.items()}
    )


def changed(factors: Factors, change: Callable[[Tensor], Tensor]) -> Factors:
    """Returns factors whose tensors are what ``change`` makes of them."""
    if isinstance(factors, OuterFactors):
        return replace(
            factors, inputs=change(factors.inputs), output_gradients=change(factors.output_gradients)
        )
    if isinstance(factors, RowFactors):
        return RowFactors(change(factors.ids), change(factors.values))
    if isinstance(factors, DenseFactors):
        return replace(
            factors,
            values=change(factors.values),
            cancellation=None if factors.cancellation is None else change(factors.cancellation),
        )
    parts = (None if part is None else changed(part, change) for part in factors.parts)
    return StackedFactors(tuple(part if isinstance(part, OuterFactors) else None for part in parts))


def sum_over_uses(terms: Tensor, cancellations: Tensor | None = None) -> DenseFactors:
    """Returns the dense gradients sum_t terms[c, n, t, p], with their cancellation.

    ``cancellations[t, p]`` says that a term is itself a sum, of terms whose sizes add up to |term| / cancellation or more.
    """
    values = terms.sum(2)
    size = terms.abs()  # measured: 17 times as fast as torch's 1-norm along this axis
    if cancellations is not None:
        size = size / cancellations.clamp(min=torch.finfo(size.dtype).tiny)
    size = size.sum(2)
    ratio = torch.where(size > 0, values.abs() / size, 0.0)
    return DenseFactors(values, ratio.amax((0, 1)))


def alive_uses(output_gradients: Tensor) -> Tensor:
    """Returns the mask [n, t] of the uses whose output gradient [c, n, t, o] is not exactly zero for every logit."""
    alive = (output_gradients[..., 0] != 0).any(0)  # one coordinate settles nearly every use
    unsettled = ~alive
    if bool(unsettled.any()):
        alive[unsettled] = (output_gradients[:, unsettled] != 0).any(-1).any(0)
    return alive


def drop_empty_uses(inputs: Tensor, output_gradients: Tensor) -> tuple[Tensor, Tensor]:
    """Returns both without the uses whose output gradient is exactly zero for every logit.

    Padding is such, and in a network's top block everything but the keys' and values' rows at the position that is
    read. Examples keep their own uses in order; where they have different numbers of them, zeros fill up.
    """
    alive = alive_uses(output_gradients)
    most = max(1, int(alive.sum(1).max()))
    if most == alive.shape[1]:
        return inputs, output_gradients
    order = torch.argsort(~alive, dim=1, stable=True)[:, :most]  # (n, t')
    example = torch.arange(len(order), device=order.device)[:, None]
    return inputs[example, order], output_gradients[
        :, example, order
    ]  # measured: nine times as fast as take_along_dim


def coalesce(ids: Tensor, values: Tensor) -> RowFactors:
    """Returns the rows (n, u), (c, n, u, i) with equal ids of an example summed into their first occurrence.

    Cost: T^2 i per example and logit.
    """
    alive = (values != 0).any(-1).any(0) & (ids != NO_ROW)  # (n, u)
    ids = torch.where(alive, ids, NO_ROW)
    equal = (ids[:, :, None] == ids[:, None, :]) & alive[:, :, None]  # (n, u, u)
    first = alive & ~torch.tril(equal, -1).any(2)
    summed = equal.to(values.dtype) @ values  # (c, n, u, i)
    most = max(1, int(first.sum(1).max()))
    order = torch.argsort(~first, dim=1, stable=True)[:, :most]
    kept = torch.take_along_dim(first, order, 1)
    example = torch.arange(len(order), device=order.device)[:, None]
    chosen = summed[:, example, order] * kept[None, :, :, None]
    return RowFactors(torch.where(kept, torch.take_along_dim(ids, order, 1), NO_ROW), chosen)


def merge(parts: list[Factors], shape: torch.Size) -> Factors:
    """Returns the factors of a parameter that is used in several places: the sum over its uses, cross terms included.

    Uses of one form stay in that form; a mixture becomes dense, at n c p numbers.
    """
    if len(parts) == 1 and not isinstance(parts[0], RowFactors):
        return parts[0]
    if all(isinstance(part, RowFactors) for part in parts):
        ids = torch.cat([part.ids for part in parts if isinstance(part, RowFactors)], 1)
        return coalesce(ids, torch.cat([part.values for part in parts if isinstance(part, RowFactors)], 2))
    outer = [part for part in parts if isinstance(part, OuterFactors)]
    if len(outer) == len(parts) and len({part.transposed for part in outer}) == 1:
        inputs = torch.cat([part.inputs for part in outer], 1)
        return replace(
            outer[0], inputs=inputs, output_gradients=torch.cat([part.output_gradients for part in outer], 2)
        )
    stacks = [part.parts for part in parts if isinstance(part, StackedFactors)]
    if len(stacks) == len(parts):
        return StackedFactors(
            tuple(_merge_index(list(index), shape[1:]) for index in zip(*stacks, strict=True))
        )
    parts = [coalesce(part.ids, part.values) if isinstance(part, RowFactors) else part for part in parts]
    dense = torch.stack([part.gradients(shape).flatten(2) for part in parts], 2)  # (c, n, uses, p)
    known = [part.cancellation if isinstance(part, DenseFactors) else None for part in parts]
    if all(each is None for each in known):
        return sum_over_uses(dense)
    return sum_over_uses(
        dense, torch.stack([dense.new_ones(dense.shape[-1]) if each is None else each for each in known])
    )


def _merge_index(parts: list[OuterFactors | None], shape: torch.Size) -> OuterFactors | None:
    """Returns the factors of one index of a stack that is used in several places."""
    used: list[Factors] = [part for part in parts if part is not None]
    merged = merge(used, shape) if used else None
    assert merged is None or isinstance(merged, OuterFactors)
    return merged
