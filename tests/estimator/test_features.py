"""``TangentFeatures``: inner products of features against exact kernels, and a place in scikit-learn's pipelines."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from few_texts import LABELS, NEW, TEMPLATE, TEXTS, WORDS
from sklearn.base import clone
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import make_pipeline

from lmntk import Example, TangentClassifier, TangentFeatures, UserError
from lmntk.estimator import seen_texts
from lmntk.solvers.shared import shared_kernel

THREE = [("one", "two", "three")[number % 3] for number in range(len(TEXTS))]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny masked model's folder."""
    seen_texts.forget()
    return str(tiny.write_model(tmp_path_factory.mktemp("model")))


def exact_kernel(model: str, labels: list[str]) -> np.ndarray:
    """Return the kernel [N, N] of the few texts in head mode, of three classes the one that they share."""
    classifier = TangentClassifier(model, classes="full", dtype="float64").fit(TEXTS, labels)
    examples = [Example(text) for text in TEXTS]
    kernel = classifier.seen_.kernel(examples, examples)
    return shared_kernel(kernel) if kernel.shape[1] > 1 else kernel[:, 0, :, 0]


@pytest.mark.parametrize("labels", [LABELS, THREE], ids=["two classes", "three classes"])
@pytest.mark.parametrize("kind", ["sparse", "fastfood", "kronecker"])
def test_inner_products_are_the_kernel_on_average(model: str, labels: list[str], kind: str) -> None:
    exact = exact_kernel(model, labels)
    found = []
    for seed in range(8):
        transformer = TangentFeatures(model, dimension=512, kind=kind, dtype="float64").fit(TEXTS, labels)
        transformer.sketch_ = type(transformer.sketch_)(kind, 512, seed)  # the head stays that of seed 0
        features = transformer.transform(TEXTS).astype(float)
        found.append(features @ features.T)
    one = np.linalg.norm(found[0] - exact) / np.linalg.norm(exact)
    mean = np.linalg.norm(np.mean(found, axis=0) - exact) / np.linalg.norm(exact)
    assert 1e-6 < one < 0.5
    assert mean < 0.75 * max(np.linalg.norm(each - exact) / np.linalg.norm(exact) for each in found)


def test_features_of_a_text_depend_on_nothing_else(model: str) -> None:
    transformer = TangentFeatures(model, TEMPLATE, WORDS, dimension=64, dtype="float64").fit(TEXTS)
    together = transformer.transform([*TEXTS, *NEW])
    alone = np.concatenate([transformer.transform([text]) for text in [*TEXTS, *NEW]])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-7)
    assert together.dtype == np.float32
    assert together.shape == (len(TEXTS) + len(NEW), transformer.n_features_)


def test_a_pipeline_classifies_with_them_and_clones(model: str) -> None:
    pipeline = make_pipeline(TangentFeatures(model, TEMPLATE, WORDS, tolerance=0.3), RidgeClassifier(1e-3))
    assert clone(pipeline).fit(TEXTS, LABELS).score(TEXTS, LABELS) == 1.0
    names = pipeline.fit(TEXTS, LABELS)[:-1].get_feature_names_out()
    assert len(names) == pipeline[0].n_features_ == pipeline[0].sketch_.dimension


def test_few_texts_are_told_of_the_exact_kernel(model: str) -> None:
    with pytest.warns(UserWarning, match="10 texts: their exact kernel is cheaper"):
        TangentFeatures(model, dimension=8).fit(TEXTS, LABELS)


@pytest.mark.parametrize(
    ("settings", "labels", "said"),
    [
        ({}, None, "label_words, or labels"),
        ({"model": ""}, LABELS, "no model"),
        ({"label_words": WORDS}, LABELS, "need a template"),
        ({"tolerance": 1e-6}, LABELS, "which reach"),
        ({"dimension": 10**7, "memory": "100MiB"}, LABELS, "features are"),
    ],
)
def test_what_cannot_be_is_refused(
    model: str, settings: dict[str, object], labels: list[str] | None, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        TangentFeatures(**{"model": model} | settings).fit(TEXTS, labels).transform(TEXTS)  # type: ignore[arg-type]
