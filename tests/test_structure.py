"""The script that measures the code's layout: on a small package where all of it is wrong, and on this project."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
SCRIPT = PROJECT / "tools" / "structure.py"
EIGHT = "a, b, c, d, e, f, g, h"


@pytest.fixture(scope="module")
def structure():
    spec = importlib.util.spec_from_file_location("structure", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["structure"] = module
    spec.loader.exec_module(module)
    return module


def write(checkout, files):
    for name, text in files.items():
        path = checkout / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_a_small_package_where_all_is_wrong(structure, tmp_path):
    package = "src/measured_package"
    write(tmp_path, {f"{package}/{folder}__init__.py": "" for folder in ("", "high/", "low/", "cli/")})
    files = {
        "__main__.py": "",
        "one.py": "",
        "two.py": "import measured_package.one\n",  # no circle
        "three.py": "",
        "four.py": "",
        "high/first.py": "from measured_package.low.inner import x\n",
        "high/inner.py": "",
        # up, under TYPE_CHECKING: a circle among folders, and none among modules
        "low/inner.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import measured_package.high.inner\nx = 1\n",
        # a circle among three modules of one folder
        "low/a.py": "import measured_package.low.b\n",
        "low/b.py": "from measured_package.low import c\n",
        "low/c.py": "def later():\n    from measured_package.low.a import x\n",
        "low/long.py": "x = 1\n" * 401,
        "low/wide.py": f"def fits({EIGHT}): ...\ndef wide({EIGHT}, *, i=1): ...\n"
        f"class Holder:\n    def fits(self, {EIGHT}): ...\n    def wide(self, {EIGHT}, **rest): ...\n"
        f"    @staticmethod\n    def made({EIGHT}, i): ...\n    class Inner:\n        async def wide(self, {EIGHT}, i): ...\n"
        f"class Estimator(BaseEstimator):\n    def __init__(self, {EIGHT}, i): ...\n    def wide(self, {EIGHT}, i): ...\n"
        f"class Plain:\n    def __init__(self, {EIGHT}, i): ...\n",
        "cli/command.py": f"def options({EIGHT}, i): ...\n",
    }
    write(tmp_path, {f"{package}/{name}": text for name, text in files.items()})
    write(tmp_path, {"tests/test_one.py": "x = 1\n\n", "tests/low/test_two.py": "x = 2\n"})
    measured = structure.measure(tmp_path, "measured_package")
    assert measured.cases["loose modules at the root"] == ["four.py", "one.py", "three.py", "two.py"]
    low = "measured_package.low"
    assert measured.cases["circles among modules"] == [f"{low}.a <-> {low}.b <-> {low}.c"]
    assert measured.cases["circles among folders"] == [
        f"measured_package.high <-> {low}",
        f"{low}.a <-> {low}.b <-> {low}.c",
    ]
    assert measured.cases["lines of the longest module"] == ["low/long.py: 401"]
    assert measured.cases["functions with more than 8 parameters"] == [
        "low/wide.py: wide (9)",
        "low/wide.py: Holder.wide (9)",
        "low/wide.py: Holder.made (9)",
        "low/wide.py: Holder.Inner.wide (9)",
        "low/wide.py: Estimator.wide (9)",
        "low/wide.py: Plain.__init__ (9)",
    ]
    assert measured.cases["file names in several folders"] == ["inner.py: high, low"]
    assert measured.broken() == list(structure.LIMITS)
    assert measured.counts["lines of the longest module"] == 401
    assert measured.counts["lines of tests"] == 3
    assert measured.counts["modules"] == 4 + len(files)
    assert measured.counts["lines of src"] == sum(text.count("\n") for text in files.values())


def test_a_small_package_where_all_is_right(structure, tmp_path):
    write(tmp_path, {"src/tidy_package/__init__.py": "", "src/tidy_package/low/__init__.py": "x = 1\n"})
    assert structure.measure(tmp_path, "tidy_package").broken() == []


def test_figures_stand_side_by_side_with_their_limits(structure):
    counts = dict.fromkeys(structure.LIMITS, 0)
    before = structure.Structure(counts | {"lines of src": 23178}, {})
    today = structure.Structure(counts | {"lines of src": 900}, {})
    head, first, *_, last = structure.table({"60f2df1": before, "today": today}).splitlines()
    assert head.split() == ["60f2df1", "today", "limit"]
    assert re.split(r"\s{2,}", first) == ["loose modules at the root", "0", "0", "<= 3"]
    assert re.split(r"\s{2,}", last.rstrip()) == ["lines of src", "23,178", "900"]


def test_this_project_keeps_its_limits():
    command = [sys.executable, str(SCRIPT), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    (modules,) = re.findall(r"^modules +(\d+)", result.stdout, re.MULTILINE)
    assert int(modules) > 100  # it measured this project
