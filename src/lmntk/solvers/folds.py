"""Folds of few texts: in each round every text leaves once, and texts of every class leave together.

Where one text leaves alone its class becomes the smaller one, and a model of few texts is then wrong on it more often than on new
texts: held out so, random labels come out far below chance.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from lmntk.errors import UserError
from lmntk.solvers.inputs import Labels

MOST_FOLDS = 20
ROUNDS = 20


def deal_folds(
    labels: Labels,
    names: Sequence[Hashable] | None = None,
    *,
    rounds: int = ROUNDS,
    most: int = MOST_FOLDS,
    seed: int = 0,
) -> list[list[Labels]]:
    """Return for each round its folds, each the numbers of the texts that leave together, ascending.

    There are as many folds as the smallest class has texts, ``most`` at most. In a balanced file each fold has as many texts of one class
    as of another, where there are up to ``most`` one of each; else as nearly as can be in the proportions of the whole.

    Args:
        labels: the class of each text [N].
        names: equal for texts that have to leave together, such as duplicates; by default each text is alone.
        rounds: how often the texts are dealt anew.
        most: folds.
        seed: of the dealing.

    Raises:
        UserError: a single class, or a class with less than two texts that can leave alone.
    """
    units: dict[Hashable, list[int]] = {}
    for number, name in enumerate(range(len(labels)) if names is None else names):
        units.setdefault(name, []).append(number)
    together = list(units.values())
    classes: dict[int, list[int]] = {}
    for number, unit in enumerate(together):
        classes.setdefault(int(labels[unit[0]]), []).append(number)
    sizes = {label: len(members) for label, members in classes.items()}
    smallest = min(sizes, key=lambda label: sizes[label])
    if len(classes) < 2 or sizes[smallest] < 2:
        raise UserError(
            f"held out: class {smallest} has {sizes[smallest]} text and there are {len(classes)} classes; "
            "give two classes or more, and two different texts of each"
        )
    count = min(most, sizes[smallest])
    is_balanced = len(set(sizes.values())) == 1
    random = np.random.default_rng(seed)
    dealt = []
    for _ in range(rounds):
        folds: list[list[int]] = [[] for _ in range(count)]
        place = 0
        for _, members in sorted(classes.items()):
            place = 0 if is_balanced else place
            for unit in random.permutation(members):
                folds[place % count] += together[unit]
                place += 1
        dealt.append([np.sort(np.asarray(fold, dtype=np.int64)) for fold in folds])
    return dealt
