"""Chats by every command: what is shown, what is found again and what is not, and mistakes in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from every_kind import Command, kernel_flags, run_flags
from kept import kept_at

from lmntk.experiment.configuration import make_experiment
from lmntk.experiment.run import run

PROMPT = ("--template", "{a} it was", "--label-words", "terrible,great")
WHOLE = "<|endoftext|>user:{a} it was<|endoftext|>it:"
TRAINED = (
    "--optimizers",
    "sgd",
    "--learning-rates",
    "1e-2",
    "--batch-sizes",
    "2",
    "--steps",
    "2",
    "--eval-every",
    "2",
)


def test_the_doctor_shows_the_whole_prompt_and_both_spellings(folder: Path, lmntk: Command) -> None:
    _, out, errors = lmntk("check", folder / "chat", *PROMPT, "--chat", "--json")
    found = {finding["check"]: finding for finding in json.loads(out)["findings"]}
    assert found["input"]["chat"] == WHOLE and repr(WHOLE) in found["input"]["line"], errors
    assert [word["token"] for word in found["label words"]["words"]] == ["terrible", "great"]
    assert found["label words"]["spellings"] == {
        word: {"after a space": [f"Ġ{word}"], "at an answer's beginning": [word]}
        for word in ("terrible", "great")
    }
    assert (
        "'great': after a space one token 'Ġgreat', at an answer's beginning one token 'great'"
        in found["label words"]["line"]
    )


def test_a_date_is_said(folder: Path, tmp_path: Path, lmntk: Command) -> None:
    dated = tmp_path / "dated"
    dated.mkdir()
    for file in (folder / "chat").iterdir():
        (dated / file.name).write_bytes(file.read_bytes())
    template = "{{ strftime_now('%d %b') }}" + (dated / "chat_template.jinja").read_text()
    (dated / "chat_template.jinja").write_text(template)
    code, _, errors = lmntk(
        *kernel_flags(folder, str(dated), ["{a} it was"], "terrible,great", tmp_path / "k"), "--chat"
    )
    assert code == 0 and "the chat template prints a date, which is always 26 July 2024" in errors
    _, out, _ = lmntk("check", dated, *PROMPT, "--chat", "--json")
    (shown,) = (finding for finding in json.loads(out)["findings"] if finding["check"] == "input")
    assert shown["chat"] == f"26 Jul{WHOLE}" and shown["date"] == "26 July 2024"


def test_a_chat_and_a_plain_run_stand_side_by_side(folder: Path, tmp_path: Path, lmntk: Command) -> None:
    out = tmp_path / "out"
    plain, chat = run_flags(folder, "chat", out, *PROMPT), run_flags(folder, "chat", out, *PROMPT, "--chat")
    rows = [json.loads(lmntk.works(*flags)) for flags in (plain, chat)]
    assert lmntk.streams == 2 and rows[0] != rows[1]
    assert len(list((out / "kernels").iterdir())) == 2
    assert [json.loads(lmntk.works(*flags)) for flags in (chat, plain)] == rows[::-1] and lmntk.streams == 2
    # by a file and from Python it is the same run
    fields = {
        "model": str(folder / "chat"), "k": [2], "seeds": [13], "formulas": ["sgd"], "dtype": "float64", "out": str(out),
        "template": "{a} it was", "label_words": ["terrible", "great"], "chat": True,
    }  # fmt: skip
    own = {
        "name": "own",
        "train": str(folder / "train.jsonl"),
        "test": str(folder / "test.jsonl"),
        "text_column": "text_a",
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in fields.items()]
    lines += ["[[own_tasks]]", *(f"{name} = {json.dumps(value)}" for name, value in own.items())]
    (tmp_path / "chat.toml").write_text("\n".join(lines))
    assert json.loads(lmntk.works("run", tmp_path / "chat.toml", "--json")) == rows[1]
    (tmp_path / "one.toml").write_text("\n".join([*lines, "chat = true"]).replace("chat = true\n", "", 1))
    assert json.loads(lmntk.works("run", tmp_path / "one.toml", "--json")) == rows[1]
    assert run(make_experiment(fields | {"own_tasks": [own]})) == rows[1] and lmntk.streams == 2


def test_kernels_of_a_chat_and_of_a_plain_prompt_are_not_mixed(
    folder: Path, tmp_path: Path, lmntk: Command
) -> None:
    flags = kernel_flags(folder, "chat", ["{a} it was"], "terrible,great", tmp_path / "k")
    lmntk.works(*flags, "--chat")
    lmntk.refuses("sgd.safetensors", *flags)
    lmntk.works(*flags, "--chat")
    assert lmntk.streams == 1


def test_a_solved_chat_predicts(folder: Path, tmp_path: Path, lmntk: Command) -> None:
    out = tmp_path / "out"
    lmntk.works(*run_flags(folder, "chat", out, *PROMPT, "--chat", "--save-models"))
    lines = lmntk.works("predict", out, folder / "test.jsonl").splitlines()
    table = [
        line.split("\t")
        for line in kept_at(out / "predictions" / "own-k2-seed13-prompt.tsv").read_text().splitlines()
    ]
    column = table[0].index("sgd ridge")
    assert [json.loads(line)["label"] for line in lines] == [row[column] for row in table[1:]]
    (written,) = out.glob("models/*/predictor.json")
    assert json.loads(written.read_text())["prompt"]["chat"] is True


def test_a_plan_counts_the_whole_chat(folder: Path, tmp_path: Path, lmntk: Command) -> None:
    operations = []
    for more in ((), ("--chat",)):
        plan = ["plan", *run_flags(folder, "chat", tmp_path / "out", *PROMPT, *more)[1:]]
        (found,) = json.loads(lmntk.works(*plan)).values()
        operations.append(next(value for name, value in found.items() if "operations" in name))
    assert operations[1] > 1.2 * operations[0]


@pytest.mark.parametrize("command", ["finetune", pytest.param("diagnose", marks=pytest.mark.slow)])
def test_training_takes_the_chat(folder: Path, tmp_path: Path, lmntk: Command, command: str) -> None:
    kernels = run_flags(folder, "chat", tmp_path, *PROMPT, "--chat")
    rows = json.loads(lmntk.works(*kernels))
    shared = [each for each in kernels[1:] if each not in ("--formulas", "sgd")]
    found = json.loads(lmntk.works(command, *shared, *TRAINED))
    if command == "finetune":
        assert next(row for row in found if row["method"] == "zero-shot")["test"] == rows[0]["test"]
    else:
        assert lmntk.streams == 1  # the run's kernels are found
        assert len(list((tmp_path / "diagnoses").iterdir())) >= 1


WRONG = {
    "a masked model": ("bert", (*PROMPT, "--chat"), "a chat needs a causal model, and this model is not causal"),
    "an encoder-decoder": ("t5", (*PROMPT, "--chat"), "a chat needs a causal model, and this model is not causal"),
    "no chat template": ("gpt2", (*PROMPT, "--chat"), "gpt2' has no chat template; leave chat out"),
    "head mode": ("chat", (*PROMPT, "--chat", "--modes", "head"), "chat: head mode reads no prompt"),
    "a separator": ("chat", ("--template", "{a}{sep}", *PROMPT[2:], "--chat"), "has {sep}, and a chat's message"),
    "too short": ("chat", (*PROMPT, "--chat", "--max-length", "5"), "max_length 5 leaves no room for the text"),
}  # fmt: skip


@pytest.mark.parametrize(("model", "flags", "words"), WRONG.values(), ids=WRONG)
def test_mistakes_of_a_run_are_one_line(
    folder: Path, tmp_path: Path, lmntk: Command, model: str, flags: tuple[str, ...], words: str
) -> None:
    lmntk.refuses(words, *run_flags(folder, model, tmp_path / "out", *flags))
    assert not (tmp_path / "out").exists()


WRONG_CHECKS = {
    "a masked model, no words given": ("bert", ("--chat",), "a chat needs a causal model"),
    "no chat template, no words given": ("gpt2", ("--chat",), "has no chat template"),
    "a masked model": ("bert", (*PROMPT, "--chat"), "a chat needs a causal model"),
    "no chat template": ("gpt2", (*PROMPT, "--chat"), "has no chat template"),
    "head mode": (
        "chat",
        ("--chat", "--mode", "head"),
        "--chat: head mode reads no prompt; leave the option out",
    ),
    "a classifier": ("gpt2-classifier", ("--chat",), "--chat: a classifier reads its own head"),
    "words": (
        "chat",
        (*PROMPT[:3], "superb,great", "--chat"),
        "where an answer begins, with no space before it",
    ),
}


@pytest.mark.parametrize(("model", "flags", "words"), WRONG_CHECKS.values(), ids=WRONG_CHECKS)
def test_mistakes_of_a_check_are_one_line(
    folder: Path, lmntk: Command, model: str, flags: tuple[str, ...], words: str
) -> None:
    lmntk.refuses(words, "check", folder / model, *flags)


def test_head_mode_beside_a_chat_is_as_ever(folder: Path, tmp_path: Path, lmntk: Command) -> None:
    both = json.loads(
        lmntk.works(*run_flags(folder, "chat", tmp_path, *PROMPT, "--chat", "--modes", "prompt,head"))
    )
    head = json.loads(lmntk.works(*run_flags(folder, "chat", tmp_path, "--modes", "head")))
    assert [row for row in both if row["mode"] == "head"] == head


def test_a_chat_is_fitted_and_predicts(folder: Path, tmp_path: Path, lmntk: Command) -> None:
    common = (
        "fit",
        folder / "train.jsonl",
        "--model",
        folder / "chat",
        *PROMPT,
        "--mode",
        "prompt",
        "--text-column",
        "text_a",
    )
    for name, flags in {"chat": ("--chat",), "plain": ()}.items():
        lmntk.works(*common, *flags, "--out", tmp_path / name)
        written = json.loads((tmp_path / name / "predictor.json").read_text())
        assert written["prompt"]["chat"] is bool(flags)
    kernels = [{path.name for path in (tmp_path / name / "kernels").iterdir()} for name in ("chat", "plain")]
    assert not kernels[0] & kernels[1]
    lines = lmntk.works("predict", tmp_path / "chat", folder / "test.jsonl").splitlines()
    assert len(lines) == len((folder / "test.jsonl").read_text().splitlines())
