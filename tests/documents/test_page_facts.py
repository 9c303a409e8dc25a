"""What pages say of the code is so: fields of files, error messages, tests that are named, files that are shown."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from shown import DOCUMENTS, PROJECT

SOURCES = sorted((PROJECT / "src" / "lmntk").rglob("*.py"))
HOLE = "\0"  # stands where a message has what is different each time
QUOTED = re.findall(
    r"^> (.+)$", (PROJECT / "docs" / "troubleshooting.md").read_text(encoding="utf8"), re.MULTILINE
)
SHOWN_FILES = [
    pytest.param(page, name, text, id=f"{page.name}: {name}")
    for page in DOCUMENTS
    for name, text in re.findall(
        r"<!-- the file (\S+) -->\n```[a-z]*\n(.*?)^```$",
        page.read_text(encoding="utf8"),
        re.DOTALL | re.MULTILINE,
    )
]
NAMED_TESTS = sorted(
    {
        (page.name, *names)
        for page in DOCUMENTS
        for names in re.findall(r"`(?:(tests/[\w/]+\.py))?::(\w+)`", page.read_text(encoding="utf8"))
    }
)


@cache
def messages() -> list[str]:
    """Return every text in the code, with a hole for each value that is put into it."""
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
            if isinstance(node, ast.JoinedStr):
                found.append(
                    "".join(part.value if isinstance(part, ast.Constant) else HOLE for part in node.values)
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def is_said(quoted: str) -> bool:
    """Return whether the code has a message that a page quotes, up to its end or beyond."""
    pieces = [piece.strip(" '") for piece in quoted.split("…")]
    pattern = re.compile(".*?".join(re.escape(piece) for piece in pieces if piece), re.DOTALL)
    return any(pattern.search(message) for message in messages())


def test_enough_is_quoted() -> None:
    assert len(QUOTED) >= 25 and len(NAMED_TESTS) >= 30 and SHOWN_FILES


@pytest.mark.parametrize("quoted", QUOTED)
def test_a_quoted_message_is_one_of_the_codes(quoted: str) -> None:
    assert sum(len(piece) for piece in quoted.split("…")) > 15
    assert is_said(quoted)


def test_a_message_that_is_nobodys_is_not_found() -> None:
    assert not is_said("model: … is purple; paint it")


def test_the_fields_of_a_file_are_the_configurations() -> None:
    import fields  # tools/fields.py

    text = fields.PAGE.read_text(encoding="utf8")
    assert fields.page_with_fields(text) == text, "python tools/fields.py"
    assert fields.page_with_fields(text.replace("| `seeds` |", "| `seed` |")) == text


@pytest.mark.parametrize(("page", "name", "text"), SHOWN_FILES)
def test_a_shown_file_is_the_file(page: Path, name: str, text: str) -> None:
    assert (PROJECT / name).read_text(encoding="utf8") == text


def test_tests_that_pages_name_are_there() -> None:
    for page in DOCUMENTS:
        file = None
        for path, name in re.findall(r"`(tests/[\w/]+\.py)?::(\w+)`", page.read_text(encoding="utf8")):
            file = path or file
            assert file is not None, (page, name)
            assert f"def {name}(" in (PROJECT / file).read_text(encoding="utf8"), (page, file, name)
