"""Commands as typer sees them: shared options in their place, each with an example, none with a heavy import."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Annotated, Any

import pytest
import typer

from lmntk.cli.app import app
from lmntk.cli.options import JsonOption, computing, with_computing

COMMANDS = {
    command.callback.__name__: command.callback
    for command in app.registered_commands
    if command.callback is not None
}
SHARED = list(inspect.signature(computing).parameters)


def test_options_of_computing_stand_where_they_are_asked_for():
    got: dict[str, Any] = {}

    @with_computing(before="after")
    def command(
        first: int = 1,
        after: Annotated[bool, typer.Option("--after")] = False,
        as_json: JsonOption = False,
        **computing: Any,
    ) -> None:
        got.update(computing, first=first, after=after)

    assert list(inspect.signature(command).parameters) == ["first", *SHARED, "after", "as_json"]
    alone = typer.Typer(add_completion=False)
    alone.command()(command)
    alone(["--memory", "4GiB", "--all-logits", "--after"], standalone_mode=False)
    assert (got["memory"], got["all_logits"], got["groups"], got["first"], got["after"]) == (
        "4GiB",
        True,
        False,
        1,
        True,
    )


@pytest.mark.parametrize("name", ["run", "plan", "kernel"])
def test_commands_that_compute_kernels_share_their_options(name):
    parameters = list(inspect.signature(COMMANDS[name]).parameters)
    start = parameters.index(SHARED[0])
    assert parameters[start : start + len(SHARED)] == SHARED


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_and_prints_json(name):
    assert "Example: lmntk" in (COMMANDS[name].__doc__ or "")
    assert "as_json" in inspect.signature(COMMANDS[name]).parameters


def test_no_command_imports_what_is_heavy():
    script = "import sys, lmntk.cli.app; print(*(set(sys.modules) & {'torch', 'transformers', 'numpy', 'pydantic', 'pandas', 'sklearn'}))"
    assert (
        subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        ).stdout.split()
        == []
    )
