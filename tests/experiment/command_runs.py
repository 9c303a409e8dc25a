"""The command line in this process, on small tables and models."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from unittest import mock

import pytest
from tiny import write_model, write_rows

from lmntk.cli.app import main

PROMPT = ["--template", "{a} it was {mask}.", "--label-words", "terrible,great"]


def lmntk(*arguments):
    """The command in this process, with what it prints and the code that it ends with."""
    argv, out, errors = ["lmntk", *map(str, arguments)], io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", argv),
        mock.patch.dict(os.environ, {"COLUMNS": "200"}),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(errors),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    return subprocess.CompletedProcess(argv, ended.value.code, out.getvalue(), errors.getvalue())


def write_inputs(base):
    """Write two models and tables of texts to a folder, and return it."""
    write_model(base / "model")
    write_model(base / "other", seed=1)
    write_rows(base / "train.jsonl", 12)
    write_rows(base / "eval.jsonl", 7, offset=1)
    (base / "empty.jsonl").write_text("")
    (base / "broken.jsonl").write_text('{"text_a": "a film", "label": 0}\n{"text_a": \n')
    return base


def kernel_flags(folder, **changes):
    flags = {"--model": folder / "model", "--train": folder / "train.jsonl", "--eval": folder / "eval.jsonl"}
    flags |= {"--template": PROMPT[1], "--label-words": PROMPT[3], "--out": folder / "kernels"}
    flags |= {f"--{name.replace('_', '-')}": value for name, value in changes.items()}
    return [part for flag, value in flags.items() for part in (flag, value)]


def assert_mistake(result, words):
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr and result.stdout == ""
    # which word stands for which class is said before anything is computed
    lines = [line for line in result.stderr.splitlines() if line.strip() and not line.startswith("classes: ")]
    assert len(lines) == 1, lines
    assert words in lines[0], lines[0]
