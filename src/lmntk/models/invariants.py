"""The invariants of a model whose kernels can be believed: one list, by name, of all that is looked at.

Whatever breaks one of them bears its name: an error (``InvariantError``) or a finding of ``lmntk check``.
``docs/checks.md`` has the list as a table, which a test compares with this one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lmntk.errors import ModelError

When = Literal["start", "check"]


class InvariantError(ModelError):
    """A model that breaks an invariant in a way that leaves nothing right to compute."""

    def __init__(self, invariant: str, line: str) -> None:
        super().__init__(line)
        self.invariant, self.line = invariant, line

    def __reduce__(self) -> tuple[type[InvariantError], tuple[str, str]]:
        """Return how it is made anew in another process."""
        return type(self), (self.invariant, self.line)


@dataclass(frozen=True)
class Invariant:
    """Something that has to hold of a model.

    Attributes:
        name: as errors and findings have it.
        holds: what is compared with what.
        otherwise: what is done where it does not hold.
        when: ``start``, before the first kernel or gradient of every command, and in ``lmntk check``; or in ``check`` alone.
        cost: passes of a text, c being the number of logits.
    """

    name: str
    holds: str
    otherwise: str
    when: When
    cost: str

    def broken(self, line: str) -> InvariantError:
        """Return the error of a model that breaks it."""
        return InvariantError(self.name, line)


FINITE = Invariant(
    "logits",
    "logits are numbers, and so are their gradients",
    "refused",
    "start",
    "none of its own",
)
READING = Invariant(
    "reading",
    "a text's logits as lmntk reads them equal those of the user's own network called on that text alone, to rounding",
    "refused; the reading is named",
    "start",
    "2 forward passes of each of 4 texts, the shortest and the longest among them",
)
REPEATABLE = Invariant(
    "repeatable",
    "a second pass of a text gives the logits of the first, whatever came between",
    "refused",
    "start",
    "none of its own: asked where logits differ",
)
BATCH = Invariant(
    "batch",
    "the shortest text alone has the logits and gradients that it has padded beside the longest",
    "one text at a time, unpadded, which is said; `check` names the module",
    "start",
    "none of its own: `error` compares a batch with texts alone; in `check` 2 forward passes a text",
)
GRADIENTS = Invariant(
    "error",
    "each parameter's captured gradient equals plain autograd's of the text alone, in the shortest and the longest text",
    "plain autograd for that parameter, or one text at a time, which is said; else refused",
    "start",
    "3 forward and 3 c backward passes",
)
REACH = Invariant(
    "reach",
    "what is captured is reached by autograd, and what autograd reaches is captured",
    "what autograd does not reach (under `torch.no_grad`) does not count, which is said; what is not captured goes by plain autograd",
    "start",
    "none of its own: part of `error`",
)
ENTRY = Invariant(
    "kernel entry",
    "the kernel of the two texts, contracted as all kernels are, equals the inner products of autograd's gradients",
    "refused",
    "start",
    "no pass; the two texts' gradients once more, a parameter at a time",
)
COVERAGE = Invariant(
    "rules",
    "every parameter is covered by a rule that fits",
    "plain autograd at its module, slower, which is said",
    "start",
    "none of its own: part of `error`",
)
INFLUENCE = Invariant(
    "influence",
    "the logits depend on every parameter that counts",
    "said",
    "start",
    "none of its own: part of `error`",
)
TIES = Invariant(
    "ties",
    "a tied weight is one weight, not two",
    "said",
    "check",
    "none",
)
WHOLE = Invariant(
    "gradients",
    "whole gradients of a few texts equal plain autograd's (2-norm)",
    "said",
    "check",
    "2 forward and 2 c backward passes of each of 4 texts",
)
NOISE = Invariant(
    "noise",
    "coordinates whose gradient is rounding noise are known",
    "left out of the sign kernels; counted",
    "check",
    "1 forward and c backward passes of each of 4 texts",
)
TEXTS = Invariant(
    "texts",
    "no text is empty, and none is cut to the length limit",
    "counted and said",
    "start",
    "none",
)
WORDS = Invariant(
    "label words",
    "the label words are among the words that the model expects",
    "said",
    "check",
    "1 forward pass of each of at most 200 texts",
)
ACCURACY = Invariant(
    "accuracy",
    "the prompt alone tells the classes apart",
    "said",
    "check",
    "1 forward pass of each of at most 200 texts",
)

INVARIANTS = (
    FINITE,
    READING,
    REPEATABLE,
    BATCH,
    GRADIENTS,
    REACH,
    ENTRY,
    COVERAGE,
    INFLUENCE,
    TIES,
    WHOLE,
    NOISE,
    TEXTS,
    WORDS,
    ACCURACY,
)
