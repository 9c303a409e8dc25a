"""A forward pass watched: what goes into each module that owns parameters, and the gradient at its output.

No parameter asks for a gradient. The first outputs on every path that are watched do (the embeddings', where all
parameters count), so autograd runs the input half of the backward pass alone, builds no weight gradient, and
goes no deeper than to the lowest parameter that counts: below it the forward pass leaves no graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten


@dataclass
class Record:
    """One call of a module: its arguments, its outputs, and the outputs' gradients, logit by logit.

    ``is_relative_positions`` marks a table of relative positions, which has no batch axis of its own: then
    the arguments are the bucket of each pair of places [t, s], and the output is its bias, handed on for
    every example, [n, heads, t, s].
    """

    module: nn.Module
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    outputs: list[Tensor]  # floating-point tensors among the outputs, detached
    # of each output, by logit; a missing one is zero
    gradients: list[dict[int, Tensor]] = field(default_factory=list)
    is_relative_positions: bool = False
    versions: list[int] = field(default_factory=list)  # of the outputs; a change in place counts one up

    def __post_init__(self) -> None:
        self.gradients = [{} for _ in self.outputs]
        self.versions = [output._version for output in self.outputs]

    @property
    def has_gradient(self) -> bool:
        """Return whether the logits depend on this call."""
        return any(self.gradients)

    def stacked(self, logits: int, output: int = 0) -> Tensor:
        """Return the gradient [c, *shape] of every logit with respect to one output."""
        like = self.outputs[output]
        gradients = [self.gradients[output].get(logit) for logit in range(logits)]
        parts = [torch.zeros_like(like) if gradient is None else gradient for gradient in gradients]
        return parts[0].unsqueeze(0) if logits == 1 else torch.stack(parts)

    def lifted(self, dtype: torch.dtype) -> Record:
        """Return the record in ``dtype``: sums over uses are not rounded as a pass in lower precision is."""

        def lift(value: Any) -> Any:
            return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value

        lifted = replace(
            self,
            arguments=tree_map(lift, self.arguments),
            keywords=tree_map(lift, self.keywords),
            outputs=list(map(lift, self.outputs)),
        )
        lifted.gradients = [
            {logit: lift(gradient) for logit, gradient in each.items()} for each in self.gradients
        ]
        return lifted


class _HandOn(torch.autograd.Function):
    """A tensor handed on, the same numbers, that may be changed in place: neither a leaf nor a view.

    With a seed a path begins here: the output seems to depend on it, so that a gradient is asked for. A leaf that
    asks for one itself may not be changed in place, as some networks do with their embeddings.
    """

    @staticmethod
    def forward(ctx: Any, output: Tensor, seed: Tensor | None) -> Tensor:
        """Return the output; the seed's value has no influence."""
        ctx.begins = seed is not None
        return output.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradient; nobody reads the seed's: the output's is caught on the way."""
        return (None, gradients[0].new_zeros(())) if ctx.begins else (gradients[0], None)


class Watch:
    """All that one forward pass leaves behind; ``logit`` is the one that is being differentiated."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.logit = 0
        self.records: list[Record] = []
        self._seeds: list[Tensor] = []

    def add(self, record: Record, outputs: Sequence[Tensor]) -> list[Tensor]:
        """Keep a record; return the outputs to hand on, those that start a path asking for a gradient."""
        handed = []
        for index, output in enumerate(outputs):
            # nothing before it asks for a gradient (it may itself: gradient checkpointing sees to that)
            if output.is_leaf:
                seed = output.new_zeros(()).requires_grad_()
                self._seeds.append(seed)
                output = _HandOn.apply(output, seed)  # type: ignore[no-untyped-call]
            # a view that is changed in place loses its hook; and one output may be made of another, where the hook
            # is to see only what comes from outside
            elif output._is_view() or len(outputs) > 1:
                output = _HandOn.apply(output, None)  # type: ignore[no-untyped-call]
            output.register_hook(self._keeper(record.gradients[index]))  # type: ignore[no-untyped-call]
            handed.append(output)
        self.records.append(record)
        return handed

    def _keeper(self, gradients: dict[int, Tensor]) -> Callable[[Tensor], None]:
        def keep(gradient: Tensor) -> None:
            gradients[self.logit] = gradient

        return keep

    def differentiate(self, logits: Tensor, direct: Sequence[nn.Parameter] = ()) -> list[list[Tensor | None]]:
        """Run one backward pass a logit; returns the gradients of ``direct``, logit by logit."""
        gradients: list[list[Tensor | None]] = []
        for logit in range(logits.shape[1]):
            self.logit = logit
            asked = [*self._seeds, *direct]
            if not asked:  # nothing that counts is on the way to the logits
                return [[] for _ in range(logits.shape[1])]
            at_asked = torch.autograd.grad(
                logits[:, logit].sum(), asked, retain_graph=logit + 1 < logits.shape[1], allow_unused=True
            )
            gradients.append(list(at_asked[len(self._seeds) :]))
        return gradients


@contextmanager
def watched(modules: Iterable[nn.Module], watch: Watch) -> Iterator[None]:
    """Keep a record of every call of the modules while the body runs."""
    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_hook(_keeper(watch), with_kwargs=True).remove)
        yield


def _keeper(watch: Watch) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Any], Any]:
    def keep(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> Any:
        if not torch.is_grad_enabled():  # autograd does not come here
            return output
        flat, structure = tree_flatten(_for_every_example(module, output, watch.count))
        indices = [
            index for index, each in enumerate(flat) if isinstance(each, Tensor) and each.is_floating_point()
        ]
        outputs = [flat[index] for index in indices]
        inputs, keys = tree_flatten((arguments, keywords))
        plain = tree_unflatten([each.detach() if isinstance(each, Tensor) else each for each in inputs], keys)
        record = Record(module, plain[0], plain[1], [output.detach() for output in outputs])
        for index, handed in zip(indices, watch.add(record, outputs), strict=True):
            flat[index] = handed
        return tree_unflatten(flat, structure)

    return keep


@contextmanager
def lookups_quiet(lookups: Iterable[nn.Module], watch: Watch) -> Iterator[None]:
    """Let no lookup that does not count start a path while the body runs, though it asks for a gradient itself.

    Some do when gradient checkpointing or an adapter is prepared. What comes after them needs the batch axis all the same.
    """

    def quieten(module: nn.Module, _: tuple[Any, ...], output: Any) -> Any:
        if not torch.is_grad_enabled():
            return output
        output = _for_every_example(module, output, watch.count)
        return output.detach() if isinstance(output, Tensor) and output.is_leaf else output

    with ExitStack() as stack:
        for module in lookups:
            stack.callback(module.register_forward_hook(quieten).remove)
        yield


def _for_every_example(module: nn.Module, output: Any, count: int) -> Any:
    """Return the output of a module; of one lookup that is broadcast over the batch, each example's own."""
    is_shared = (
        isinstance(module, nn.Embedding) and isinstance(output, Tensor) and output.shape[0] == 1 < count
    )
    return output.expand(count, *output.shape[1:]) if is_shared else output
