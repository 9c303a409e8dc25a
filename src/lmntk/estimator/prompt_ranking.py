"""Prompts ranked by held-out accuracy; what a best of several is worth is estimated with the choice made anew in each fold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lmntk.estimator.choice import shares_taken
from lmntk.estimator.standing import TOLD, lead_error
from lmntk.solvers.held_out import Candidates, HeldOut, Pool, held_out
from lmntk.solvers.inputs import Array, Labels

KERNEL = "kernel"
LEVEL = 0.05  # how often one prompt of all may be called better than chance where none is


@dataclass(frozen=True, eq=False)
class Contender:
    """A prompt on a labelled file.

    Attributes:
        by_method: what it is trained as, and without training decides as; by name, ``KERNEL`` among them.
        tokens: mean length of a prompted text.
    """

    by_method: Mapping[str, Candidates]
    tokens: float


@dataclass(frozen=True, eq=False)
class Ranked:
    """A prompt's held-out decisions by each method.

    Attributes:
        number: of the contender, from 0.
        tokens: mean length of a prompted text.
        correct: by method the share of rounds in which each text is decided rightly, [N].
        taken: the share of folds whose other texts chose this prompt.
        above_chance: better than chance by more than ``margin``.
        margin: the error of its accuracy that holds for all prompts at once.
    """

    number: int
    tokens: float
    correct: Mapping[str, Array]
    taken: float
    above_chance: bool
    margin: float

    @property
    def accuracy(self) -> float:
        """The kernel's."""
        return float(self.correct[KERNEL].mean())


@dataclass(frozen=True, eq=False)
class Ranking:
    """Several prompts beside each other.

    Attributes:
        prompts: the best held out first; of equals the shorter.
        best: by method the share of rounds in which the best prompt, chosen anew in each fold, decides each text rightly, [N].
        chance: what always saying the largest class comes to.
        alike: numbers of the prompts that cannot be told from the first, it among them, in the prompts' order.
        recommended: the number of the shortest among these; None where the best is not better than chance.
    """

    prompts: tuple[Ranked, ...]
    best: Mapping[str, Array]
    chance: float
    alike: tuple[int, ...]
    recommended: int | None


class _Remembered:
    """Candidates whose decisions on the same groups are computed once."""

    def __init__(self, candidates: Candidates) -> None:
        self.candidates, self.settings = candidates, candidates.settings
        self._known: dict[tuple[tuple[int, ...], bytes], Array] = {}

    def leave_out(self, groups: Labels) -> Array:
        key = groups.shape, groups.tobytes()
        if key not in self._known:
            self._known[key] = self.candidates.leave_out(groups)
        return self._known[key]


def rank(contenders: Sequence[Contender], labels: Labels, rounds: Sequence[Sequence[Labels]]) -> Ranking:
    """Return the prompts by their held-out accuracy, on the same folds.

    A prompt's own accuracy has its setting chosen inside each fold. The highest of several such accuracies is too high, by chance; so
    ``best`` has the prompt chosen there too, by the other folds' texts alone.

    Args:
        contenders: the prompts, in order, with the same methods.
        labels: class numbers [N].
        rounds: of folds.

    Cost: that of ``held_out`` of each prompt, and the decisions of one round in memory.
    """
    methods = list(contenders[0].by_method)
    owners = [
        number for number, each in enumerate(contenders) for _ in each.by_method[KERNEL].settings
    ]  # of a pool's settings
    right: dict[str, list[list[Array]]] = {name: [[] for _ in contenders] for name in methods}
    best: dict[str, list[Array]] = {name: [] for name in methods}
    taken: list[tuple[float, ...]] = []
    for folds in rounds:
        for name in methods:
            known = [_Remembered(each.by_method[name]) for each in contenders]
            for number, each in enumerate(known):
                right[name][number].append(held_out(each, labels, [folds]).correct)
            nested: HeldOut = held_out(Pool(known), labels, [folds])
            best[name].append(nested.correct)
            if name == KERNEL:
                taken.append(shares_taken(nested, owners, len(contenders)))
    correct = [{name: np.mean(right[name][n], axis=0) for name in methods} for n in range(len(contenders))]
    # what always saying the largest class comes to, which of a balanced file is chance
    chance, errors = float(np.bincount(labels).max()) / len(labels), at_once(len(contenders), len(labels))
    ranked = []
    for number, (contender, of_prompt) in enumerate(zip(contenders, correct, strict=True)):
        leads = of_prompt[KERNEL] - chance
        lead, margin = float(leads.mean()), errors * lead_error(leads)
        share = float(np.mean([shares[number] for shares in taken]))
        ranked.append(Ranked(number, contender.tokens, of_prompt, share, lead > margin, margin))
    ranked.sort(key=lambda each: (-each.accuracy, each.tokens, each.number))
    means = {name: np.mean(values, axis=0) for name, values in best.items()}
    return _recommending(tuple(ranked), means, chance)


def at_once(count: int, texts: int) -> float:
    """Return how many standard errors one of so many accuracies exceeds with a probability of 5 %, at most (Bonferroni's)."""
    from scipy.stats import t

    return float(t.ppf(1 - LEVEL / count, max(texts - 1, 1)))


def _recommending(prompts: tuple[Ranked, ...], best: Mapping[str, Array], chance: float) -> Ranking:
    """Return the ranking with those that cannot be told from its first, and the shortest of these."""
    first = prompts[0].correct[KERNEL]
    alike = [
        each for each in prompts if (leads := first - each.correct[KERNEL]).mean() <= TOLD * lead_error(leads)
    ]
    kernel = best[KERNEL]
    is_worth = kernel.mean() - chance > TOLD * lead_error(kernel - chance)
    shortest = min(alike, key=lambda each: (each.tokens, -each.accuracy, each.number))
    return Ranking(
        prompts, best, chance, tuple(each.number for each in alike), shortest.number if is_worth else None
    )
