"""Whole commands on every kind of model: mistakes in one line, and what is found again and what is not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from every_kind import Command, kernel_flags, run_flags

# --- mistakes ---------------------------------------------------------------------------------------------------------------------

WRONG_KERNELS = {
    "an unknown kind": (
        "gpt2",
        {"--kind": "causl"},
        "kind: 'causl' is not one of auto, masked, causal, seq2seq, classifier",
    ),
    "another kind": (
        "gpt2",
        {"--kind": "masked"},
        "which has no masked-language-model head; it can be loaded as causal",
    ),
    "an encoder as causal": ("bert", {"--kind": "causal"}, "which has no causal-language-model head"),
    "a kind without its head": (
        "bert",
        {"--kind": "classifier"},
        "prompt mode: a classifier has no vocabulary",
    ),
    "a classifier": ("classifier", {}, "prompt mode: a classifier has no vocabulary"),
    "a classifier, untied": (
        "classifier",
        {"--untie-head": None},
        "prompt mode: a classifier has no vocabulary",
    ),
    "a classifier's adapter": ("lora-classifier", {}, "prompt mode: a classifier has no vocabulary"),
    "an adapter on the head, untied": (
        "lora-head-bert",
        {"--untie-head": None},
        "is on the tied head itself",
    ),
    "a folder's revision": ("bert", {"--revision": "main"}, "is a folder, which has no revision 'main'"),
    "an adapter's folder's revision": (
        "lora-bert",
        {"--revision": "main"},
        "is a folder, which has no revision 'main'",
    ),
    "a base of a whole model": ("bert", {"--base": "gpt2"}, "is a whole model, not an adapter"),
    "a word of several tokens": (
        "bert",
        {"--label-words": "terrible,superb"},
        "or pass --label-words-reduce mean or first",
    ),
    "an unknown reduction": ("bert", {"--label-words-reduce": "last"}, "'last' is neither first nor mean"),
    "no label words": ("gpt2", {"--label-words": ""}, "0 label words for 2 classes"),
    "an empty label word": ("gpt2", {"--label-words": "terrible,"}, "1 label words for 2 classes"),
    "an empty one of several": ("gpt2", {"--label-words": "terrible,great|"}, "have an empty one beside '|'"),
    "the same classes": ("gpt2", {"--label-words": "bad|terrible,terrible|bad"}, "is the same tokens as"),
    "a text after the mask": ("gpt2", {"--template": "{mask}? it was {a}"}, "begins with the mask"),
    "another text after the mask": (
        "gpt2",
        {"--template": "{a} it was {mask}, {a}"},
        "puts a text after the mask",
    ),
    "no template": ("gpt2", {"--template": ""}, "has no text"),
    "no mask": ("bert", {"--template": "{a} it was"}, "has no mask"),
}


@pytest.mark.parametrize(("model", "changes", "words"), WRONG_KERNELS.values(), ids=WRONG_KERNELS)
def test_mistakes_of_a_kernel_are_one_line(
    folder: Path, tmp_path: Path, lmntk: Command, model: str, changes: dict[str, str | None], words: str
) -> None:
    flags: dict[str, object] = {
        "--model": folder / model,
        "--train": folder / "few.jsonl",
        "--eval": folder / "other.jsonl",
    }
    flags |= {"--template": "{a} it was {mask}", "--label-words": "terrible,great", "--out": tmp_path / "k"}
    lmntk.refuses(
        words, "kernel", *(part for pair in (flags | changes).items() for part in pair if part is not None)
    )
    assert not (tmp_path / "k").exists()


PROMPT = ("--template", "{a} it was {mask}", "--label-words", "terrible,great")
WRONG_RUNS = {
    "an unknown kind": (
        "gpt2",
        [*PROMPT, "--kind", "causl"],
        "kind: Input should be 'auto', 'masked', 'causal', 'seq2seq' or 'classifier'",
    ),
    "another kind": (
        "t5",
        [*PROMPT, "--kind", "causal"],
        "which has no causal-language-model head; it can be loaded as seq2seq",
    ),
    "a head that was never trained": (
        "bert",
        ["--modes", "head", "--kind", "classifier"],
        "no classification head",
    ),
    "a classifier's prompt": ("classifier", PROMPT, "prompt mode: a classifier has no vocabulary"),
    "a classifier's prompt and head": (
        "classifier",
        [*PROMPT, "--modes", "prompt,head"],
        "prompt mode: a classifier has no vocabulary",
    ),
    "a classifier's vocabulary": (
        "classifier",
        ["--modes", "head", "--untie-head"],
        "has no head over a vocabulary",
    ),
    "a folder's revision": (
        "gpt2",
        [*PROMPT, "--revision", "main"],
        "is a folder, which has no revision 'main'",
    ),
    "a word of several tokens": (
        "gpt2",
        [*PROMPT[:3], "terrible,superb"],
        "or pass --label-words-reduce mean or first",
    ),
    "an unknown reduction": (
        "gpt2",
        [*PROMPT, "--label-words-reduce", "last"],
        "'first' or 'mean' (given: 'last')",
    ),
    "no label words": ("gpt2", [*PROMPT[:3], ""], "needs a template and label words"),
    "an empty label word": ("gpt2", [*PROMPT[:3], "terrible,"], "1 label words for 2 classes"),
    "a template twice": ("gpt2", [*PROMPT, "--template", "{a} it was", "--ensemble"], "is given twice"),
    "templates that are not said to be averaged": (
        "gpt2",
        [*PROMPT, "--template", "{a} is"],
        "2 templates are given; --ensemble takes the mean",
    ),
    "an ensemble of one": ("gpt2", [*PROMPT, "--ensemble"], "ensemble: it needs several templates"),
    "an empty template": ("gpt2", ["--template", "", *PROMPT[2:]], "has no text"),
    "a text after the mask": (
        "gpt2",
        ["--template", "it was {mask}, {a}", *PROMPT[2:]],
        "puts a text after the mask",
    ),
}


@pytest.mark.parametrize(("model", "flags", "words"), WRONG_RUNS.values(), ids=WRONG_RUNS)
def test_mistakes_of_a_run_are_one_line(
    folder: Path, tmp_path: Path, lmntk: Command, model: str, flags: Sequence[str], words: str
) -> None:
    lmntk.refuses(words, *run_flags(folder, model, tmp_path / "out", *flags))
    assert not (tmp_path / "out").exists()


# --- what is found again ----------------------------------------------------------------------------------------------------------

CHANGES: dict[str, tuple[list[str], list[str]]] = {
    "a further template": (
        ["--template", "{a} it was {mask}"],
        ["--template", "{a} it was {mask}", "--template", "{a} is {mask}", "--ensemble"],
    ),
    "another order of templates": (
        ["--template", "{a} it was {mask}", "--template", "{a} is {mask}", "--ensemble"],
        ["--template", "{a} is {mask}", "--template", "{a} it was {mask}", "--ensemble"],
    ),
    "another of several templates": (
        ["--template", "{a} it was {mask}", "--template", "{a} is {mask}", "--ensemble"],
        ["--template", "{a} it was {mask}", "--template", "{a} was {mask}", "--ensemble"],
    ),
    "another reduction": (
        [
            "--template",
            "{a} it was {mask}",
            "--label-words",
            "terrible,superb",
            "--label-words-reduce",
            "first",
        ],
        [
            "--template",
            "{a} it was {mask}",
            "--label-words",
            "terrible,superb",
            "--label-words-reduce",
            "mean",
        ],
    ),
    "a further word of a class": (
        ["--template", "{a} it was {mask}", "--label-words", "terrible,great"],
        ["--template", "{a} it was {mask}", "--label-words", "terrible,great|good"],
    ),
}


def test_several_templates_are_averaged_when_asked_which_is_said(
    folder: Path, tmp_path: Path, lmntk: Command
) -> None:
    """A file of an earlier version has a list of templates alone, and means the same."""
    pair, words = ["{a} it was {mask}", "{a} is {mask}"], ("--label-words", "terrible,great")
    flags = [part for template in pair for part in ("--template", template)]
    asked = lmntk(*run_flags(folder, "bert", tmp_path / "a", *words, *flags, "--ensemble"))
    file = tmp_path / "earlier.toml"
    file.write_text(f"template = {json.dumps(pair)}\n", encoding="utf8")
    command, *rest = run_flags(folder, "bert", tmp_path / "b", *words)
    earlier = lmntk(command, file, *rest)
    assert asked[:2] == earlier[:2]
    for code, _, errors in (asked, earlier):
        assert code == 0, errors
        assert "the mean of the logits of 2 templates is taken" in errors


@pytest.mark.one_in(2)
@pytest.mark.parametrize(("before", "after"), CHANGES.values(), ids=CHANGES)
def test_another_prompt_is_never_an_old_result(
    folder: Path, tmp_path: Path, lmntk: Command, before: list[str], after: list[str]
) -> None:
    words = [] if "--label-words" in before else ["--label-words", "terrible,great"]
    for count, flags in ((1, before), (1, before), (2, after), (2, after), (2, before)):
        lmntk.works(*run_flags(folder, "bert", tmp_path / "out", *words, *flags))
        assert lmntk.streams == count
    texts = [
        "--train",
        folder / "few.jsonl",
        "--eval",
        folder / "other.jsonl",
        "--formulas",
        "sgd",
        "--out",
        tmp_path / "k",
    ]
    # `kernel` averages what it is given, and has no option for that
    before, after = ([flag for flag in flags if flag != "--ensemble"] for flags in (before, after))
    lmntk.works("kernel", "--model", folder / "bert", *texts, *words, *before)
    lmntk.refuses("is of another", "kernel", "--model", folder / "bert", *texts, *words, *after)
    assert "earlier run" in lmntk.works("kernel", "--model", folder / "bert", *texts, *words, *before)
    assert lmntk.streams == 3


def test_a_file_says_the_same_as_flags(folder: Path, tmp_path: Path, lmntk: Command) -> None:
    prompts, words = ["{a} it was {mask}.", "a {mask} film, {a}"], "terrible|bad,superb"
    flags = [part for prompt in prompts for part in ("--template", prompt)] + [
        "--label-words",
        words,
        "--label-words-reduce",
        "mean",
        "--ensemble",
    ]
    rows = json.loads(lmntk.works(*run_flags(folder, "bert", tmp_path / "out", *flags, "--kind", "masked")))
    fields = {
        "model": str(folder / "bert"),
        "k": [2],
        "seeds": [13],
        "formulas": ["sgd"],
        "dtype": "float64",
        "out": str(tmp_path / "out"),
    }
    fields |= {"kind": "auto", "label_words_reduce": "mean"}
    own = {
        "name": "own",
        "train": str(folder / "train.jsonl"),
        "test": str(folder / "test.jsonl"),
        "text_column": "text_a",
    }
    for written in (words, words.split(",")):
        task = own | {"template": prompts, "label_words": written}
        lines = [f"{name} = {json.dumps(value)}" for name, value in fields.items()]
        lines += ["[[own_tasks]]", *(f"{name} = {json.dumps(value)}" for name, value in task.items())]
        (tmp_path / "experiment.toml").write_text("\n".join(lines))
        assert json.loads(lmntk.works("run", tmp_path / "experiment.toml", "--json")) == rows
    assert lmntk.streams == 1


def test_other_features_are_never_an_old_result(folder: Path, tmp_path: Path, lmntk: Command) -> None:
    found = []
    for count, kind in ((1, "read"), (2, "mean"), (2, "mean"), (2, "read")):
        found.append(
            json.loads(
                lmntk.works(*run_flags(folder, "gpt2", tmp_path, "--modes", "head", "--features", kind))
            )
        )
        assert lmntk.streams == count
    assert found[0] == found[3] and found[1] == found[2]


def test_another_kind_is_never_an_old_result(folder: Path, tmp_path: Path, lmntk: Command) -> None:
    """One folder's weights as two kinds: the classifier's head is left out of the masked model, whose own is missing."""
    flags = run_flags(folder, "classifier", tmp_path, "--modes", "head")
    own = json.loads(lmntk.works(*flags))
    probe = json.loads(lmntk.works(*flags, "--kind", "masked"))
    assert lmntk.streams == 2 and own[0]["method"] == "own head" and probe[0]["method"] == "linear probe"
    assert json.loads(lmntk.works(*flags, "--kind", "classifier")) == own
    assert lmntk.streams == 2  # the files of both lie side by side


def test_an_adapter_is_never_taken_for_its_base(folder: Path, tmp_path: Path, lmntk: Command) -> None:
    prompt = ["--template", "{a} it was {mask}.", "--label-words", "terrible,great"]
    for count, model in ((1, "bert"), (2, "lora-bert"), (2, "lora-bert"), (2, "bert")):
        lmntk.works(*run_flags(folder, model, tmp_path / "out", *prompt))
        assert lmntk.streams == count
    lmntk.works(*kernel_flags(folder, "bert", prompt[1:2], prompt[3], tmp_path / "k"))
    lmntk.refuses(
        "is of another model", *kernel_flags(folder, "lora-bert", prompt[1:2], prompt[3], tmp_path / "k")
    )
