"""The methods that every form of factors has: a new form is one subclass of ``Factors``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Annotated, Any, ClassVar, NamedTuple, Self, get_origin, get_type_hints

from torch import Size, Tensor

from lmntk.tangents.terms import Terms

# of a weight's outputs and inputs; of any other gradient of its coordinates, the second being all
Block = tuple[slice, slice]


class Extent(NamedTuple):
    """The sizes that a contraction's time depends on; 0 uses: the gradient itself."""

    uses: int
    inputs: int
    outputs: int


@dataclass(frozen=True)
class Factors(ABC):
    """The gradients (c, n, *shape) of one parameter, for n examples and c logits.

    A form is a frozen dataclass. Its tensors are annotated with their axes, an example's being n and a
    logit's c: that is how they are cut, moved and written to files. Beside them it may hold plain values, and
    tuples of factors.
    """

    form: ClassVar[str]  # its name in files
    has_inputs: ClassVar[bool] = False  # G = sum_t g_t x_t^T with inputs x_t that are known, as LoRA needs
    forms: ClassVar[dict[str, type[Factors]]] = {}

    def __init_subclass__(cls) -> None:
        """Enter the form by its name, so that it is read from files."""
        cls.forms[cls.form] = cls

    # what each form says

    @abstractmethod
    def gradients(self, shape: Size) -> Tensor:
        """Return the full gradients (c, n, *shape). Memory: as many numbers; for checks."""

    @abstractmethod
    def weighted_sum(self, weights: Tensor, shape: Size, signs: bool) -> Tensor:
        """Return sum_nc weights[n, c] gradient[c, n], or of signs, in this shape and in float64."""

    @abstractmethod
    def extents(self) -> list[Extent]:
        """Return the sizes of what contractions multiply; none where it costs nothing beside all else."""

    # what a form says where it differs from most

    @property
    def cancellation(self) -> Tensor | None:
        """Return each coordinate's largest |sum_t a_t| / sum_t |a_t| [p] over terms a_t; None: unknown."""
        return None

    def silenced(self, mask: Tensor) -> Factors:
        """Return the factors with these coordinates [p] set to zero; a form without cancellation has none."""
        return self

    def members(self) -> tuple[Factors | None, ...]:
        """Return what is contracted one by one: itself, or a stack's members; None stands for zeros."""
        return (self,)

    def joined(self, others: Sequence[Self], shape: Size) -> Factors | None:
        """Return the sum with the same parameter's factors of other uses; None if it is not of this form."""
        return None if others else self

    def with_inputs(self, change: Callable[[str, Tensor], Tensor], name: str) -> Factors:
        """Return the factors with inputs that ``change`` makes of a matrix's name and its inputs [..., i]."""
        raise TypeError(f"{type(self).__name__} has no inputs")

    # the inner contraction

    def is_exact_in_terms(self, signed: bool) -> bool:
        """Return whether kernels, with signs taken or without, are sums of products of terms."""
        return False

    def terms(self) -> Terms:
        """Return the terms that the gradients are sums of."""
        raise TypeError(f"{type(self).__name__} is materialised, not contracted by its terms")

    def inputs_key(self) -> tuple[object, ...]:
        """Return what is equal where the terms' products may be shared with another parameter."""
        return (id(self),)

    def without_padding(self, others: Sequence[Self]) -> tuple[list[Terms], int]:
        """Return the terms of this and others of equal inputs, without padding; and the bytes copied."""
        return [part.terms() for part in (self, *others)], 0

    # materialising

    def blocks(self, most: int) -> Iterator[Block]:
        """Yield the blocks of at most ``most`` coordinates into which the gradient is cut."""
        raise TypeError(f"{type(self).__name__} is contracted by its terms, not materialised")

    def materialise(self, block: Block, out: Tensor) -> None:
        """Write a block of the gradients into ``out`` [c, n, coordinates]."""
        raise TypeError(f"{type(self).__name__} is contracted by its terms, not materialised")

    # what follows from the tensors and their axes

    def tensors(self) -> tuple[Tensor, ...]:
        """Return the tensors that hold examples' numbers; the last has the gradients' dtype and device."""
        held: list[Tensor] = []
        for name in self._examples_fields():
            value = getattr(self, name)
            if isinstance(value, Tensor):
                held.append(value)
            elif isinstance(value, tuple):
                held += [tensor for part in value if part is not None for tensor in part.tensors()]
        return tuple(held)

    def changed(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Return factors whose tensors are what ``change`` makes of them."""
        return replace(
            self, **self._mapped(lambda tensor, _: change(tensor), lambda part: part.changed(change))
        )

    def of_example(self, index: int) -> Self:
        """Return one example's factors, views."""
        return replace(self, **self._mapped(_cut("n", index), lambda part: part.of_example(index)))

    def of_logit(self, index: int) -> Self:
        """Return one logit's factors, views."""
        return replace(self, **self._mapped(_cut("c", index), lambda part: part.of_logit(index)))

    def described(self, name_of: Callable[[Tensor], str]) -> dict[str, Any]:
        """Return what JSON can hold: the form and its fields, a tensor's name in its place."""
        held = self._mapped(lambda tensor, _: name_of(tensor), lambda part: part.described(name_of))
        return {"form": self.form, **held}

    @staticmethod
    def of_description(description: Mapping[str, Any], tensor_of: Callable[[str], Tensor]) -> Factors:
        """Return the factors of a description, from the tensors' names."""

        def value_of(value: Any) -> Any:
            if isinstance(value, str):
                return tensor_of(value)
            if isinstance(value, Mapping):
                return Factors.of_description(value, tensor_of)
            return tuple(map(value_of, value)) if isinstance(value, list) else value

        held = {name: value_of(value) for name, value in description.items() if name != "form"}
        return Factors.forms[description["form"]](**held)

    def _mapped(
        self, of_tensor: Callable[[Tensor, tuple[str, ...]], Any], of_factors: Callable[[Factors], Any]
    ) -> dict[str, Any]:
        """Return the fields by name, the tensors and the factors among them replaced."""
        axes = self._axes()

        def mapped(name: str, value: Any) -> Any:
            if isinstance(value, Tensor):
                return of_tensor(value, axes[name])
            if isinstance(value, Factors):
                return of_factors(value)
            return tuple(mapped(name, each) for each in value) if isinstance(value, tuple) else value

        return {field.name: mapped(field.name, getattr(self, field.name)) for field in fields(self)}

    @classmethod
    @cache
    def _axes(cls) -> dict[str, tuple[str, ...]]:
        """Return the axes of the form's tensors, by field."""
        hints = get_type_hints(cls, include_extras=True)
        return {
            name: tuple(hint.__metadata__[0].split())
            for name, hint in hints.items()
            if get_origin(hint) is Annotated
        }

    @classmethod
    @cache
    def _examples_fields(cls) -> tuple[str, ...]:
        """Return the fields that hold examples' numbers, in tensors or in factors."""
        axes = cls._axes()
        return tuple(field.name for field in fields(cls) if "n" in axes.get(field.name, "n"))


def _cut(axis: str, index: int) -> Callable[[Tensor, tuple[str, ...]], Tensor]:
    """Return what cuts a tensor along an axis, if it has that, down to one place, as a view."""
    return lambda tensor, axes: tensor.narrow(axes.index(axis), index, 1) if axis in axes else tensor
