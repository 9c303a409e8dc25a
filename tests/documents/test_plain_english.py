"""Sentences that readers had to read twice do not come back, and the list of commands is not cut off."""

from __future__ import annotations

import re

import pytest
import typer
from shown import DOCUMENTS, PROJECT

from lmntk.cli.app import app

UNCLEAR = (
    "for that alone on five",
    "gains nothing that can be told",
    "nothing old is taken for new",
    "this model knows nothing",
    "fit to have its kernels taken",
    "a share of it would mean nothing",
    "that were aimed at: 200",
    "rounding noise vote",
    "noise would vote",
)
READ = [*DOCUMENTS, *sorted((PROJECT / "src").rglob("*.py"))]


@pytest.mark.parametrize("phrase", UNCLEAR)
def test_an_unclear_sentence_stays_away(phrase: str) -> None:
    pattern = re.compile(r"[\s\"#]+".join(map(re.escape, phrase.split())))
    assert [str(path) for path in READ if pattern.search(path.read_text(encoding="utf8"))] == []


def test_a_command_is_listed_by_a_whole_sentence() -> None:
    from click.testing import CliRunner

    said = CliRunner().invoke(typer.main.get_command(app), ["--help"]).output
    lines = {line.split()[0]: line for line in said.splitlines() if line.strip()}
    for name in ("fit", "audit", "subspace", "tasks", "check"):
        assert lines[name].endswith("."), lines[name]
        assert not lines[name].endswith("..."), lines[name]
