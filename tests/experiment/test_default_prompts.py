"""Prompts of a run: by default one for causal models and the paper's for others; the same template however it is written."""

from __future__ import annotations

import json

import pytest
from every_kind import run_flags
from tiny import write_rows

from lmntk.experiment import kernel_files
from lmntk.experiment.configuration import TextKernels, from_flags, load_experiment, make_experiment
from lmntk.experiment.preparation import prepare_tasks
from lmntk.experiment.reading import read_tasks
from lmntk.models.loading import load_pretrained
from lmntk.prompts import Limits, PromptEncoder
from lmntk.tasks import Example

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
        experiment = make_experiment(fields | given)
        (task,) = prepare_tasks(experiment, read_tasks(experiment), loaded[model])
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


SAME = "Review: {a}\nSentiment:"
AS_FLAGS = {"backslash n": SAME.replace("\n", "\\n"), "a new line": SAME}
AS_TOML = {
    "a basic string": r'"Review: {a}\nSentiment:"',
    "a literal string": r"'Review: {a}\nSentiment:'",
    "of several lines": '"""\nReview: {a}\nSentiment:"""',
    "a list": r'["Review: {a}\nSentiment:"]',
}


LINES = {  # as the shell, a file or Python has it: what the prompt says
    "backslash n": (r"Review: {a}\nSentiment:", SAME),
    "a new line": (SAME, SAME),
    "Windows": ("Review: {a}\r\nSentiment:", SAME),
    "a literal backslash n": (r"Review: {a}\\nSentiment:", r"Review: {a}\nSentiment:"),
}
DOORS = ("python", "toml basic", "toml literal", "kernel", "chat")
AT_DOORS = [
    *((line, door) for line in LINES for door in DOORS if (line, door) != ("Windows", "toml literal")),
    ("a literal backslash n", "check"),
]


@pytest.mark.parametrize(("line", "door"), AT_DOORS)
def test_a_new_line_at_every_door(folder, tmp_path, lmntk, line, door):
    """The tokens of the prompt are those of its words as they are meant, and the text's."""
    template, said = LINES[line]
    pretrained = load_pretrained(str(folder / "chat"))
    words, limits = ["terrible", "great"], Limits(60)
    text = Example("a fun film")
    expected = pretrained.tokenizer(said.format(a=text.text_a))["input_ids"]
    if door == "python":
        encoder = PromptEncoder(pretrained.tokenizer, template, words, limits, reading="last")
    elif door == "chat":
        encoder = PromptEncoder(pretrained.tokenizer, template, words, limits, reading="last", chat=True)
        expected = pretrained.tokenizer(encoder.chat.replace("{a}", text.text_a))["input_ids"]
        assert said in encoder.chat
    elif door.startswith("toml"):
        quotes = "'''" if door == "toml literal" else '"'
        shown = quotes + template + quotes if door == "toml literal" else json.dumps(template)
        own = f'[[own_tasks]]\nname = "own"\ntrain = {str(folder / "train.jsonl")!r}\ntest = {str(folder / "test.jsonl")!r}'
        lines = [
            f"model = {str(folder / 'chat')!r}",
            f"template = {shown}",
            f"label_words = {words}",
            "k = 2",
            "seeds = 13",
        ]
        (tmp_path / "run.toml").write_text("\n".join([*lines, own, 'text_column = "text_a"']))
        experiment = load_experiment(tmp_path / "run.toml", {})
        (task,) = prepare_tasks(experiment, read_tasks(experiment), pretrained)
        encoder = task.encoder(pretrained, "prompt")
    elif door == "kernel":
        wanted = {
            "model": "m",
            "train": "t",
            "evaluate": "e",
            "out": "o",
            "template": (template,),
            "label_words": words,
        }
        encoder = kernel_files._encoder(from_flags(TextKernels, wanted), words, pretrained)
    else:
        _, out, _ = lmntk(
            "check", folder / "chat", "--template", template, "--label-words", "terrible,great", "--json"
        )
        (shown,) = (finding for finding in json.loads(out)["findings"] if finding["check"] == "input")
        encoder = PromptEncoder(pretrained.tokenizer, shown["templates"][0], words, limits, reading="last")
    assert list(encoder.encode(text).ids) == expected


def test_a_new_line_is_the_same_by_flag_by_file_and_in_python(folder, tmp_path, lmntk):
    words, out = ["--label-words", "terrible,great"], tmp_path / "out"
    rows = [
        json.loads(lmntk.works(*run_flags(folder, "gpt2", out, "--template", template, *words)))
        for template in AS_FLAGS.values()
    ]
    fields = {
        "model": str(folder / "gpt2"),
        "k": [2],
        "seeds": [13],
        "formulas": ["sgd"],
        "dtype": "float64",
        "out": str(out),
    }
    texts = {
        "train": str(folder / "train.jsonl"),
        "test": str(folder / "test.jsonl"),
        "text_column": "text_a",
    }
    own = texts | {"name": "own", "label_words": ["terrible", "great"]}
    for written in AS_TOML.values():
        lines = [f"{name} = {json.dumps(value)}" for name, value in fields.items()]
        lines += ["[[own_tasks]]", *(f"{name} = {json.dumps(value)}" for name, value in own.items())]
        (tmp_path / "experiment.toml").write_text("\n".join([*lines, f"template = {written}"]))
        rows.append(json.loads(lmntk.works("run", tmp_path / "experiment.toml", "--json")))
    assert all(each == rows[0] for each in rows) and lmntk.streams == 1
    pretrained = load_pretrained(str(folder / "gpt2"))
    for template in AS_FLAGS.values():
        experiment = make_experiment(fields | {"own_tasks": [own | {"template": template}]})
        (task,) = prepare_tasks(experiment, read_tasks(experiment), pretrained)
        assert task.templates == (SAME,)
    page = (out / "report.html").read_text()
    assert r"Review: {a}\nSentiment:" in page
    assert (
        lmntk.works(*run_flags(folder, "gpt2", out, "--template", "Review: {a} Sentiment:", *words))
        and lmntk.streams == 2
    )
