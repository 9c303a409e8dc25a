"""A path that holds no texts is one line and exit code 2, in every command that reads a file, before a model is looked for."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from lmntk import UserError
from lmntk.prediction.texts import TextSource

CommandLine = Callable[..., tuple[int, str, str]]
MODEL = ("--model", "no-model")
PROMPT = ("--template", "{a} {mask}", "--label-words", "great,terrible")
COMMANDS: dict[str, tuple[str, ...]] = {
    "fit": ("fit", "PATH", *MODEL),
    "audit": ("audit", "PATH", *MODEL),
    "subspace": ("subspace", "PATH", *MODEL),
    "predict": ("predict", "empty-folder", "PATH"),
    "predict with": ("predict", "PATH", "good.csv"),
    "check": ("check", "no-model", "--texts", "PATH"),
    "kernel": ("kernel", *MODEL, "--train", "PATH", "--eval", "good.csv", *PROMPT, "--out", "out"),
    "kernel against": ("kernel", *MODEL, "--train", "good.csv", "--eval", "PATH", *PROMPT, "--out", "out"),
    "run": ("run", *MODEL, "--train", "PATH"),
    "run tested": ("run", *MODEL, "--train", "good.csv", "--test", "PATH"),
    "run of tasks": ("run", *MODEL, "--tasks", "sst-2", "--data", "PATH"),
    "run of a file": ("run", "PATH"),
    "plan": ("plan", *MODEL, "--train", "PATH"),
    "diagnose": ("diagnose", *MODEL, "--train", "PATH"),
    "finetune": ("finetune", *MODEL, "--train", "PATH"),
    "solve": ("solve", "--task", "sst-2", "--kernels", "PATH"),
    "report": ("report", "PATH"),
    "split": ("split", "--task", "sst-2", "--k", "2", "--data", "PATH"),
}
# What the line says: that the path is empty, or its name.
PATHS = {
    "": "empty|give the file",
    " ": "empty",
    ".": "",
    "empty-folder": "empty-folder",
    "missing.csv": "missing.csv",
}
UNREADABLE = "unreadable.csv"


@pytest.fixture
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder to work in, with a table, a folder of nothing, and a file that nobody can read, root neither."""
    monkeypatch.chdir(tmp_path)
    Path("good.csv").write_text("text,label\na,x\nb,y\nc,x\nd,y\n")
    Path("empty-folder").mkdir()
    Path(UNREADABLE).symlink_to("/proc/self/mem")  # its first byte is no memory


@pytest.mark.usefixtures("_folder")
@pytest.mark.parametrize(
    "path", [*PATHS, UNREADABLE], ids=["empty", "blank", "here", "folder", "missing", "unreadable"]
)
@pytest.mark.parametrize("command", COMMANDS)
def test_it_is_one_line(command_line: CommandLine, command: str, path: str) -> None:
    code, out, err = command_line(*(path if word == "PATH" else word for word in COMMANDS[command]))
    lines = [line for line in err.splitlines() if not line.startswith("reading the texts")]
    assert (code, out, len(lines)) == (2, "", 1), err
    assert lines[0].startswith("lmntk: ")
    assert "Traceback" not in err
    if (command, path) != ("predict", UNREADABLE):  # the folder comes first; see below
        assert re.search(PATHS.get(path, path), lines[0])
    assert "no-model" not in lines[0]


@pytest.mark.usefixtures("_folder")
def test_texts_to_predict_that_cannot_be_read_are_named() -> None:
    with pytest.raises(UserError, match=UNREADABLE):
        list(TextSource(UNREADABLE).examples())
