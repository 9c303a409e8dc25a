"""Prompts of the tasks by default: one for causal models, the paper's for the others, in runs and in the doctor."""

from __future__ import annotations

import json

import pytest
from tiny import write_rows

from lmntk.experiment.configuration import make_experiment
from lmntk.experiment.preparation import prepare_tasks
from lmntk.models.loading import load_pretrained

PAPER = ("{a} It was {mask}.",), ("terrible", "great")
CAUSAL = ("Review: {a}\nSentiment:",), ("negative", "positive")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name in ("train", "test"):
        write_rows(folder / "sst-2" / f"{name}.jsonl", 8)
    return folder


@pytest.fixture(scope="module")
def prompt_of(folder, data):
    loaded = {name: load_pretrained(str(folder / name)) for name in ("bert", "gpt2", "t5")}

    def prompt_of(model, **given):
        fields = {"model": str(folder / model), "data": str(data), "k": [2], "seeds": [13]}
        fields |= {} if "own_tasks" in given else {"tasks": ["sst-2"]}
        (task,) = prepare_tasks(make_experiment(fields | given), loaded[model])
        return task.templates, task.label_words

    return prompt_of


OWN = {"name": "own", "texts_of": "sst-2"}
RUNS = {
    "causal": ("gpt2", {}, CAUSAL),
    "masked": ("bert", {}, PAPER),
    "seq2seq": ("t5", {}, PAPER),
    "causal, head mode alone": ("gpt2", {"modes": ["head"]}, PAPER),
    "causal, both modes": ("gpt2", {"modes": ["prompt", "head"]}, CAUSAL),
    "a template": ("gpt2", {"template": "{a} I feel"}, (("{a} I feel",), PAPER[1])),
    "words": ("gpt2", {"label_words": ["sad", "happy"]}, (PAPER[0], ("sad", "happy"))),
    "texts of a task": ("gpt2", {"own_tasks": [OWN]}, CAUSAL),
    "a template for texts of a task": (
        "gpt2",
        {"own_tasks": [OWN | {"template": "{a} I feel"}]},
        (("{a} I feel",), PAPER[1]),
    ),
}


@pytest.mark.parametrize(("model", "given", "expected"), RUNS.values(), ids=RUNS)
def test_a_run_takes_the_prompt_of_its_models_kind(prompt_of, model, given, expected):
    assert prompt_of(model, **given) == expected


CHECKS = {
    "causal": ("gpt2", (), CAUSAL[1]),
    "masked": ("bert", (), PAPER[1]),
    "a template": ("gpt2", ("--template", "{a} I feel"), PAPER[1]),
}


@pytest.mark.parametrize(("model", "options", "words"), CHECKS.values(), ids=CHECKS)
def test_the_doctor_takes_it_too(folder, data, lmntk, model, options, words):
    task = "--task", "sst-2", "--data", data
    _, out, _ = lmntk("check", folder / model, *task, *options, "--json")
    found = {finding["check"]: finding for finding in json.loads(out)["findings"]}
    # words that the tiny tokenizer cuts up are named as a fault
    assert found["input"].get("words", found["label words"]["words"]) == list(words)
