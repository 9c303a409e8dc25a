"""A classifier of what a part of the model learns: against real adapters, and by kernels against one pass."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from few_texts import LABELS, NEW, TEMPLATE, TEXTS, WORDS
from sklearn.model_selection import GridSearchCV
from test_fit_command import COLUMNS, messages, write_table

from lmntk import Example, KernelWork, TangentClassifier, UserError, stream_kernels
from lmntk.estimator import seen_texts
from lmntk.finetuning.subsets import Subset
from lmntk.kernels.gram import EVERYTHING
from lmntk.system import notices

CAUSAL = "{a} it was"
MODELS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "masked": (tiny.write_model, TEMPLATE),
    "transposed weights": (tiny.write_gpt2, CAUSAL),
    "llama": (tiny.write_llama, CAUSAL),
}
PARTS: list[dict[str, Any]] = [
    {"lora_rank": 2},
    {"lora_rank": 1, "lora_targets": "mlp", "lora_alpha": 3.0},
    {"train_only": "norms"},
    {"train_only": "top-1&attention"},
]


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A tiny model's folder, and a template for it."""
    write, template = MODELS[request.param]
    return str(write(tmp_path_factory.mktemp("model"))), template


def fitted(model: tuple[str, str], mode: str = "prompt", **settings: Any) -> TangentClassifier:
    """Return a classifier in float64 on the few texts."""
    classifier = TangentClassifier(
        *model, WORDS, mode=mode, dtype="float64", regularization=0.1, seed=3, **settings
    )
    return classifier.fit(TEXTS, LABELS)


@pytest.mark.parametrize("mode", ["prompt", "head"])
@pytest.mark.parametrize("part", PARTS, ids=str)
def test_the_kernel_is_that_of_what_really_trains(
    model: tuple[str, str], mode: str, part: dict[str, Any]
) -> None:
    classifier = fitted(model, mode, **part)
    way, train = classifier.seen_.way, classifier.texts_.examples
    new = [Example(text) for text in NEW]
    kernel = classifier.seen_.kernel(train, new)
    if "lora_rank" in part:
        subset = Subset(
            lora_rank=part["lora_rank"],
            lora_alpha=part.get("lora_alpha", 16.0),
            lora_targets=part.get("lora_targets", "all-linear"),
            seed=3,
        )
    else:
        subset = Subset(train_only=part["train_only"])
    texts = {"train": way.encoded(train), "new": way.encoded(new)}
    with subset.chosen(way.model) as trained:
        work = KernelWork(trained.module, texts, [("train", "new")], ["sgd"], trained.parameters, way.pad_id)
        expected = stream_kernels(work).kernels["train", "new"]["sgd"][EVERYTHING].numpy()
    np.testing.assert_allclose(kernel, expected, rtol=1e-8, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("mode", ["prompt", "head"])
@pytest.mark.parametrize("part", PARTS, ids=str)
def test_many_texts_are_decided_in_one_pass_as_by_kernels(
    model: tuple[str, str], mode: str, part: dict[str, Any]
) -> None:
    classifier = fitted(model, mode, **part)
    many = [f"{text} {number}" for number in range(20) for text in NEW]
    decisions = classifier.decision_function(many)
    assert classifier._predictor is not None
    few = np.concatenate([classifier.decision_function(many[start : start + 6]) for start in range(0, 60, 6)])
    np.testing.assert_allclose(decisions, few, atol=1e-7)  # a Llama norm computes in float32


def test_what_does_not_fit_into_the_memory_has_the_same_kernel(
    model: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = fitted(model, lora_rank=2)
    train = classifier.texts_.examples
    known = classifier.seen_.kernel(train, train)
    monkeypatch.setattr(seen_texts, "MOST_TEXTS", 2)
    np.testing.assert_allclose(classifier.seen_.kernel(train, train), known, rtol=1e-9)


def test_ranks_are_a_grid_like_any_other(model: tuple[str, str]) -> None:
    search = GridSearchCV(
        TangentClassifier(*model, WORDS, mode="prompt"), {"lora_rank": [None, 1, 2]}, cv=2
    ).fit(TEXTS, LABELS)
    assert search.best_params_["lora_rank"] in (None, 1, 2)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"lora_rank": 1, "lora_targets": "nothing"}, "'nothing'"),
        ({"lora_rank": 4000}, "rank: 4000 is more than"),
        ({"lora_targets": "mlp"}, "give the rank too"),
        ({"lora_rank": 1, "train_only": "biases"}, "give one of the two"),
        ({"train_only": "nothing"}, "'nothing'"),
    ],
)
def test_what_cannot_train_is_refused(model: tuple[str, str], part: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        fitted(model, **part)


def test_a_kernel_of_lora_is_not_shared_by_classes(tmp_path: Path) -> None:
    folder = str(tiny.write_model(tmp_path))
    labels = [f"class {number % 3}" for number in range(9)]
    classifier = TangentClassifier(folder, lora_rank=1, classes="shared")
    with pytest.raises(UserError, match="give --classes contrasts"):
        classifier.fit([f"a film {number}" for number in range(9)], labels)


def test_the_command_fits_lora_and_predicts_by_the_weights_alone(
    tmp_path: Path, command_line: Callable[..., tuple[int, str, str]]
) -> None:
    folder = tiny.write_model(tmp_path / "model")
    table, out = write_table(tmp_path / "tickets.csv", messages(6)), tmp_path / "fit"
    options = ("--lora-rank", 2, "--lora-targets", "query+value", "--dtype", "float64")
    code, _, _ = command_line("fit", table, "--model", folder, *COLUMNS, *options, "--out", out)
    assert code == 0
    what = "LoRA of rank 2 on query+value, alpha 16"
    assert what in (out / "report.html").read_text()
    code, said, _ = command_line("explain", out, "--texts", 1, "--json")
    assert json.loads(said)["settings"]["what trains"] == what
    code, said, _ = command_line("predict", out, table, "--text-column", "message", "--json")
    assert code == 0
    texts, labels = zip(*messages(6), strict=True)
    classifier = TangentClassifier(str(folder), lora_rank=2, lora_targets="query+value", dtype="float64").fit(
        list(texts), list(labels)
    )
    loaded = TangentClassifier.load(out)
    np.testing.assert_allclose(
        loaded.decision_function(list(texts)), classifier.decision_function(list(texts)), atol=1e-9
    )
    for text in NEW:
        again, before = loaded.explain(text), classifier.explain(text)
        assert [each.text for each in again.contributions] == [each.text for each in before.contributions]
        np.testing.assert_allclose(
            [each.value for each in again.contributions],
            [each.value for each in before.contributions],
            atol=1e-9,
        )
    assert said


@pytest.mark.parametrize("mode", ["prompt", "head"])
def test_a_shared_kernel_of_a_part_is_the_part_s_in_the_folder_too(tmp_path: Path, mode: str) -> None:
    folder = str(tiny.write_model(tmp_path / "model"))
    words, labels = ["good", "bad", "fun"], ["a", "b", "c", "a", "b", "c", "a", "b", "c", "a"]
    classifier = TangentClassifier(
        folder, TEMPLATE, words, mode=mode, classes="shared", train_only="norms", regularization=0.1, dtype="float64"
    ).fit(TEXTS, labels)  # fmt: skip
    classifier.save(tmp_path / "fit")
    decisions = TangentClassifier.load(tmp_path / "fit").decision_function(NEW)
    np.testing.assert_allclose(decisions, classifier.decision_function(NEW), atol=1e-9)


def test_a_folder_says_what_it_was_fitted_with_that_an_estimator_does_not_have(
    tmp_path: Path, command_line: Callable[..., tuple[int, str, str]]
) -> None:
    folder, table = tiny.write_model(tmp_path / "model"), write_table(tmp_path / "tickets.csv", messages(3))
    for name, options in {"plain": (), "biases": ("--biases-only",)}.items():
        out = tmp_path / name
        assert command_line("fit", table, "--model", folder, *COLUMNS, *options, "--out", out)[0] == 0
        with notices.kept() as lines:
            TangentClassifier.load(out)
        assert [("fitted with biases_only" in line) for line in lines] == [True] * (name == "biases")
