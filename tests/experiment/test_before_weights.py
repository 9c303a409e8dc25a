"""Mistakes that are said while nothing that computes is imported, and words by class in every command."""

from __future__ import annotations

import html
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny

from lmntk.experiment.configuration import load_experiment
from lmntk.experiment.reading import read_tasks

CommandLine = Callable[..., tuple[int, str, str]]
TEMPLATE = ("--template", "{a} It was {mask}.")
WORDS = ("--label-words", "good=great,bad=terrible")
RUNS = ("run", "plan", "finetune", "diagnose")
SCRIPT = """
import contextlib, io, json, sys
from lmntk.cli.app import main
results = []
for command in json.loads(sys.stdin.read()):
    sys.argv = ["lmntk", *command]
    out, errors, code = io.StringIO(), io.StringIO(), None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            main()
        except SystemExit as stopped:
            code = stopped.code
    heavy = [name for name in ("torch", "transformers", "pandas") if name in sys.modules]
    results.append([code, out.getvalue(), errors.getvalue(), heavy])
    if heavy:
        break
print(json.dumps(results))
"""
# what is changed of a command that is right, and what the line says
MISTAKES: dict[str, tuple[dict[str, str | None], str, tuple[str, ...]]] = {
    "no such file": ({"texts": "no.csv"}, "no.csv does not exist", ()),
    "no such text column": ({"--text-column": "body"}, "there is no column 'body'", ()),
    "no such label column": ({"--label-column": "kind"}, "there is no column 'kind'", ()),
    "no such second column": ({"--text-b-column": "b"}, "there is no column 'b'", ()),
    "a word for no class": (
        {"--label-words": "god=great,bad=terrible"},
        "'god=great' does not belong to a class",
        (),
    ),
    "a class without a word": ({"--label-words": "bad=terrible"}, "class 'good' has no word", ()),
    "too few words": ({"--label-words": "great"}, "1 label words for 2 classes (bad, good)", ()),
    "several labels": ({"texts": "several.jsonl"}, "several labels are not supported", ()),
    "more texts than there are": ({"--k": "9"}, "the largest k possible is 4", RUNS),
    "no texts to validate": ({"--k": "4"}, "no texts are left for validation", RUNS),
    "no test file": ({"--test": "no.csv"}, "no.csv does not exist", RUNS),
    "no test texts": ({"--test": None}, "no test texts", RUNS),
    "an unknown task": ({"--tasks": "sst2", "--data": "."}, "did you mean 'sst-2'?", RUNS),
    "no folder of a task": ({"--tasks": "sst-2", "--data": "nowhere"}, "nowhere does not exist", RUNS),
    "no words": ({"--label-words": None}, "needs a template and label words", RUNS),
    "no model": ({"--model": "./no-model"}, "'./no-model' is not there", RUNS),
    "no checkpoint": ({"--finetuned": "mine"}, "there is no 'mine'", ("diagnose",)),
    "no evaluation texts": ({"--eval": "no.csv"}, "no.csv does not exist", ("kernel",)),
    "a word for no class of a task": (
        {"texts": None, "--task": "sst-2", "--data": ".", "--label-words": "good=great,bad=terrible"},
        "'good=great' does not belong to a class; the classes are negative, positive",
        ("check",),
    ),
    "a prompt in head mode": ({"--mode": "head"}, "head mode reads no prompt", ("check",)),
}
FILE = {"kernel": "--train", "check": "--texts"} | dict.fromkeys(RUNS, "--train")
COMMANDS = (*RUNS, "kernel", "check")
CASES = [(name, command) for name, mistake in MISTAKES.items() for command in mistake[2] or COMMANDS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of 4 texts of each of two classes, and one of texts with several labels."""
    base = tmp_path_factory.mktemp("tables")
    rows = [f"a {label} film {number},{label}" for number in range(4) for label in ("good", "bad")]
    for name in ("train", "test"):
        (base / f"{name}.csv").write_text("\n".join(["message,category", *rows]) + "\n")
    several = [{"message": "a film", "category": ["good", "bad"]}, {"message": "b", "category": ["bad"]}]
    (base / "several.jsonl").write_text("".join(json.dumps(row) + "\n" for row in several))
    (base / "here").mkdir()
    return base


def arguments(command: str, change: dict[str, str | None]) -> list[str]:
    """Return a command with one thing changed: with another file, or an option more, other or left out."""
    change = dict(change)
    options: dict[str, Any] = {
        FILE[command]: change.pop("texts", "train.csv"),
        "--text-column": "message",
        "--label-column": "category",
        TEMPLATE[0]: TEMPLATE[1],
        WORDS[0]: WORDS[1],
    }
    if command in RUNS:
        options |= {"--test": "test.csv", "--k": "2", "--seeds": "13"}
    if command == "kernel":
        options |= {"--eval": "test.csv"}
    if command != "check":
        options |= {"--model": "here", "--out": "out"}
    if "--tasks" in change:
        options = {name: options[name] for name in (*TEMPLATE[:1], "--model", "--out")}
    if "--task" in change:
        options = {name: options[name] for name in (TEMPLATE[0],)}
    options |= change
    flat = [part for option, value in options.items() if value is not None for part in (option, value)]
    return [command, *(["here"] if command == "check" else []), *flat]


@pytest.fixture(scope="module")
def said(folder: Path) -> dict[tuple[str, str], list[Any]]:
    """What each mistake of each command comes to, all in one process, which must stay without heavy libraries."""
    commands = [arguments(command, MISTAKES[name][0]) for name, command in CASES]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
    )
    results = json.loads(done.stdout)
    return dict(zip(CASES, results, strict=False))


@pytest.mark.parametrize(("name", "command"), CASES)
def test_a_mistake_is_one_line_before_anything_is_loaded(
    said: dict[tuple[str, str], list[Any]], name: str, command: str
) -> None:
    assert (name, command) in said, "a mistake before this one imported what computes"
    code, out, errors, heavy = said[name, command]
    assert (code, heavy) == (2, []), errors
    assert out == ""
    lines = [line for line in errors.splitlines() if "separated" not in line]
    assert len(lines) == 1, errors
    assert lines[0].startswith("lmntk: ")
    assert MISTAKES[name][1] in lines[0]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny masked model."""
    return tiny.write_model(tmp_path_factory.mktemp("model"))


MAPPING = "classes: bad = 'terrible', good = 'great'"
FEW = {"run": ("--formulas", "sgd"), "plan": ("--formulas", "sgd"), "kernel": ("--formulas", "sgd")}
FEW |= dict.fromkeys(("finetune", "diagnose"), ("--optimizers", "sgd", "--steps", "1", "--batch-sizes", "2"))


@pytest.mark.parametrize("command", ["run", "plan", "finetune", "kernel", "check"])
def test_the_first_line_is_which_word_stands_for_which_class(
    folder: Path,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command_line: CommandLine,
    command: str,
) -> None:
    monkeypatch.chdir(folder)
    change = {} if command == "check" else {"--out": str(tmp_path), "--model": str(model)}
    few = FEW.get(command, ())
    if command == "finetune":
        few = (*few, "--learning-rates", "1e-3", "--eval-every", "1")
    results = []
    for words in (WORDS[1], "terrible,great")[: 2 if command == "run" else 1]:
        flat = [*arguments(command, change | {WORDS[0]: words}), *few, "--json"]
        flat = [str(model) if part == "here" else part for part in flat]
        code, out, errors = command_line(*flat)
        assert code in (0, 1), errors
        lines = [line for line in errors.splitlines() if "separated" not in line]
        assert lines[0] == MAPPING
        results.append(json.loads(out))
    if command == "run":
        assert results[0] == results[1]  # the same words, by class and in order
        assert f"{MAPPING.replace('classes', 'classes of own')}" in (tmp_path / "summary.md").read_text()
        page = html.unescape((tmp_path / "report.html").read_text())
        assert MAPPING.replace("classes", "classes of own") in page
        assert "label 0" not in page and "class 0" not in page


SIDES = ("train", "dev", "test")


def test_outputs_of_kernel_are_solved(
    folder: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command_line: CommandLine
) -> None:
    monkeypatch.chdir(folder)
    change = {"--model": str(model)}

    def compute(side: str, **more: str | None) -> None:
        files = {"--eval": "train.csv" if side == "train" else "test.csv", "--out": str(tmp_path / side)}
        command = arguments("kernel", change | files | more)
        assert command_line(*command, "--formulas", "sgd")[0] == 0

    def solved() -> tuple[int, str, str]:
        return command_line("solve", "--kernels", tmp_path, "--json")

    compute("train")
    assert "no output of `lmntk kernel` called dev" in solved()[2]
    for side in SIDES[1:]:
        compute(side)
    code, out, errors = solved()
    assert code == 0, errors
    rows = {row["method"]: row for row in json.loads(out)}
    assert {"zero-shot", "sgd ridge"} <= set(rows)
    assert rows["sgd ridge"]["train_texts"] == rows["sgd ridge"]["test_texts"] == 8
    assert "is one output" in command_line("solve", "--kernels", tmp_path / "train")[2]
    (tmp_path / "dev" / "labels.json").unlink()
    assert "run its `lmntk kernel` again" in solved()[2]
    compute("dev")  # the kernels are kept
    assert solved()[1] == out
    for path in (tmp_path / "dev").iterdir():
        path.unlink()
    compute("dev", **{"--template": "{a} {mask}"})
    assert "is of another prompt" in solved()[2]


def test_words_by_class_in_a_file_and_in_python(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(
        f'model = "here"\nk = 2\nseeds = 13\n[[own_tasks]]\nname = "own"\ntrain = "{folder / "train.csv"}"\n'
        f'test = "{folder / "test.csv"}"\ntext_column = "message"\nlabel_column = "category"\n'
        'template = "{a} {mask}"\n[own_tasks.label_words]\ngood = "great"\nbad = "terrible"\n'
    )
    from_file = load_experiment(file, {})
    over = load_experiment(file, {"label_words": {"bad": "awful", "good": "fine"}})
    for experiment, words in ((from_file, ("terrible", "great")), (over, ("awful", "fine"))):
        (task,) = read_tasks(experiment)
        assert (task.labels, task.label_words) == (("bad", "good"), words)
