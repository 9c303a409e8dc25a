"""The four forms in which a parameter's per-example gradients are kept.

Axes, here and in all of lmntk: n, m examples; c, d logits; t, s tokens (uses); i, o a layer's input and
output; p coordinates of a parameter. A batch of n examples with c logits has, for each parameter, a gradient
(c, n, *shape):

* ``OuterFactors``: a linear map's weight, sum_t g[c, n, t, :] x[n, t, :]^T, in T (i + o) numbers, not i o;
* ``RowFactors``: a table's rows, of which an example touches few;
* ``DenseFactors``: the gradient itself, for vectors, and for whatever no rule covers;
* ``StackedFactors``: weights stacked along a first axis, each with outer factors: a mixture's experts.

The logit axis comes first, so that what one backward pass leaves behind is one contiguous block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isqrt
from typing import Annotated, ClassVar, Self

import torch
from torch import Size, Tensor

from lmntk.tangents.form import Block, Extent, Factors
from lmntk.tangents.terms import NO_ROW, OuterTerms, RowTerms, Terms, without_padding


@dataclass(frozen=True)
class OuterFactors(Factors):
    """Per-example gradients sum_t output_gradient[c, n, t] (x) input[n, t] of a weight stored as [o, i].

    ``transposed`` says that the parameter itself is stored as [i, o] (GPT-2's Conv1D); coordinates are only
    permuted, so kernels do not see it.
    """

    form: ClassVar[str] = "outer"
    has_inputs: ClassVar[bool] = True
    inputs: Annotated[Tensor, "n t i"]
    output_gradients: Annotated[Tensor, "c n t o"]
    transposed: bool = False

    @property
    def is_rank_one(self) -> bool:
        """Return whether each example has one use, so that sign(g x^T) = sign(g) sign(x)^T."""
        return self.inputs.shape[1] == 1

    def gradients(self, shape: Size) -> Tensor:
        """Return the full gradients (c, n, *shape)."""
        full = torch.einsum("cnto,nti->cnoi", self.output_gradients, self.inputs)
        return (full.mT if self.transposed else full).reshape(*full.shape[:2], *shape)

    def weighted_sum(self, weights: Tensor, shape: Size, signs: bool) -> Tensor:
        """Return the weighted sum; for signs of sums, which are no products, build an example's gradients."""
        if signs and not self.is_rank_one:
            total = torch.zeros((), dtype=torch.float64, device=weights.device)
            for index, example_weights in enumerate(weights):
                example = self.of_example(index)
                gradients = torch.einsum("cnto,nti->coi", example.output_gradients, example.inputs).sign()
                total = total + torch.einsum("c,coi->oi", example_weights, gradients.double())
        else:
            inputs = self.inputs.sign() if signs else self.inputs
            output_gradients = self.output_gradients.sign() if signs else self.output_gradients
            weighted = torch.einsum("nc,cnto->nto", weights, output_gradients.double())
            total = weighted.flatten(0, 1).T @ inputs.double().flatten(0, 1)
        return (total.T if self.transposed else total).reshape(shape)

    def extents(self) -> list[Extent]:
        """Return the sizes of the weight."""
        return [Extent(self.inputs.shape[1], self.inputs.shape[2], self.output_gradients.shape[3])]

    def joined(self, others: Sequence[Self], shape: Size) -> OuterFactors | None:
        """Return the factors with the uses one after the other, unless some are of the transposed weight."""
        if not others:
            return self
        parts = (self, *others)
        if any(part.transposed != self.transposed for part in parts):
            return None
        inputs = torch.cat([part.inputs for part in parts], 1)
        gradients = torch.cat([part.output_gradients for part in parts], 2)
        return OuterFactors(inputs, gradients, self.transposed)

    def with_inputs(self, change: Callable[[str, Tensor], Tensor], name: str) -> OuterFactors:
        """Return the factors with changed inputs."""
        return replace(self, inputs=change(name, self.inputs))

    def is_exact_in_terms(self, signed: bool) -> bool:
        """Return False for signs of sums alone."""
        return self.is_rank_one or not signed

    def terms(self) -> OuterTerms:
        """Return all terms, padding too."""
        return OuterTerms.of(self.inputs, self.output_gradients)

    def inputs_key(self) -> tuple[object, ...]:
        """Return where the inputs are: query, key and value have one."""
        return self.inputs.data_ptr(), self.inputs.shape, self.inputs.stride()

    def without_padding(self, others: Sequence[Self]) -> tuple[list[Terms], int]:
        """Return the terms that are not zero for all of the weights; and how many bytes were copied."""
        terms = without_padding(self.inputs, [part.output_gradients for part in (self, *others)])
        copied = 0
        if terms[0].owners is not None:
            copied = sum(each.output_gradients.nbytes for each in terms) + terms[0].inputs.nbytes
        return list(terms), copied

    def blocks(self, most: int) -> Iterator[Block]:
        """Yield blocks about as high as wide.

        Measured on 768 x 768 at 27 terms, blocks of 64 x 128 are made a third faster than as many coordinates
        in whole rows, for the terms are few and a block is a product of two short sides.
        """
        _, i, o = self.extents()[0]
        high = _even(o, max(1, isqrt(most), most // i))
        wide = _even(i, max(1, most // high))
        for top in range(0, o, high):
            for start in range(0, i, wide):
                yield slice(top, min(top + high, o)), slice(start, min(start + wide, i))

    def materialise(self, block: Block, out: Tensor) -> None:
        """Write a block of the gradients into ``out`` [c, n, coordinates]."""
        outputs, inputs = block
        cut = self.inputs[:, :, inputs]
        for logit, gradients in enumerate(self.output_gradients):
            product = out[logit].view(len(cut), outputs.stop - outputs.start, cut.shape[-1])
            torch.bmm(gradients[:, :, outputs].transpose(1, 2), cut, out=product)


@dataclass(frozen=True)
class RowFactors(Factors):
    """Per-example gradients of a table [v, i]: row ids[n, u] has values[c, n, u, :], all others zero.

    Ids are distinct within an example (``joined`` sees to it); unused slots have the id ``NO_ROW`` and zero
    values.
    """

    form: ClassVar[str] = "rows"
    has_inputs: ClassVar[bool] = True
    ids: Annotated[Tensor, "n u"]  # int64
    values: Annotated[Tensor, "c n u i"]

    def gradients(self, shape: Size) -> Tensor:
        """Return the full gradients (c, n, *shape)."""
        c, n, _, width = self.values.shape
        full = self.values.new_zeros(c, n, shape[0], width)
        index = self.ids.clamp(min=0)[None, :, :, None].expand_as(self.values)
        return full.scatter_add_(2, index, self.values).reshape(c, n, *shape)

    def weighted_sum(self, weights: Tensor, shape: Size, signs: bool) -> Tensor:
        """Return the weighted sum."""
        values = (self.values.sign() if signs else self.values).double()
        rows = torch.einsum("nc,cnui->nui", weights, values).flatten(0, 1)
        held = self.ids.flatten() != NO_ROW
        return rows.new_zeros(shape).index_add_(0, self.ids.flatten()[held], rows[held])

    def extents(self) -> list[Extent]:
        """Return none: products of the few rows that texts share are nothing beside the rest."""
        return []

    def joined(self, others: Sequence[Self], shape: Size) -> RowFactors:
        """Return the sum, in which an example has a row once."""
        parts = (self, *others)
        return coalesce(
            torch.cat([part.ids for part in parts], 1), torch.cat([part.values for part in parts], 2)
        )

    def with_inputs(self, change: Callable[[str, Tensor], Tensor], name: str) -> RowFactors:
        """Return the factors with changed rows, each of which is a sum of inputs."""
        return replace(self, values=change(name, self.values))

    def is_exact_in_terms(self, signed: bool) -> bool:
        """Return True: a coordinate is a single product."""
        return True

    def terms(self) -> RowTerms:
        """Return the rows."""
        return RowTerms(self.ids, self.values)


@dataclass(frozen=True)
class DenseFactors(Factors):
    """Per-example gradients as they are.

    A coordinate whose terms cancel to rounding error in *every* example (``cancellation`` says how much they
    cancel) has a gradient that is zero in real arithmetic (an attention key's bias), and a sign that is
    noise.
    """

    form: ClassVar[str] = "dense"
    values: Annotated[Tensor, "c n p"]
    cancellation: Annotated[Tensor | None, "p"] = None

    def gradients(self, shape: Size) -> Tensor:
        """Return the full gradients (c, n, *shape), a view."""
        return self.values.reshape(*self.values.shape[:2], *shape)

    def weighted_sum(self, weights: Tensor, shape: Size, signs: bool) -> Tensor:
        """Return the weighted sum."""
        values = self.values.sign() if signs else self.values
        return torch.einsum("nc,cnp->p", weights, values.double()).reshape(shape)

    def extents(self) -> list[Extent]:
        """Return the number of coordinates, as of a column."""
        return [Extent(0, self.values.shape[2], 1)]

    def silenced(self, mask: Tensor) -> DenseFactors:
        """Return the factors with these coordinates [p] set to zero."""
        return replace(self, values=torch.where(mask, 0.0, self.values))

    def blocks(self, most: int) -> Iterator[Block]:
        """Yield blocks one after the other."""
        step, size = max(1, most), self.values.shape[-1]
        for start in range(0, size, step):
            yield slice(start, min(start + step, size)), slice(0, 1)

    def materialise(self, block: Block, out: Tensor) -> None:
        """Write a block of the gradients into ``out`` [c, n, coordinates]."""
        out.copy_(self.values[:, :, block[0]])


@dataclass(frozen=True)
class StackedFactors(Factors):
    """Per-example gradients of weights stacked as [e, ...], one outer form for each index of the first axis.

    A mixture's expert sees few of an example's tokens, so sum_t g[c, n, t] (x) x[n, t] runs over those alone.
    None stands for an index that no example of the batch uses, whose gradient is zero; one index at least is
    used.
    """

    form: ClassVar[str] = "stacked"
    has_inputs: ClassVar[bool] = True
    parts: tuple[OuterFactors | None, ...]  # (e,)

    def gradients(self, shape: Size) -> Tensor:
        """Return the full gradients (c, n, *shape)."""
        used = next(part for part in self.parts if part is not None)
        full = used.inputs.new_zeros(*used.output_gradients.shape[:2], *shape)
        for index, part in enumerate(self.parts):
            if part is not None:
                full[:, :, index] = part.gradients(shape[1:])
        return full

    def weighted_sum(self, weights: Tensor, shape: Size, signs: bool) -> Tensor:
        """Return the weighted sum, index by index."""
        total = weights.new_zeros(shape)
        for index, part in enumerate(self.parts):
            if part is not None:
                total[index] = part.weighted_sum(weights, shape[1:], signs)
        return total

    def extents(self) -> list[Extent]:
        """Return the sizes of the weights that are used."""
        return [extent for part in self.parts if part is not None for extent in part.extents()]

    def members(self) -> tuple[OuterFactors | None, ...]:
        """Return the weights' factors."""
        return self.parts

    def joined(self, others: Sequence[Self], shape: Size) -> StackedFactors | None:
        """Return the sum, index by index."""
        indices = zip(self.parts, *(other.parts for other in others), strict=True)
        used = [[part for part in parts if part is not None] for parts in indices]
        sums = [parts[0].joined(parts[1:], shape[1:]) if parts else None for parts in used]
        return (
            None
            if any(parts and total is None for parts, total in zip(used, sums, strict=True))
            else StackedFactors(tuple(sums))
        )

    def with_inputs(self, change: Callable[[str, Tensor], Tensor], name: str) -> StackedFactors:
        """Return the factors with changed inputs, each weight's by its own name."""
        return StackedFactors(
            tuple(
                None if part is None else part.with_inputs(change, f"{name} {index}")
                for index, part in enumerate(self.parts)
            )
        )


@dataclass(frozen=True)
class Tangents:
    """The Jacobian of the logits of a batch of n examples, factored, parameter by parameter."""

    logits: Tensor  # (n, c)
    factors: Mapping[str, Factors]

    def __len__(self) -> int:
        """Return the number of examples."""
        return int(self.logits.shape[0])

    @property
    def nbytes(self) -> int:
        """Return the bytes held, shared storage (one input under query, key and value) counted once."""
        storages = {}
        for factors in self.factors.values():
            for tensor in factors.tensors():
                storage = tensor.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
        return sum(storages.values())


def packed(tangents: Tangents) -> Tangents:
    """Return the tangents with every tensor contiguous, as from disk.

    How a tensor lies changes a product's last bits.
    """
    made: dict[int, Tensor] = {}

    def lying(tensor: Tensor) -> Tensor:
        if tensor.is_contiguous():
            return tensor
        if id(tensor) not in made:
            made[id(tensor)] = tensor.contiguous()
        return made[id(tensor)]

    return replace(
        tangents, factors={name: factors.changed(lying) for name, factors in tangents.factors.items()}
    )


def sum_over_uses(terms: Tensor, cancellations: Tensor | None = None) -> DenseFactors:
    """Return the dense gradients sum_t terms[c, n, t, p], with their cancellation.

    ``cancellations[t, p]`` says that a term is itself a sum, of terms whose sizes add up to |term| /
    cancellation or more.
    """
    values = terms.sum(2)
    size = terms.abs()  # measured: 17 times as fast as torch's 1-norm along this axis
    if cancellations is not None:
        size = size / cancellations.clamp(min=torch.finfo(size.dtype).tiny)
    size = size.sum(2)
    ratio = torch.where(size > 0, values.abs() / size, 0.0)
    return DenseFactors(values, ratio.amax((0, 1)))


def coalesce(ids: Tensor, values: Tensor) -> RowFactors:
    """Return the rows (n, u), (c, n, u, i) with an example's equal ids summed into their first occurrence.

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


def merge(parts: Sequence[Factors], shape: Size) -> Factors:
    """Return the factors of a parameter that is used in several places: the sum over its uses.

    Products of the sum have the cross terms. Uses of one form stay in that form; a mixture becomes dense, at
    n c p numbers.
    """
    first, *others = parts
    if all(type(part) is type(first) for part in others):
        joined = first.joined(others, shape)
        if joined is not None:
            return joined
    flat = [merge([part], shape).gradients(shape).flatten(2) for part in parts]
    dense = torch.stack(flat, 2)  # (c, n, uses, p)
    known = [part.cancellation for part in parts]
    if all(each is None for each in known):
        return sum_over_uses(dense)
    unknown = dense.new_ones(dense.shape[-1])
    return sum_over_uses(dense, torch.stack([unknown if each is None else each for each in known]))


def _even(whole: int, most: int) -> int:
    """Return the extent of the fewest nearly equal parts of at most ``most``."""
    return -(-whole // -(-whole // most))
