"""Mistakes of ``lmntk predict``: one line, exit code 2, and said before torch or transformers are imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lmntk.prediction.description import DESCRIPTION, FORMAT
from lmntk.system.kept import write_record

CHILD = """
import contextlib, io, json, sys
from lmntk.cli import app
for arguments in json.load(sys.stdin):
    errors, out = io.StringIO(), io.StringIO()
    sys.argv, code = ["lmntk", *arguments], None
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(out):
        try:
            app.main()
        except SystemExit as stopped:
            code = stopped.code
    heavy = [name for name in ("torch", "transformers", "pandas") if name in sys.modules]
    print(json.dumps([code, out.getvalue(), errors.getvalue(), heavy]))
"""
DESCRIBED: dict[str, Any] = {
    "format": FORMAT, "split": "films-k4-seed13-prompt", "dev": 0.5, "mode": "prompt", "labels": ["bad", "good"],
    "model": {
        "name": "nowhere", "fingerprint": "0", "kind": "masked", "base": None, "revision": None, "dtype": "float32",
        "attention": None, "untied": False, "difference": True, "features": "read",
    },
    "prompt": {"templates": ["{a} it was {mask}."], "label_words": ["bad", "good"], "reduce": "mean", "max_length": 64,
               "text_a_limit": None},
    "solution": {"method": "sgd ridge", "intercept": 0.0, "f0_scale": "inf", "sharpness": 1.0},
}  # fmt: skip
HEADER = "message;amount\n"

CASES = {
    "a column that is not there": (
        ["run", "table.csv"],
        "table.csv line 2: there is no column 'text'; the columns are message, amount; name the text's with --text-column",
    ),
    "a named one": (["run", "table.csv", "--text-column", "msg"], "there is no column 'msg'; the columns are"),
    "a second text": (
        ["run", "table.csv", "--text-column", "message", "--text-b-column", "b"],
        "no column 'b'; the columns are message, amount; name the text's with --text-b-column",
    ),
    "a remembered column": (["remembers", "table.csv"], "there is no column 'ticket'; the columns are message"),
    "a number": (["run", "number.jsonl"], "number.jsonl line 2: 'text' holds 7, not text"),
    "no rows": (["run", "header.csv"], "header.csv: the file is empty; it needs at least one row"),
    "no lines": (["run", "nothing.jsonl"], "'nothing.jsonl' holds no text"),
    "texts that are all empty": (["run", "blank.jsonl"], "each of the first 2 texts is empty; name another column"),
    "no such table": (["run", "tabel.csv"], "tabel.csv does not exist; its folder has"),
    "a format": (["run", "table.xlsx"], "the format of 'table.xlsx' from its ending; use one of .jsonl"),
    "a folder as table": (["run", "run"], "run is a folder, not a file; it has models"),
    "no such folder": (["nowhere", "lines.jsonl"], "predict: nowhere does not exist; its folder has"),
    "the other order": (["lines.jsonl", "lines.jsonl"], "'lines.jsonl' is not the folder of a predictor; the order is `lmntk predict"),
    "a folder without predictors": (["empty", "lines.jsonl"], "'empty' holds no predictor; make one with"),
    "another split": (["run", "lines.jsonl", "--split", "x"], "'run' has no predictor of split 'x'; it has films-k4"),
    "another method": (["remembers", "lines.jsonl", "--method", "x"], "'remembers' has no predictor of method 'x'; it has films-k4"),
    "another version": (["old", "lines.jsonl"], "'old' has the format 'lmntk predictor 1', and this version reads"),
    "a damaged description": (["damaged", "lines.jsonl"], "is damaged"),
    "no ending": (["run", "lines.jsonl", "--out", "classes"], "cannot tell the format of 'classes' from its ending"),
    "Parquet out": (["run", "lines.jsonl", "--out", "c.parquet"], "of 'c.parquet' from its ending; use one of .csv, .tsv, .jsonl"),
    "a folder as output": (["run", "lines.jsonl", "--out", "run"], "'run'"),
    "out under a file": (["run", "lines.jsonl", "--out", "table.csv/classes.csv"],
                         "out: 'table.csv/classes.csv' is in 'table.csv', which is not a folder"),
    "a device of no use": (["run", "lines.jsonl", "--out", "/proc/classes.csv"], "out: cannot write '/proc/classes.csv'"),
    "out is the input": (["run", "lines.jsonl", "--out", "./lines.jsonl"], "out: './lines.jsonl' is the input; name another"),
    "out links to the input": (["run", "lines.jsonl", "--out", "link.jsonl"], "out: 'link.jsonl' is the input"),
    "empty words": (["run", ""], "predict: FILE is empty; name a path"),
}  # fmt: skip


def write_description(folder: Path, **changes: Any) -> None:
    folder.mkdir(parents=True)
    write_record(folder / DESCRIPTION, DESCRIBED | changes)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Each case's exit code, stdout, stderr and what is imported after it: of one process, for its start takes longest."""
    folder = tmp_path_factory.mktemp("mistakes")
    write_description(folder / "run" / "models" / "films-k4-seed13-prompt-sgd-ridge")
    write_description(folder / "remembers", columns={"text": "ticket"})
    write_description(folder / "old", format="lmntk predictor 1")
    write_description(folder / "damaged", labels=7)
    (folder / "empty").mkdir()
    texts = {
        "table.csv": HEADER + "late;7\n", "header.csv": HEADER, "nothing.jsonl": "\n", "blank.jsonl": '{"text": ""}\n{"text": " "}\n',
        "lines.jsonl": '{"text": "good"}\n', "number.jsonl": '{"text": "good"}\n{"text": 7}\n', "table.xlsx": "",
    }  # fmt: skip
    for name, text in texts.items():
        (folder / name).write_text(text)
    (folder / "link.jsonl").symlink_to("lines.jsonl")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    given = json.dumps([["predict", *arguments] for arguments, _ in CASES.values()])
    done = subprocess.run(
        [sys.executable, "-c", CHILD], input=given, capture_output=True, text=True, cwd=folder, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    yield dict(zip(CASES, map(json.loads, done.stdout.splitlines()), strict=True))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_is_one_line_before_anything_heavy_is_imported(answers: dict[str, Any], name: str) -> None:
    code, out, errors, heavy = answers[name]
    lines = [line for line in errors.splitlines() if line.strip() and "read as cells" not in line]
    assert (code, out, heavy) == (2, "", [])
    assert len(lines) == 1 and lines[0].startswith("lmntk: ") and CASES[name][1] in lines[0], errors
