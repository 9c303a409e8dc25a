"""scikit-learn's own checks of an estimator. They hand over tables of numbers, so a class made for them writes each row as words.

Of an estimator of texts scikit-learn itself makes one check only, ``check_estimator_cloneable``: its tags say that it takes strings.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tiny
from few_texts import LABELS, NEW, TEMPLATE, TEXTS
from sklearn.base import clone
from sklearn.exceptions import NotFittedError, SkipTestWarning
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks
from sklearn.utils.validation import check_is_fitted, validate_data

from lmntk import TangentClassifier
from lmntk.estimator import choice, seen_texts

MODEL: list[
    str
] = []  # the folder; its name is no parameter here, since scikit-learn makes the estimator before any fixture
WEAK = "of a random network of two layers that reads rounded numbers: it is right less often than scikit-learn's 83 %"
EXPECTED_TO_FAIL = {
    "check_classifiers_train": WEAK,
    "check_classifiers_regression_target": "decimals are labels like others: a label of any type comes back as it was given",
}
LEAST = 55  # checks that scikit-learn 1.8 makes of a classifier of tables; fewer would mean that some are passed over


class OfNumbers(TangentClassifier):
    """The classifier of tables of numbers, each of which is a word of the tiny tokenizer's."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.one_d_array = False, False
        tags.input_tags.two_d_array = True
        return tags

    def _options(self) -> Any:
        model, self.model = self.model, MODEL[0]
        try:
            return super()._options()
        finally:
            self.model = model

    def fit(self, X: Any, y: Any) -> OfNumbers:
        X, y = validate_data(self, X, y, dtype="numeric")
        super().fit(worded(X), y)
        return self

    def decision_function(self, X: Any) -> Any:
        return super().decision_function(self._texts(X))

    def predict(self, X: Any) -> Any:
        return super().predict(self._texts(X))

    def predict_proba(self, X: Any) -> Any:
        return super().predict_proba(self._texts(X))

    def _texts(self, X: Any) -> list[str]:
        check_is_fitted(self)
        return worded(validate_data(self, X, reset=False))


def worded(X: Any) -> list[str]:
    """Return each row as words, a number to each."""
    numbers = np.rint(4 * np.asarray(X, dtype=float)) % len(tiny.WORDS)
    return [" ".join(tiny.WORDS[int(number)] for number in row) for row in numbers]


@pytest.fixture(scope="module", autouse=True)
def _model(tmp_path_factory: pytest.TempPathFactory) -> None:
    MODEL[:] = [str(tiny.write_model(tmp_path_factory.mktemp("model")))]
    seen_texts.forget()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold texts out once, and compare with no rival: scikit-learn's checks look at neither."""
    monkeypatch.setattr(choice, "rivals_of", lambda *given: [])
    for name in ("ROUNDS", "FEWER_ROUNDS"):
        monkeypatch.setattr(choice, name, 1)


OF_NUMBERS = OfNumbers(mode="head", regularization=0.1)
EXPECTED: dict[str, Any] = {
    "expected_failed_checks": lambda estimator: EXPECTED_TO_FAIL,
    "xfail_strict": True,
}


@parametrize_with_checks([OF_NUMBERS], legacy=False, **EXPECTED)
def test_scikit_learns_checks_of_an_interface(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks([OF_NUMBERS], **EXPECTED)
def test_all_of_scikit_learns_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def test_none_is_passed_over() -> None:
    assert len(list(estimator_checks_generator(OfNumbers()))) >= LEAST
    with pytest.warns(SkipTestWarning, match="Can't test"):
        assert len(list(estimator_checks_generator(TangentClassifier()))) == 1  # as the first lines say


# What those checks say of tables, said of texts.


def classifier(**settings: Any) -> TangentClassifier:
    """Return a classifier of texts."""
    return TangentClassifier(MODEL[0], **{"mode": "head", "regularization": 0.1} | settings)


def test_parameters_are_got_and_set_as_they_were_given() -> None:
    words = {"good": "great"}
    given = {"label_words": words, "template": "{a} {mask}", "seed": 4, "memory": "1GiB"}
    made = classifier(**given)
    assert made.get_params()["label_words"] is words
    assert classifier().set_params(**given).get_params() == made.get_params() == clone(made).get_params()
    made.set_params(mode="prompt", label_words={"good": "great", "bad": "terrible"}, template=TEMPLATE)
    before = dict(made.get_params())
    assert made.fit(TEXTS, LABELS) is made
    assert made.get_params() == before
    assert not hasattr(clone(made), "classes_")


@pytest.mark.parametrize(
    "ask",
    [
        lambda made: made.predict(NEW),
        lambda made: made.predict_proba(NEW),
        lambda made: made.decision_function(NEW),
        lambda made: made.score(NEW, LABELS[:3]),
        lambda made: made.explain(NEW[0]),
        lambda made: made.save("nowhere"),
    ],
    ids=["predict", "predict_proba", "decision_function", "score", "explain", "save"],
)
def test_what_was_not_fitted_says_so(ask: Callable[[Any], Any]) -> None:
    with pytest.raises(NotFittedError):
        ask(classifier())


def test_a_fit_again_is_the_same_fit() -> None:
    made = classifier(regularization=None).fit(TEXTS, LABELS)
    first, score = made.decision_function(NEW), made.held_out_score_
    np.testing.assert_array_equal(made.fit(TEXTS, LABELS).decision_function(NEW), first)
    seen_texts.forget()
    again = classifier(regularization=None).fit(TEXTS, LABELS)
    np.testing.assert_allclose(again.decision_function(NEW), first, rtol=1e-5, atol=1e-7)
    assert again.held_out_score_ == score


def test_a_fitted_classifier_is_pickled_and_decides_as_before() -> None:
    made = classifier().fit(TEXTS, LABELS)
    again = pickle.loads(pickle.dumps(made))
    np.testing.assert_array_equal(again.predict_proba(NEW), made.predict_proba(NEW))
    assert again.explain(NEW[0]) == made.explain(NEW[0])
