"""``TangentClassifier`` among scikit-learn's tools, and against the kernels that the engine computes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from few_texts import LABELS, NEW, TEMPLATE, TEXTS, WORDS, prompted
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from lmntk import Example, TangentClassifier, UserError, compute_kernels, load_pretrained
from lmntk.estimator import record


def test_decisions_are_those_of_the_engines_kernel(model: str) -> None:
    classifier = prompted(model, regularization=0.1).fit(TEXTS, LABELS)
    pretrained = load_pretrained(model, "float64")
    examples = [Example(text) for text in TEXTS]
    computed = compute_kernels(
        pretrained, classifier.seen_.way.encoder, examples, [Example(text) for text in NEW], ["sgd"]
    )
    kernel = classifier.seen_.kernel(classifier.texts_.examples, [Example(text) for text in NEW])
    np.testing.assert_allclose(kernel, computed.kernels["sgd"].values, rtol=1e-9)
    np.testing.assert_allclose(
        classifier.decision_function(NEW),
        classifier.choice_.decisions(computed.kernels["sgd"].values, computed.logits["eval"])[:, 0],
        rtol=1e-8,
    )


def as_they_are(texts: list[str]) -> list[str]:
    """Return the texts: a step of a pipeline."""
    return list(texts)


@pytest.mark.parametrize("mode", ["prompt", "head"])
def test_many_new_texts_are_decided_in_one_pass_as_by_kernels(model: str, mode: str) -> None:
    classifier = prompted(model, mode=mode, regularization=0.1).fit(TEXTS, LABELS)
    many = [f"{text} {number}" for number in range(20) for text in NEW]
    before = classifier.seen_.differentiated
    decisions = classifier.decision_function(many)
    assert classifier.seen_.differentiated == before
    assert classifier._predictor is not None
    few = np.concatenate([classifier.decision_function(many[start : start + 6]) for start in range(0, 60, 6)])
    np.testing.assert_allclose(decisions, few, atol=1e-8)


def test_clones_and_pipelines(model: str) -> None:
    classifier = prompted(model)
    assert clone(classifier).get_params() == classifier.get_params()
    pipeline = make_pipeline(FunctionTransformer(as_they_are), clone(classifier)).fit(TEXTS, LABELS)
    assert set(pipeline.predict(NEW)) <= {"good", "bad"}


@pytest.mark.parametrize(
    "labels",
    [["good", "bad"] * 5, [1, 0] * 5, [True, False] * 5, [2.5, -1.0] * 5, [7, 3, 5, 3, 7, 5, 3, 7, 5, 3]],
    ids=["words", "numbers", "truth", "decimals", "three"],
)
def test_labels_come_back_as_they_were_given(model: str, labels: list[Any]) -> None:
    classifier = TangentClassifier(model).fit(TEXTS, labels)
    assert classifier.classes_.tolist() == sorted(set(labels))
    predicted = classifier.predict(NEW)
    assert set(predicted.tolist()) <= set(labels)
    assert type(predicted.tolist()[0]) is type(labels[0])
    probabilities = classifier.predict_proba(NEW)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert classifier.classes_[probabilities.argmax(axis=1)].tolist() == predicted.tolist()


THREE = [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]


@pytest.mark.parametrize(
    ("labels", "sharing"),
    [(LABELS, "auto"), (THREE, "full"), (THREE, "contrasts"), (THREE, "shared")],
    ids=["two", "three", "contrasts", "shared"],
)
def test_an_explanation_sums_to_its_decision(model: str, labels: list[Any], sharing: Any) -> None:
    classifier = TangentClassifier(model, dtype="float64", classes=sharing).fit(TEXTS, labels)
    for text in NEW:
        explained = classifier.explain(text)
        assert explained.label == classifier.predict([text])[0]
        total = explained.offset + sum(each.value for each in explained.contributions)
        assert total == pytest.approx(explained.decision, abs=1e-8)
        weights = [each.weight for each in explained.contributions]
        assert weights == [each.influence for each in explained.contributions]
        assert weights == sorted(weights, reverse=True)
        assert len(weights) == len(TEXTS)
        assert [*explained.helpful, *explained.harmful[::-1]] == [
            each for each in explained.contributions if each.weight
        ]
        decisions = np.sort(np.atleast_2d(classifier.decision_function([text])), axis=-1)[0]
        margin = abs(decisions[0]) if len(decisions) == 1 else decisions[-1] - decisions[-2]
        assert explained.decision == pytest.approx(margin, abs=1e-8)
        assert explained.runner_up not in (explained.label, None)


@pytest.mark.parametrize(("setting", "influence"), [({"regularization": 0.0}, None), ({}, 0.0)])
def test_where_nothing_is_refitted_no_influence_is_made_up(
    model: str, monkeypatch: pytest.MonkeyPatch, setting: dict[str, float], influence: float | None
) -> None:
    if not setting:  # no training is the only candidate
        monkeypatch.setattr(
            "lmntk.solvers.held_out.RidgeCandidates.leave_out",
            lambda self, groups: np.zeros((*groups.shape, 1, 24)),
        )
    classifier = prompted(model, **setting).fit(TEXTS, LABELS)
    assert ("no_training" in classifier.setting_) == (not setting)
    explained = classifier.explain(NEW[0])
    assert {each.influence for each in explained.contributions} == {influence}
    decided = abs(classifier.decision_function(NEW[:1])[0])
    assert explained.decision == pytest.approx(decided, abs=1e-6)


def test_suspects_are_the_audits_rows(model: str) -> None:
    texts, wrong = [*TEXTS, "a dull book"], [*LABELS, "good"]
    rows = TangentClassifier(model, dtype="float64").fit(texts, wrong).suspects(0.3)
    assert sorted(row["row"] for row in rows) == list(range(len(texts)))
    assert [row["probability"] for row in rows] == sorted(row["probability"] for row in rows)
    for row in rows:
        assert (texts[row["row"]], wrong[row["row"]]) == (row["text"], row["label"])
        assert {row["label"], row["proposed"]} == {"good", "bad"}
    with pytest.raises(UserError, match="five"):
        TangentClassifier(model).fit(TEXTS[:6], LABELS[:6]).suspects()


@pytest.mark.parametrize(
    ("labels", "settings"),
    [
        (LABELS, {"template": TEMPLATE, "label_words": WORDS, "mode": "prompt"}),
        ([1, 0] * 5, {}),
        (THREE, {"classes": "full"}),
        (THREE, {"classes": "contrasts"}),
        (THREE, {"classes": "shared"}),
        (LABELS, {"classes": "shared"}),
    ],
    ids=["prompt", "head", "three", "contrasts", "three that share", "two that share"],
)
def test_a_folder_brings_it_back(
    model: str, tmp_path: Path, labels: list[Any], settings: dict[str, Any]
) -> None:
    classifier = TangentClassifier(model, dtype="float64", **settings).fit(TEXTS, labels)
    classifier.save(tmp_path / "fit")
    again = TangentClassifier.load(tmp_path / "fit")
    assert again.classes_.tolist() == classifier.classes_.tolist()
    assert again.held_out_score_ == pytest.approx(classifier.held_out_score_, nan_ok=True)
    np.testing.assert_allclose(
        again.decision_function(NEW), classifier.decision_function(NEW), rtol=1e-6, atol=1e-9
    )
    np.testing.assert_allclose(again.predict_proba(NEW), classifier.predict_proba(NEW), rtol=1e-6)
    assert again.predict(NEW).tolist() == classifier.predict(NEW).tolist()
    explained, expected = again.explain(NEW[0]), classifier.explain(NEW[0])
    assert (explained.label, explained.runner_up) == (expected.label, expected.runner_up)
    assert explained.decision == pytest.approx(expected.decision, rel=1e-6, abs=1e-9)
    assert {each.row: pytest.approx(each.value, rel=1e-6, abs=1e-9) for each in expected.contributions} == {
        each.row: each.value for each in explained.contributions
    }
    assert {each.row: pytest.approx(each.weight, rel=1e-5, abs=1e-9) for each in expected.contributions} == {
        each.row: each.influence for each in explained.contributions
    }
    with pytest.raises(UserError, match="lmntk audit"):
        again.suspects()


EVERY: dict[str, Any] = {
    "template": TEMPLATE,
    "label_words": {7: "great", 3: "terrible"},
    "formula": "sgd",
    "mode": "prompt",
    "classes": "full",
    "regularization": 0.5,
    "max_length": 40,
    "chat": False,  # the tiny tokenizer has no chat template
    "lora_rank": 2,
    "lora_targets": "mlp",
    "lora_alpha": 8.0,
    "train_only": None,  # LoRA trains what it adds
    "dtype": "float64",
    "device": "cpu",
    "memory": "2GiB",
    "seed": 3,
}


@pytest.mark.parametrize(
    "changed",
    [{}, {"mode": "head", "seed": np.int64(4)}, {"label_words": ["terrible", "great"]}, {"regularization": np.float32(0.5)}],
    ids=["all", "head mode", "words in order", "a number of numpy's"],
)  # fmt: skip
def test_a_folder_brings_every_parameter_back(model: str, tmp_path: Path, changed: dict[str, Any]) -> None:
    classifier = TangentClassifier(Path(model), **EVERY | changed)
    given = clone(classifier).get_params()
    assert set(given) == {"model", *EVERY}
    classifier.fit(TEXTS, [7, 3] * 5).save(tmp_path / "fit")
    assert TangentClassifier.load(tmp_path / "fit").get_params() == given | {"model": model}
    moved = shutil.copytree(model, tmp_path / "moved")
    again = TangentClassifier.load(tmp_path / "fit", str(moved), "auto")
    assert again.get_params() == given | {"model": str(moved), "device": "auto"}


@pytest.mark.parametrize(
    "as_given",
    [pd.Series, np.asarray, iter, lambda texts: pd.DataFrame({"message": texts}), lambda texts: np.asarray(texts)[:, None]],
    ids=["series", "array", "iterator", "data frame", "column"],
)  # fmt: skip
def test_texts_come_in_any_row_of_things(model: str, as_given: Any) -> None:
    classifier = prompted(model, regularization=0.1).fit(as_given(TEXTS), LABELS)
    assert [example.text_a for example in classifier.texts_.examples] == TEXTS
    assert classifier.predict(as_given(NEW)).tolist() == classifier.predict(NEW).tolist()


def test_a_table_of_two_columns_is_pairs(model: str) -> None:
    classifier = TangentClassifier(model).fit(
        pd.DataFrame({"question": TEXTS, "answer": TEXTS[::-1]}), LABELS
    )
    assert [(each.text_a, each.text_b) for each in classifier.texts_.examples] == list(
        zip(TEXTS, TEXTS[::-1], strict=True)
    )


def test_a_single_text_of_a_class_is_fitted_without_an_estimate(model: str) -> None:
    classifier = prompted(model).fit(TEXTS[:4], ["good", "bad", "good", "good"])
    assert classifier.standing_ is None
    assert np.isnan(classifier.held_out_score_)
    assert classifier.setting_ == {"regularization": 0.1, "f0_scale": float("inf")}
    assert set(classifier.predict(NEW)) <= {"good", "bad"}


def test_parameters_that_are_set_after_a_fit_are_not_saved(model: str, tmp_path: Path) -> None:
    classifier = TangentClassifier(Path(model), dtype="float64").fit(TEXTS, LABELS)
    decisions = classifier.decision_function(NEW)
    classifier.set_params(model="another", dtype="float32").save(tmp_path / "fit")
    np.testing.assert_allclose(
        TangentClassifier.load(tmp_path / "fit").decision_function(NEW), decisions, rtol=1e-8
    )


@pytest.mark.parametrize("where", ["file", "file/below"])
def test_a_folder_that_is_a_file_is_a_line(model: str, tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is a file"):
        TangentClassifier(model).fit(TEXTS, LABELS).save(tmp_path / where)


def test_a_fit_that_ends_early_leaves_no_earlier_record(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    TangentClassifier(model).fit(TEXTS, LABELS).save(tmp_path / "fit")
    other = TangentClassifier(model).fit(TEXTS, ["yes", "no"] * 5)
    monkeypatch.setattr(record, "write_record", lambda *given: pytest.fail("the power is gone"))
    with pytest.raises(pytest.fail.Exception):
        other.save(tmp_path / "fit")
    with pytest.raises(UserError, match="holds no fit"):
        TangentClassifier.load(tmp_path / "fit")


MISTAKES: dict[str, tuple[dict[str, Any], Any, Any, str]] = {
    "no model": ({"model": ""}, TEXTS, LABELS, "model"),
    "a single string": ({}, "a fine film", ["good"], "[text]"),
    "numbers for texts": ({}, [1, 2, 3, 4], LABELS[:4], "number 0 is '1'"),
    "a label too few": ({}, TEXTS, LABELS[:9], "10 texts"),
    "a text without a label": ({}, TEXTS, [*LABELS[:9], None], "number 9"),
    "a label that is no number": ({}, TEXTS, [1.0, 2.0] * 4 + [1.0, float("nan")], "number 9"),
    "a label that pandas has not": ({}, TEXTS, pd.array([True, pd.NA] * 5, dtype="boolean"), "number 1"),
    "words among numbers": ({}, TEXTS, ["1", 1] * 5, "'1' is a word and 1 is not"),
    "labels without an order": ({}, TEXTS, np.asarray([1, 1j, b"1", (1,), 2] * 2, dtype=object), "sorted"),
    "a dict of texts": ({}, {"text": TEXTS}, LABELS, "dict"),
    "a set of texts": ({}, set(TEXTS), LABELS, "set"),
    "an array of no dimension": ({}, np.array("a film"), LABELS, "list"),
    "nothing for texts": ({}, None, LABELS, "'None'"),
    "three columns": ({}, pd.DataFrame({"a": TEXTS, "b": TEXTS, "c": TEXTS}), LABELS, "pairs"),
    "one class": ({}, TEXTS, ["good"] * 10, "'good'"),
    "no texts": ({}, [], [], "none"),
    "a word of no class": ({"label_words": {"god": "great", "bad": "terrible"}}, TEXTS, LABELS, "god=great"),
    "words without a template": ({"template": None}, TEXTS, LABELS, "template"),
    "a template without words": ({"label_words": None}, TEXTS, LABELS, "label_words"),
    "a formula that is not built": ({"formula": "signgd"}, TEXTS, LABELS, "formula 'signgd'"),
    "a ridge in words": ({"regularization": "0.1"}, TEXTS, LABELS, "'0.1'"),
    "no such mode": ({"mode": "heads"}, TEXTS, LABELS, "auto, prompt, head"),
    "no such sharing": ({"classes": "all"}, TEXTS, LABELS, "classes"),
    "no length": ({"max_length": 0}, TEXTS, LABELS, "max-length"),
    "memory that is no text": ({"memory": [4]}, TEXTS, LABELS, "memory"),
    "a seed below zero": ({"seed": -1}, TEXTS, LABELS, "seed"),
    "a seed that is none": ({"seed": None}, TEXTS, LABELS, "seed"),
    "a negative ridge": ({"regularization": -1.0}, TEXTS, LABELS, "regularization"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_a_line(model: str, name: str) -> None:
    settings, texts, labels, said = MISTAKES[name]
    classifier = prompted(model).set_params(**settings)
    with pytest.raises(UserError) as raised:
        classifier.fit(texts, labels)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_classifier_of_a_folder_can_be_fitted_anew(model: str, tmp_path: Path) -> None:
    TangentClassifier(model).fit(TEXTS, LABELS).save(tmp_path / "fit")
    again = TangentClassifier.load(tmp_path / "fit").fit(TEXTS, ["yes", "no"] * 5)
    assert set(again.predict(NEW)) <= {"yes", "no"}
    assert again.explain(NEW[0]).label in ("yes", "no")
