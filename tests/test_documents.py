"""What the documents say is there: links, files, the names of the code, and the imports of their examples."""

from __future__ import annotations

import ast
import re
from importlib import import_module
from pathlib import Path

import pytest

import lmntk

PROJECT = Path(__file__).resolve().parents[1]
PACKAGE = Path(lmntk.__file__).parent
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/*.md")
    for path in PROJECT.glob(pattern)
)  # fmt: skip
FOLDERS = [path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()]


def named(document):
    return str(document.relative_to(PROJECT))


def resolve(dotted):
    """Returns what a dotted name of the package stands for: a module, or an attribute of one."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        try:
            thing = import_module(".".join(["lmntk", *parts[:length]]))
        except ModuleNotFoundError as error:
            if not (error.name or "").startswith("lmntk"):
                raise
            continue
        for part in parts[length:]:
            thing = getattr(thing, part)
        return thing
    raise AttributeError(dotted)


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_links_lead_to_files(document):
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if "://" not in target:
            assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_examples_import_what_is_there(document):
    for block in re.findall(r"```python\n(.*?)```", document.read_text(encoding="utf8"), re.DOTALL):
        imports = [node for node in ast.parse(block).body if isinstance(node, (ast.Import, ast.ImportFrom))]
        # of our own documents, and their imports alone
        exec(compile(ast.Module(imports, []), named(document), "exec"), {})


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_names_of_the_code_are_there(document):
    for name in re.findall(
        rf"`((?:{'|'.join(FOLDERS)})(?:\.\w+)+)(?<!\.py)(?<!\.json)`", document.read_text(encoding="utf8")
    ):
        resolve(name)


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_files_of_the_code_are_there(document):
    for name in re.findall(r"`([\w/.-]+(?:\.pyi?|/))`", document.read_text(encoding="utf8")):
        if name.split("/")[0] in (*FOLDERS, "src", "tests", "docs", "tools", "benchmarks"):
            assert (PACKAGE / name).exists() or (PROJECT / name).exists(), name


def test_nothing_refers_to_what_is_not_in_the_repository():
    outside = re.compile(r"\bSPEC\b|\bDESIGN\b|\.\./shared")
    code = (path for folder in ("src", "benchmarks", "tools") for path in (PROJECT / folder).rglob("*.py"))
    for path in (*DOCUMENTS, *code):
        assert not outside.search(path.read_text(encoding="utf8")), path


def test_every_folder_has_its_line_in_the_architecture():
    text = (PROJECT / "docs" / "architecture.md").read_text(encoding="utf8")
    for folder in FOLDERS:
        assert re.search(rf"^{folder}/ ", text, re.MULTILINE), folder
