"""The commands in the documents about explanations are commands: each parses, option by option."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from lmntk.cli.app import app

PROJECT = Path(__file__).resolve().parents[2]
COMMANDS = [
    (document.name, line)
    for document in (PROJECT / "docs/explain.md", PROJECT / "README.md")
    for line in re.findall(r"^(?:\$ )?(lmntk (?:explain|next|audit|fit) (?:.*\\\n)*.+)", document.read_text(encoding="utf8"), re.MULTILINE)
]  # fmt: skip


@pytest.mark.parametrize(("document", "line"), COMMANDS)
def test_a_command_of_a_document_parses(document: str, line: str) -> None:
    assert document
    _, name, *arguments = shlex.split(line.replace("\\\n", " "))
    group = typer.main.get_command(app)
    command = group.get_command(None, name)  # type: ignore[attr-defined]
    context = command.make_context(name, list(arguments))
    assert context.params


def test_there_are_such_commands() -> None:
    assert {name for name, _ in COMMANDS} == {"explain.md", "README.md"}
    assert any("--relabel" in line for _, line in COMMANDS)
