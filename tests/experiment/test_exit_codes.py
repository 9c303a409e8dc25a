"""The exit code says whether a command did what it was asked: 0 only then."""

from __future__ import annotations

import errno
import sys

import pytest
import typer

from lmntk.cli import app as module
from lmntk.errors import ModelError, UserError


@pytest.mark.parametrize(
    ("ending", "code", "words"),
    [
        (UserError("k: 0 is too few"), 2, "lmntk: k: 0 is too few"),
        (ModelError("no logits"), 2, "lmntk: model: no logits; `lmntk check` says more"),
        (OSError(errno.ENOSPC, "full"), 2, "lmntk: the disk is full"),
        (OSError(errno.EDQUOT, "full"), 2, "lmntk: the disk is full"),
        (KeyboardInterrupt(), 130, "lmntk: interrupted"),
        (typer.Abort(), 130, "lmntk: interrupted"),
        (None, 0, ""),
        (0, 0, ""),
        (1, 1, ""),  # of a command that ends by typer.Exit(1), as a check that finds a fault does
    ],
)
def test_of_each_ending(monkeypatch, capsys, ending, code, words):
    def ends(**_):
        if isinstance(ending, BaseException):
            raise ending
        return ending

    monkeypatch.setattr(module, "app", ends)
    with pytest.raises(SystemExit) as ended:
        module.main()
    printed = capsys.readouterr()
    assert (ended.value.code, printed.out) == (code, "")
    assert printed.err.startswith(words) and printed.err.count("\n") == (1 if words else 0)


def test_of_a_word_that_is_no_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lmntk", "no-such-command"])
    with pytest.raises(SystemExit) as ended:
        module.main()
    printed = capsys.readouterr()
    assert (ended.value.code, printed.out) == (2, "") and "no-such-command" in printed.err


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "denied"), ValueError("ours")])
def test_what_is_our_bug_is_raised(monkeypatch, error):
    def ends(**_):
        raise error

    monkeypatch.setattr(module, "app", ends)
    with pytest.raises(type(error)):
        module.main()
