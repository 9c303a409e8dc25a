"""What the pages show is run as a reader would, and prints what they say; a page says of each block that is not run why it is not.

Progress and notices go to stderr, which pages leave out. A model of the hub is a stand-in: a local server has a tiny one of that name.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import HubServer
from shown import DOCUMENTS, PROJECT, Block, blocks_of, differences

from lmntk.bundled import MODEL

WITH_CODE = [page for page in DOCUMENTS if blocks_of(page)]
NOT_READERS = {
    "CHANGELOG.md",
    "CONTRIBUTING.md",
}  # their commands' options are checked, in test_shown_commands.py
COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"


QUICK = {"README.md", "any-module.md", "files.md"}  # the others load the model again


def cases(language: str) -> list:
    """Return the pages that have blocks of a language to be run; commands are slow, and most of Python."""
    pages = [page for page in WITH_CODE if page.name not in NOT_READERS]
    return [
        pytest.param(
            page,
            id=str(page.relative_to(PROJECT)),
            marks=[] if language == "python" and page.name in QUICK else [pytest.mark.slow],
        )
        for page in pages
        if any(
            block.language == language and not block.mark.startswith("not run") for block in blocks_of(page)
        )
    ]


def to_run(page: Path, language: str) -> list[Block]:
    """Return a page's blocks of a language that are run."""
    return [
        each for each in blocks_of(page) if each.language == language and not each.mark.startswith("not run")
    ]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A reader's folder: the examples stand where they do in the project."""
    shutil.copytree(PROJECT / "docs" / "examples", tmp_path / "docs" / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", cases("python"))
def test_python_prints_what_the_page_says(page: Path, folder: Path) -> None:
    namespace: dict[str, object] = {}
    for block in to_run(page, "python"):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block.text, str(page), "exec"), namespace)  # our own page
        assert block.printed is not None or printed.getvalue() == ""
        assert differences(printed.getvalue(), block.printed or "") == []


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory):
    """A hub on this machine, with a tiny causal model under the name that pages use."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    model = tmp_path_factory.mktemp("hub") / "model"
    tokenizer = AutoTokenizer.from_pretrained(str(MODEL))
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=256,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=0,
        )
    ).save_pretrained(model)
    tokenizer.save_pretrained(model)
    with HubServer({HUB_MODEL: {COMMIT: model}}) as server:
        yield server


def environment(folder: Path, hub: HubServer) -> dict[str, str]:
    """Return an environment in which ``lmntk`` is this checkout's, and the hub is the local one."""
    programs = folder / "programs"
    programs.mkdir()
    (programs / "lmntk").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m lmntk "$@"\n')
    (programs / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "HF_HOME")}
    return kept | {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(PROJECT / "src"),
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(folder / "cache"),
        "COLUMNS": "160",
    }


@pytest.mark.parametrize("page", cases("bash"))
def test_commands_print_what_the_page_says(page: Path, folder: Path, hub: HubServer) -> None:
    variables = environment(folder, hub)
    before = ""
    for block in to_run(page, "bash"):
        result = subprocess.run(
            ["bash", "-ec", before + block.text],
            env=variables, capture_output=True, text=True, check=False, timeout=1200, cwd=folder,
        )  # fmt: skip
        assert result.returncode == 0, f"{block.text}\n{result.stdout}\n{result.stderr}"
        before += "".join(f"{line}\n" for line in block.text.splitlines() if line.startswith("MODEL="))
        if block.printed is not None:
            figures = not block.mark.startswith("figures")
            assert differences(result.stdout, block.printed, figures=figures) == [], result.stdout


def test_what_is_not_run_says_why() -> None:
    for page in WITH_CODE:
        for block in blocks_of(page):
            if block.mark.startswith("not run"):
                assert len(block.mark.removeprefix("not run:").strip()) > 10, (page, block.text)


def test_the_first_pages_the_tutorials_and_the_examples_on_the_bundled_model_are_run() -> None:
    run = {str(case.values[0].relative_to(PROJECT)) for case in (*cases("python"), *cases("bash"))}
    tutorials = {str(page.relative_to(PROJECT)) for page in (PROJECT / "docs" / "tutorials").glob("*.md")}
    pages = ("index", "fit", "models", "subspaces", "explain", "prompts", "diagnosis")
    assert {"README.md", *(f"docs/{name}.md" for name in pages), *tutorials} <= run
