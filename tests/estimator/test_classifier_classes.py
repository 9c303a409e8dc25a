"""More than two classes of ``TangentClassifier``: contrasts, a shared kernel, offsets."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from few_texts import LABELS, NEW, TEMPLATE, TEXTS

from lmntk import Example, TangentClassifier
from lmntk.estimator import choice
from lmntk.estimator.seen_texts import SharedTexts
from lmntk.solvers.calibration import Calibration
from lmntk.solvers.shared import shared_kernel


@pytest.mark.parametrize("classes", ["full", "contrasts", "shared"])
def test_many_classes_may_share_a_kernel(model: str, classes: str) -> None:
    labels = [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
    classifier = TangentClassifier(model, classes=classes, dtype="float64", regularization=0.1)
    classifier.fit(TEXTS, labels)
    examples = [Example(text) for text in TEXTS]
    kernel = classifier.seen_.kernel(examples, examples)
    outputs = {"full": 3, "contrasts": 2, "shared": 1}[classes]
    assert kernel.shape == (10, outputs, 10, outputs)
    explained = classifier.explain(NEW[0])
    assert explained.offset + sum(each.value for each in explained.contributions) == pytest.approx(
        explained.decision
    )
    many = [f"{text} {number}" for number in range(20) for text in NEW]
    decisions = classifier.decision_function(many)
    assert classifier._predictor is not None
    few = np.concatenate([classifier.decision_function(many[start : start + 6]) for start in range(0, 60, 6)])
    np.testing.assert_allclose(decisions, few, atol=1e-8)


WORDS_OF_THREE = {0: "terrible", 1: "great", 2: "maybe"}


@pytest.mark.parametrize("mode", ["prompt", "head"])
def test_contrasts_decide_as_the_centred_logits_do(model: str, tmp_path: Path, mode: str) -> None:
    # the twin: the full kernel's projection on logits without their mean, solved densely
    labels = np.asarray([0, 1, 2, 0, 1, 2, 0, 1, 2, 0] * 2)[: len(TEXTS)]
    given = {"mode": mode, "dtype": "float64", "regularization": 0.1}
    full, cheaper = (
        TangentClassifier(model, TEMPLATE, WORDS_OF_THREE, classes=classes, **given).fit(TEXTS, labels)
        for classes in ("full", "contrasts")
    )
    centring, examples = np.eye(3) - 1 / 3, [Example(text) for text in TEXTS]
    train, new = (
        np.einsum("ncmd,ce,df->nemf", full.seen_.kernel(examples, others), centring, centring)
        for others in (examples, [Example(text) for text in NEW])
    )
    matrix, scale = train.reshape(30, 30), cheaper.choice_.f0_scale
    logits, of_new = (
        full.seen_.logits(some) @ centring / scale for some in (examples, [Example(text) for text in NEW])
    )
    targets = (np.eye(3)[labels] @ centring - logits).reshape(-1)
    alpha = np.linalg.solve(matrix + 0.1 * np.linalg.norm(matrix, 2) * np.eye(30), targets)
    expected = (alpha @ new.reshape(30, -1)).reshape(-1, 3) + of_new
    np.testing.assert_allclose(cheaper.decision_function(NEW), expected, atol=1e-8)
    cheaper.save(tmp_path / "saved")
    loaded = TangentClassifier.load(tmp_path / "saved")
    np.testing.assert_allclose(loaded.decision_function(NEW), expected, atol=1e-8)


def test_a_shared_kernel_is_on_average_that_of_the_centred_classes(model: str) -> None:
    labels = [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
    examples = [Example(text) for text in TEXTS]
    settings = {"mode": "head", "dtype": "float64", "regularization": 0.1}
    full = TangentClassifier(model, classes="full", **settings).fit(TEXTS, labels)
    way = full.seen_.way
    total = np.zeros((10, 10))
    for signs in product([-1.0, 1.0], repeat=3):
        weights = (np.asarray(signs) - np.mean(signs))[:, None]
        shared = SharedTexts(replace(way, combinations=weights), full.seen_.settings)
        total += shared.kernel(examples, examples)[:, 0, :, 0] / 8
    np.testing.assert_allclose(total, shared_kernel(full.seen_.kernel(examples, examples)), rtol=1e-8)


@pytest.mark.parametrize("labels", [LABELS, [0, 1, 2] * 3 + [0]], ids=["two", "three"])
def test_offsets_move_decisions_so_that_the_most_probable_class_is_decided(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels: list[Any]
) -> None:
    settings = {"mode": "head", "dtype": "float64", "regularization": 0.1, "classes": "full"}
    plain = TangentClassifier(model, **settings).fit(TEXTS, labels)
    offsets = (0.5,) if len(set(labels)) == 2 else (0.8, -0.2, -0.6)
    monkeypatch.setattr(choice, "fit_calibration", lambda *_, **__: Calibration(2.0, offsets))
    moved = TangentClassifier(model, **settings).fit(TEXTS, labels)
    before, decisions = (each.decision_function(NEW).reshape(3, -1) for each in (plain, moved))
    np.testing.assert_allclose(decisions, before + np.asarray(offsets) / 2, rtol=1e-9)
    scores = 2 * before + offsets
    scores = np.concatenate([np.zeros((3, 1)), scores], axis=1) if len(offsets) == 1 else scores
    chances = moved.predict_proba(NEW)
    np.testing.assert_allclose(chances, np.exp(scores) / np.exp(scores).sum(1, keepdims=True), rtol=1e-9)
    assert moved.predict(NEW).tolist() == moved.classes_[chances.argmax(1)].tolist()
    moved.save(tmp_path / "fit")
    again = TangentClassifier.load(tmp_path / "fit")
    np.testing.assert_allclose(again.predict_proba(NEW), chances, rtol=1e-6)
    explained = moved.explain(NEW[0])
    assert explained.label == moved.predict(NEW[:1])[0]


def test_two_classes_that_share_a_kernel_have_one_decision(model: str) -> None:
    classifier = TangentClassifier(model, classes="shared").fit(TEXTS, LABELS)
    decisions = classifier.decision_function(NEW)
    assert decisions.shape == (3,)
    assert classifier.classes_[(decisions > 0).astype(int)].tolist() == classifier.predict(NEW).tolist()
