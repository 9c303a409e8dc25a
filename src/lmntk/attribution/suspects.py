"""Labels that are probably wrong, by what the other texts say of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax

from lmntk.attribution.ridge_refits import RidgeRefits
from lmntk.errors import UserError
from lmntk.solvers.inputs import Array, Labels, target_matrix

FALSE_DISCOVERIES = 0.2  # the promised share of right labels among those that are named
WRONG_SHARE = 0.1  # of all labels, before any is looked at: without such a share no label could be told to be wrong rather than rare


@dataclass(frozen=True, eq=False)
class Suspicion:
    """The doubts about each of N labels.

    Attributes:
        margin: the held-out decision for the label less the best of the other classes' [N]; negative: the others say another class.
        probability: held-out probability of the label [N].
        right: probability that the label is right, given that it was given [N].
        proposed: the most probable other class [N].
        self_influence: by how much a text's own presence moves its decision towards its label [N]; large where it had to be memorised.
        flip_gain: by how much the held-out squared loss of all **other** texts falls if the label becomes the proposed one [N].
        order: the texts' numbers, the most suspicious first: by probability.
        named: how many of them are named with a promised share of false discoveries.
        expected_false: the share of the named ones that is expected to be right after all; None where none is named.
    """

    margin: Array
    probability: Array
    right: Array
    proposed: Labels
    self_influence: Array
    flip_gain: Array
    order: Labels
    named: int
    expected_false: float | None


def suspicion_of(
    decisions: Array,
    labels: Labels,
    sharpness: float = 1.0,
    refits: RidgeRefits | None = None,
    false_discoveries: float = FALSE_DISCOVERIES,
    wrong_share: float = WRONG_SHARE,
) -> Suspicion:
    """Return the doubts about each label.

    The named texts are the longest run from the top whose mean probability of being labelled rightly is at most ``false_discoveries``.
    It is ``right_probability``, not the held-out probability itself: that of a classifier that knows nothing is 1/C, and says nothing
    against a label. The promise is as good as the calibration, and as ``wrong_share``.

    Args:
        decisions: held-out ones [N, C], or of several rounds [R, N, C]; one logit is class 1's.
        labels: class numbers [N].
        sharpness: the factor of decisions whose probabilities fit.
        refits: ridge regression on the same texts, for the influences; without it they are not-a-number.
        false_discoveries: the promised share.
        wrong_share: the share of all labels that is taken to be wrong.

    Raises:
        UserError: a share that is none.
    """
    if not 0 < false_discoveries < 1:
        raise UserError(
            f"audit: a share of {false_discoveries:g} false discoveries is not possible; give one between 0 and 1, such as 0.2"
        )
    rounds = decisions[None] if decisions.ndim == 2 else decisions
    probabilities = np.exp(_log_probabilities(sharpness * rounds)).mean(axis=0)
    of_class = _by_class(rounds.mean(axis=0))
    n = len(labels)
    own = of_class[np.arange(n), labels]
    others = of_class.copy()
    others[np.arange(n), labels] = -np.inf
    proposed = others.argmax(axis=1)
    probability = probabilities[np.arange(n), labels]
    right = right_probability(probability, of_class.shape[1], wrong_share)
    order = np.argsort(probability, kind="stable")
    running = np.cumsum(right[order]) / np.arange(1, n + 1)
    named = int(np.sum(running <= false_discoveries))  # running means of ascending numbers ascend
    influence, gain = (
        (np.full(n, np.nan), np.full(n, np.nan)) if refits is None else _influences(refits, proposed)
    )
    return Suspicion(
        margin=own - others.max(axis=1),
        probability=probability,
        right=right,
        proposed=proposed,
        self_influence=influence,
        flip_gain=gain,
        order=order,
        named=named,
        expected_false=float(running[named - 1]) if named else None,
    )


def right_probability(probability: Array, classes: int, wrong_share: float = WRONG_SHARE) -> Array:
    """Return the probability that each label is right, given that it was given [N].

    A share e of the labels is wrong, each other class as likely. With t the probability that the label's class is the true one, the
    label is given with q = (1 - e) t + e / (C - 1) (1 - t), which is what a classifier of given labels estimates; so t follows from q,
    and the label is right with (1 - e) t / q.

    Args:
        probability: q [N], held out.
        classes: C.
        wrong_share: e.

    Raises:
        UserError: a share of which labels would say nothing.
    """
    if not 0 < wrong_share < 1 - 1 / classes:
        raise UserError(
            f"audit: if a share of {wrong_share:g} of the labels of {classes} classes were wrong, they would say nothing; "
            f"give a share above 0 and below {1 - 1 / classes:.2g}, such as 0.1"
        )
    by_mistake = wrong_share / (classes - 1)
    true = np.clip((probability - by_mistake) / (1 - wrong_share - by_mistake), 0.0, 1.0)
    given = (1 - wrong_share) * true + by_mistake * (1 - true)
    return np.asarray((1 - wrong_share) * true / given)


def _influences(refits: RidgeRefits, proposed: Labels) -> tuple[Array, Array]:
    """Return self-influence and the gain of flipping [N], in closed form from the inverse B of K + rho I.

    The held-out residual of text j is r_j = (B_jj)^-1 (B t)_j; another target of text i moves it by (B_jj)^-1 B_ji dt_i.
    """
    n, c = refits.texts.f0.shape
    labels = refits.texts.labels
    blocks = refits.inverse.reshape(n, c, n, c)
    diagonal = np.linalg.inv(blocks[np.arange(n), :, np.arange(n)])
    residuals = np.einsum("ncd,nd->nc", diagonal, refits.coefficients)
    fitted = refits.ridge * refits.coefficients  # what is left to the target with the text itself
    towards = _directions(labels, c)
    influence = ((residuals - fitted) * towards).sum(axis=1)
    change = target_matrix(proposed, c) - target_matrix(labels, c)
    moved = np.einsum(
        "jcd,jdie,ie->ijc", diagonal, blocks, change, optimize=True
    )  # of j's residual by i's flip
    losses = (residuals**2).sum(axis=1)[None] - ((residuals[None] + moved) ** 2).sum(axis=2)
    losses[np.arange(n), np.arange(n)] = 0.0
    return np.asarray(influence), np.asarray(losses.sum(axis=1))


def _directions(labels: Labels, outputs: int) -> Array:
    """Return the direction in which a label's decision grows [N, C]: of one logit its sign, else the class's own logit."""
    return target_matrix(labels, outputs) if outputs == 1 else np.eye(outputs)[labels]


def _by_class(decisions: Array) -> Array:
    """Return decisions [..., classes]; of one logit f they are 0 and f."""
    return (
        np.concatenate([np.zeros_like(decisions), decisions], axis=-1)
        if decisions.shape[-1] == 1
        else decisions
    )


def _log_probabilities(decisions: Array) -> Array:
    return np.asarray(log_softmax(_by_class(decisions), axis=-1))
