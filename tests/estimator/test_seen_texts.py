"""What the estimators of a process share: one loaded model, and the gradients of texts that were seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import tiny
import torch
from few_texts import LABELS, NEW, TEXTS, prompted
from joblib import parallel_config
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score

from lmntk import TangentClassifier, UserError
from lmntk.estimator import seen_texts


def test_a_search_loads_the_model_once_and_differentiates_each_text_once(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []
    load = seen_texts.load_pretrained

    def counted(*arguments: Any, **named: Any) -> Any:
        loaded.append(arguments)
        return load(*arguments, **named)

    monkeypatch.setattr(seen_texts, "load_pretrained", counted)
    grid = {"regularization": [0.001, 0.01, 0.1, 1.0]}
    search = GridSearchCV(prompted(model), grid, cv=5).fit(TEXTS, LABELS)
    assert len(loaded) == 1
    seen = search.best_estimator_.seen_
    assert seen.differentiated == len(TEXTS)
    assert seen.knows(search.best_estimator_.texts_.examples) == len(TEXTS)


def test_folds_are_those_of_separate_processes(model: str) -> None:
    scores = cross_val_score(prompted(model, regularization=0.1), TEXTS, LABELS, cv=5)
    for fold in range(5):
        seen_texts.forget()
        left = [2 * fold, 2 * fold + 1]
        others = [number for number in range(10) if number not in left]
        alone = prompted(model, regularization=0.1).fit(
            [TEXTS[n] for n in others], [LABELS[n] for n in others]
        )
        assert alone.score([TEXTS[n] for n in left], [LABELS[n] for n in left]) == scores[fold]


def test_what_takes_too_much_memory_is_forgotten_and_computed_anew(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = prompted(model, regularization=0.1).fit(TEXTS, LABELS).decision_function(NEW)
    seen_texts.forget()
    monkeypatch.setattr(seen_texts, "MOST_TEXTS", 11)
    little = prompted(model, regularization=0.1).fit(TEXTS, LABELS)
    np.testing.assert_allclose(little.decision_function(NEW), expected, rtol=1e-8)
    assert little.seen_.differentiated > len(TEXTS) + len(NEW)


def test_the_kernel_counts_as_memory_too(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = TangentClassifier(model, dtype="float64").fit(TEXTS, LABELS)
    examples, seen = classifier.texts_.examples, classifier.seen_
    assert seen.knows(examples) == 10
    gradients = sum(batch.nbytes for batch in seen._batches)
    for room, known in ((gradients + 800, 10), (gradients + 799, 0)):  # 10 x 10 numbers of 8 bytes
        monkeypatch.setattr(seen_texts, "SHARE", seen.settings.memory / (room + 0.5))
        seen._forget()
        seen.kernel(examples, examples)
        assert seen.knows(examples) == known


def test_more_texts_than_are_kept_leave_nothing_half_known(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = prompted(model, regularization=0.1).fit(TEXTS, LABELS).decision_function(NEW[:1])
    seen_texts.forget()
    monkeypatch.setattr(seen_texts, "MOST_TEXTS", 11)
    few = prompted(model, regularization=0.1).fit(TEXTS, LABELS)
    many = [f"{text} again" for text in TEXTS] + TEXTS
    prompted(model, regularization=0.1).fit(many, LABELS * 2)
    np.testing.assert_allclose(few.decision_function(NEW[:1]), expected, rtol=1e-8)


def test_threads_take_turns(model: str) -> None:
    # a list: cross_val_predict numbers the classes
    estimator = prompted(model, regularization=0.1).set_params(label_words=["terrible", "great"])
    arguments = {"cv": 5, "method": "decision_function"}
    alone = cross_val_predict(estimator, TEXTS, LABELS, **arguments)
    seen_texts.forget()
    with parallel_config("threading", n_jobs=5):
        np.testing.assert_allclose(cross_val_predict(estimator, TEXTS, LABELS, **arguments), alone, rtol=1e-8)


def test_a_model_that_was_trained_again_is_loaded_again(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    tiny.write_model(folder)
    first = TangentClassifier(str(folder), dtype="float64").fit(TEXTS, LABELS)
    decisions = first.decision_function(NEW)
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    changed = {name: 1.5 * tensor for name, tensor in weights.items()}
    safetensors.torch.save_file(changed, folder / "model.safetensors", {"format": "pt"})
    second = TangentClassifier(str(folder), dtype="float64").fit(TEXTS, LABELS)
    assert np.abs(second.decision_function(NEW) - decisions).max() > 1e-3
    np.testing.assert_array_equal(first.decision_function(NEW), decisions)
    first.save(tmp_path / "fit")
    with pytest.raises(UserError, match="other weights"):
        TangentClassifier.load(tmp_path / "fit")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_precisions_do_not_share_what_was_seen(model: str, dtype: str) -> None:
    other = {"float64": "float32", "float32": "float64"}[dtype]
    alone = prompted(model, dtype=dtype, regularization=0.1).fit(TEXTS, LABELS).decision_function(NEW)
    seen_texts.forget()
    prompted(model, dtype=other, regularization=0.1).fit(TEXTS, LABELS)
    after = prompted(model, dtype=dtype, regularization=0.1).fit(TEXTS, LABELS)
    np.testing.assert_array_equal(after.decision_function(NEW), alone)
    assert next(after.seen_.way.model.parameters()).dtype == getattr(torch, dtype)


def test_what_was_seen_takes_the_memory_that_is_asked_for_last(model: str) -> None:
    prompted(model, memory="2GiB").fit(TEXTS, LABELS)
    assert prompted(model, memory="3GiB").fit(TEXTS, LABELS).seen_.settings.memory == 3 * 2**30
