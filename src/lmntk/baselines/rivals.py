"""The rivals: the largest class, the model as it comes, words counted, features read. Each says what it decides on texts left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

NOTHING: dict[str, Any] = {}  # a rival has no settings to choose from
MOST_ITERATIONS = 1000
PENALTY_OF_WORDS = 10.0  # scikit-learn's C: rows of TF-IDF have norm 1
PENALTY_OF_FEATURES = 1.0  # of features as they are, as head mode's probe


class Majority:
    """The class that most of the other texts have; the first of equals.

    Args:
        labels: class numbers [N].
        outputs: logits that a decision has: 1 for two classes.
    """

    settings: Sequence[dict[str, Any]] = (NOTHING,)

    def __init__(self, labels: Labels, outputs: int) -> None:
        self.labels, self.outputs = labels, outputs

    def leave_out(self, groups: Labels) -> Array:
        """Return the other texts' counts of each class as decisions [G, g, C, 1]."""
        classes = max(self.outputs, 2)
        counts = np.bincount(self.labels, minlength=classes)
        left = np.stack([np.bincount(self.labels[group], minlength=classes) for group in groups])
        others = (counts - left).astype(np.float64)
        decisions = others[:, 1:] - others[:, :1] if self.outputs == 1 else others
        return np.broadcast_to(decisions[:, None, :, None], (*groups.shape, self.outputs, 1))


class ZeroShot:
    """The pre-trained logits as they are.

    Args:
        f0: [N, C].
    """

    settings: Sequence[dict[str, Any]] = (NOTHING,)

    def __init__(self, f0: Array) -> None:
        self.f0 = f0

    def leave_out(self, groups: Labels) -> Array:
        """Return the logits of the groups' texts, [G, g, C, 1]."""
        return self.f0[groups][..., None]


class Refitted:
    """A scikit-learn classifier that is fitted anew without each group.

    Args:
        make: returns a new classifier with ``decision_function``.
        inputs: what it takes, an array or a sparse matrix with a row for each text.
        labels: class numbers [N].
        outputs: logits that a decision has: 1 for two classes.

    Cost: a fit for each group.
    """

    settings: Sequence[dict[str, Any]] = (NOTHING,)

    def __init__(self, make: Callable[[], Any], inputs: Any, labels: Labels, outputs: int) -> None:
        self.make, self.inputs, self.labels, self.outputs = make, inputs, labels, outputs

    def leave_out(self, groups: Labels) -> Array:
        """Return decisions [G, g, C, 1]; a class that the other texts lack is never decided for."""
        decisions = np.empty((*groups.shape, self.outputs, 1))
        for number, group in enumerate(groups):
            others = np.setdiff1d(np.arange(len(self.labels)), group)
            decisions[number, :, :, 0] = self._decisions(others, group)
        return decisions

    def _decisions(self, others: Labels, group: Labels) -> Array:
        classes = np.unique(self.labels[others])
        values = np.full((len(group), max(self.outputs, 2)), -np.inf)
        if len(classes) == 1:
            values[:, classes] = 0.0
        else:
            fitted = self.make().fit(self.inputs[others], self.labels[others])
            found = np.asarray(fitted.decision_function(self.inputs[group]), dtype=np.float64)
            values[:, classes] = np.stack([-found, found], axis=1) / 2 if found.ndim == 1 else found
        return values if self.outputs > 1 else np.clip(values[:, 1:] - values[:, :1], -1e300, 1e300)


def word_counts(texts: Sequence[str]) -> Any:
    """Return how often each word and each pair of words is in each text, a sparse matrix with a column at least.

    It is counted once for all folds: a text of a megabyte takes a second, and there are hundreds of folds.
    """
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import CountVectorizer

    # Any run of letters or signs is a word: a text of emoji has some, and one of a single letter too.
    counter = CountVectorizer(ngram_range=(1, 2), token_pattern=r"\w+|[^\w\s]")
    if not any(text.strip() for text in texts):  # which it refuses
        return csr_matrix((len(texts), 1))
    return counter.fit_transform(texts).tocsr()


class KnownWords:
    """A step of a pipeline: the counts of those words alone that the texts it is fitted to have."""

    def fit(self, counts: Any, labels: Any = None) -> KnownWords:
        """Note the words of these texts; where they have none, one that is not there stands for them."""
        known = np.flatnonzero(counts.getnnz(axis=0))
        self.columns_ = known if len(known) else np.zeros(1, dtype=np.int64)
        return self

    def transform(self, counts: Any) -> Any:
        """Return the counts of these words."""
        return counts[:, self.columns_]


def of_words() -> Any:
    """Return a new logistic regression of TF-IDF's weights, to be fitted to counts of ``word_counts``."""
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    return make_pipeline(
        KnownWords(),
        TfidfTransformer(sublinear_tf=True),
        LogisticRegression(C=PENALTY_OF_WORDS, max_iter=MOST_ITERATIONS),
    )


def probe() -> Any:
    """Return a new logistic regression of features."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=PENALTY_OF_FEATURES, max_iter=MOST_ITERATIONS)
