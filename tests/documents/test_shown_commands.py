"""Every command that any page shows is one that lmntk takes, option by option; and the comparison of outputs can fail."""

from __future__ import annotations

import pytest
import typer
from shown import DOCUMENTS, PROJECT, differences, lmntk_commands

from lmntk.cli.app import app

CASES = [
    pytest.param(words, id=f"{page.relative_to(PROJECT)}: {' '.join(words)[:60]}")
    for page in DOCUMENTS
    for words in lmntk_commands(page)
]


@pytest.fixture(scope="module")
def commands() -> dict:
    """The commands by name, as the command line's library has them."""
    return typer.main.get_command(app).commands


def options_of(words: list[str]) -> list[str]:
    """Return the options among a command's words."""
    return [word.split("=")[0] for word in words if word.startswith("--")]


def test_commands_are_found() -> None:
    assert len(CASES) > 40


@pytest.mark.parametrize("words", CASES)
def test_a_shown_command_has_options_that_exist(commands: dict, words: list[str]) -> None:
    if words == ["COMMAND", "--help"]:
        return
    command = commands[words[0]]
    parameters = command.get_params(command.context_class(command))
    known = {option for each in parameters for option in (*each.opts, *each.secondary_opts)}
    assert set(options_of(words[1:])) <= {*known}


@pytest.mark.parametrize(
    ("printed", "said", "figures", "agree"),
    [
        ("a 1.00\nb 2", "a 1.01\nb 2", True, True),
        ("a 1.00", "a 1.50", True, False),
        ("a 1.00", "a 1.50", False, True),
        ("a 1.00", "b 1.00", False, False),
        ("a\nb\nc", "a\n...\nc", True, True),
        ("a\nb\nc", "a\nc", True, False),
        ("a\nb", "a", True, False),
        ("a\nb", "a\n...", True, True),
        ("a", "a\nb", True, False),
        ("a (1.2 a second); 3", "a (… a second); 3", True, True),
        ("a (1.2 a second); 4", "a (… a second); 3", True, False),
    ],
)
def test_outputs_are_compared(printed: str, said: str, figures: bool, agree: bool) -> None:
    assert (differences(printed, said, figures=figures) == []) == agree
