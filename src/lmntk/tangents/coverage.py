"""Before anything long starts, a check: every trainable parameter's gradient is caught, once, and right.

One example's factors are compared with plain autograd, parameter by parameter; then two examples run as a
batch, to see whether the model keeps them apart. What no rule covers, or a rule gets wrong, falls to plain
autograd for that parameter alone, and is named: at its module alone if that can be cut into examples, else
through the whole network, one text at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lmntk.errors import ModelError
from lmntk.models.invariants import GRADIENTS, REPEATABLE
from lmntk.models.rounding import LOGITS, distance
from lmntk.models.state import Batch
from lmntk.tangents.capture import RuleFailedError, capture, without_rule
from lmntk.tangents.comparison import (
    Attempt,
    Captured,
    Entries,
    compare_example,
    entry_error,
    errors_of,
    largest_of,
)
from lmntk.tangents.factors import Tangents

# of a parameter's largest gradient entry; float64 models of the Llama kind compute their norms in float32
TOLERANCE = {torch.float64: 1e-5, torch.float32: 2e-3, torch.float16: 0.1, torch.bfloat16: 0.5}
# times the precision, of the network's largest entry: below it a gradient may be rounding noise alone, and is
# not compared. Half precision leaves no room for as wide a margin: bfloat16's is an eighth of the largest
# entry. What is larger agrees with autograd, on the tests' families, to 2 % on a processor that multiplies
# bfloat16 in float32, and to a third on one that multiplies bfloat16 itself.
NOISE = {torch.float64: 1e3, torch.float32: 1e3, torch.float16: 16.0, torch.bfloat16: 16.0}


@dataclass(frozen=True)
class Coverage:
    """The way in which a model's gradients are to be captured.

    ``batched`` is False when examples must go one at a time; ``fallback`` names the parameters whose
    gradients come from plain autograd, ``wrong`` those among them that have a rule, which gets them wrong;
    ``unused`` those that the logits do not depend on; ``faint`` those whose gradients were too small in both
    examples to be told from rounding noise, and so were not compared; ``unreached`` those that are used where
    autograd does not go (under ``torch.no_grad``), which do not count; ``worst`` is the largest relative error
    against autograd, ``entry`` that of a kernel entry, ``reading`` that of the logits against the network's own.
    """

    batched: bool
    fallback: tuple[str, ...]
    unused: tuple[str, ...]
    worst: float
    reason: str = ""
    wrong: tuple[str, ...] = ()
    faint: tuple[str, ...] = ()
    unreached: tuple[str, ...] = ()
    entry: float | None = None
    reading: float | None = None

    def capture(
        self,
        model: nn.Module,
        batch: Batch,
        trainable: Mapping[str, nn.Parameter],
        lower: torch.dtype | None = None,
    ) -> Tangents:
        """Return the factored Jacobian of a batch, captured in this way; see ``capture``."""
        return capture(model, batch, without(trainable, self.unreached), self.fallback, lower)

    def describe(self) -> str:
        """Return one line for the report."""
        line = f"gradients agree with autograd to {self.worst:.1e}"
        if self.entry is not None:
            line += f", a kernel entry to {self.entry:.1e}"
        if self.reading is not None:
            line += f", logits with the network's own to {self.reading:.1e}"
        if self.unreached:
            shown = ", ".join(self.unreached[:3]) + (", ..." if len(self.unreached) > 3 else "")
            line += f"; {len(self.unreached)} parameters that autograd does not reach do not count ({shown})"
        if self.unused:
            line += f"; {len(self.unused)} parameters have no influence"
        if self.faint:
            line += f"; {len(self.faint)} parameters' are too near to rounding noise to compare"
        named = [name for name in self.fallback if name not in self.unused]
        if named:
            where = ", at their modules, once more a text" if self.batched else ""
            shown = ", ".join(named[:3]) + (", ..." if len(named) > 3 else "")
            line += f"; {len(named)} by plain autograd{where} ({shown}): register a rule for their modules"
        return line + (
            f"; one text at a time, about three times as long: {self.reason}" if not self.batched else ""
        )


def without(trainable: Mapping[str, nn.Parameter], names: Iterable[str]) -> dict[str, nn.Parameter]:
    """Return the parameters but those of these names."""
    left_out = set(names)
    return {name: parameter for name, parameter in trainable.items() if name not in left_out}


class _NoBatchError(Exception):
    """Two examples that cannot be captured in one batch."""


def _example(batch: Batch, index: int) -> dict[str, Tensor]:
    return {name: tensor[index : index + 1] for name, tensor in batch.items()}


def check_coverage(
    model: nn.Module,
    batch: Batch,
    trainable: Mapping[str, nn.Parameter],
    alone: Sequence[Batch] | None = None,
    scale: float = 0.0,
    entries: Entries | None = None,
) -> Coverage:
    """Return how to capture this model's gradients, after comparing up to two examples with plain autograd.

    Args:
        model: from a batch to logits.
        batch: one example or several, of which the first and the last are compared.
        trainable: the parameters that count.
        alone: these two, each without its padding and in a batch of its own: what plain autograd is asked for.
            By default they are cut out of the batch as they are.
        scale: the size of logits before they are subtracted from one another, against which theirs are compared.
        entries: the kernel of captured factors, which is compared too.

    Cost: three forward and 3 c backward passes where all is well, else up to nine. Memory: two examples'
    factors, and of one parameter at a time the gradient of one logit, by autograd and from the factors.

    Raises:
        ModelError: gradients that cannot be captured, or a model that is not the same from pass to pass.
    """
    count = next(iter(batch.values())).shape[0]
    dtype = next(iter(trainable.values())).dtype
    if dtype not in TOLERANCE:
        raise ModelError(
            f"weights of type {dtype}: gradients are computed in float64, float32, bfloat16 and float16; "
            "convert the model"
        )
    tolerance, noise_level = TOLERANCE[dtype], NOISE[dtype] * torch.finfo(dtype).eps
    chosen = sorted({0, count - 1})  # two, for one example may hide what another shows
    references = [_example(batch, index) for index in chosen] if alone is None else list(alone)
    used: set[str] = set()
    compared: set[str] = set()
    unreached: set[str] = set()

    def compare(examples: Sequence[Captured]) -> tuple[Attempt, set[str]]:
        """Return the comparison, and what is captured though autograd reaches it in no example."""
        errors: list[dict[str, float]] = []
        logits: list[Tensor] = []
        reached: set[str] = set()
        caught: set[str] = set()
        products: dict[str, Tensor] | None = None if entries is None else {}
        for at in range(len(examples)):
            largest, own_logits = compare_example(model, examples, at, trainable, products)
            logits.append(own_logits)
            floor = noise_level * max((each.reference for each in largest.values()), default=0.0)
            reached.update(name for name, each in largest.items() if each.is_reached)
            caught.update(name for name, each in largest.items() if 0 < each.captured < math.inf)
            used.update(name for name, each in largest.items() if each.reference > 0)
            compared.update(name for name, each in largest.items() if not each.is_noise(floor))
            errors.append(errors_of(largest, trainable, floor))
        captured = torch.stack([each.tangents.logits[each.index] for each in examples])
        apart = distance(captured, torch.stack(logits), scale)
        return (
            Attempt(largest_of(errors), "", apart, examples, products or {}, frozenset(reached)),
            caught - reached,
        )

    def attempt(captured: Callable[[Mapping[str, nn.Parameter]], Sequence[Captured]]) -> Attempt:
        """Return the comparison without what autograd does not reach."""
        while True:
            result, more = compare(captured(without(trainable, unreached)))
            if not more:
                return result
            unreached.update(more)

    def together(fallback: tuple[str, ...]) -> Attempt:
        """Return the comparison of the examples in their batch, or why they cannot be captured so."""

        def captured(counted: Mapping[str, nn.Parameter]) -> Sequence[Captured]:
            try:
                tangents = capture(model, batch, counted, fallback)
            except RuntimeError as error:
                raise _NoBatchError(" ".join(str(error).split())[:200] or type(error).__name__) from error
            pairs = zip(references, chosen, strict=True)
            return [Captured(reference, tangents, index) for reference, index in pairs]

        try:
            return attempt(captured)
        except _NoBatchError as error:
            return Attempt({}, lost=str(error))

    def singly(fallback: tuple[str, ...]) -> Attempt:
        """Return the comparison of the examples, each in a batch of its own."""
        result = attempt(
            lambda counted: [
                Captured(each, capture(model, each, counted, fallback), 0) for each in references
            ]
        )
        if not result.apart <= LOGITS[dtype]:
            raise REPEATABLE.broken(
                f"two passes of one text differ by {result.apart:.1e} of the largest logit: "
                "the model is random, or changes from text to text"
            )
        return result

    def outcome(
        batched: bool,
        fallback: tuple[str, ...],
        result: Attempt,
        reason: str = "",
        wrong: tuple[str, ...] = (),
    ) -> Coverage:
        unused = tuple(name for name in trainable if name not in used | unreached)
        faint = tuple(name for name in trainable if name in used - compared)
        entry = None if entries is None else entry_error(result, entries, tolerance, noise_level)
        dropped = tuple(name for name in trainable if name in unreached)
        kept = tuple(name for name in fallback if name not in unreached)
        return Coverage(
            batched, kept, unused, max(result.errors.values()), reason, wrong, faint, dropped, entry
        )

    def is_right(result: Attempt) -> bool:
        return (
            bool(result.errors)
            and all(error <= tolerance for error in result.errors.values())
            and result.apart <= LOGITS[dtype]
        )

    uncovered = without_rule(model, trainable)  # a text that is not looked at may use what these two do not
    first = together(uncovered)
    if is_right(first):
        return outcome(True, uncovered, first)
    # something is wrong: with the rules, or with the batch?
    known = set(unreached)
    apart = [name for name, error in first.errors.items() if not error <= tolerance]
    failed: tuple[str, ...] = ()
    while True:
        try:
            result = singly((*uncovered, *failed))
            break
        except RuleFailedError as error:
            failed = (*failed, *error.names)
    # a rule is asked for what the captured pass reaches, also where it fails
    unreached.update(name for name in failed if name not in result.reached)
    if unreached - known:  # a table that autograd does not reach may be what the batch failed on
        first = together(uncovered)
        if is_right(first):
            return outcome(True, uncovered, first)
    errors = result.errors
    wrong = tuple(name for name, error in errors.items() if not error <= tolerance and error != float("inf"))
    fallback = tuple(
        name
        for name in trainable
        if name not in unreached and (errors[name] == float("inf") or name in {*wrong, *failed, *uncovered})
    )
    wrong = tuple(name for name in fallback if name in wrong or name in failed)
    mixed = (
        ""
        if first.apart <= LOGITS[dtype]
        else f"a text's logits depend on its padding or its batch ({first.apart:.1e})"
    )
    if set(fallback) == set(uncovered):
        reason = mixed or (
            f"the batch axis is lost ({first.lost})"
            if first.lost
            else f"{len(apart)} parameters' gradients lose the batch axis ({apart[0]})"
        )
        return outcome(False, fallback, result, reason)
    second = together(fallback)
    if is_right(second):
        return outcome(True, fallback, second, wrong=wrong)
    result = singly(fallback)
    if any(not error <= tolerance for error in result.errors.values()):
        name = max(result.errors, key=lambda key: result.errors[key])
        raise GRADIENTS.broken(
            f"parameter {name!r}: its captured gradient differs from autograd's by {result.errors[name]:.1e}; "
            "register a right rule for its module"
        )
    return outcome(False, fallback, result, mixed or second.lost or "plain autograd has no batch here", wrong)
