"""Build the wheel and the sdist from a clean copy of the sources, and say what is wrong with them.

    python tools/distribution.py dist      # exit code 1 where something is

``make dist`` then installs the wheel into a fresh environment and runs its demonstration there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "src")
NEEDED = (  # of the package, in both
    "lmntk/__init__.pyi", "lmntk/py.typed", "lmntk/bundled/model/model.safetensors", "lmntk/bundled/model/tokenizer.json",
    "lmntk/bundled/examples/reviews/train.jsonl", "lmntk/bundled/experiments/", "lmntk/reports/style.css", "lmntk/reports/template.html",
)  # fmt: skip
STRAY = ("__pycache__", ".pyc", "/tests/", ".lmntk")
BUILD = "import sys; from setuptools import build_meta as b; to = sys.argv[1]; b.build_wheel(to); b.build_sdist(to)"


def build(target: Path) -> tuple[Path, Path]:
    """Build both into a folder, and return the wheel and the sdist; setuptools has to be there, and no network."""
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        leftovers = shutil.ignore_patterns("__pycache__", "*.egg-info")
        for name in SOURCES:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, Path(work) / name, ignore=leftovers)
            else:
                shutil.copy(source, work)
        command = (sys.executable, "-c", BUILD, str(target.resolve()))
        quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        done = subprocess.run(command, cwd=work, check=False, env=os.environ | {"PYTHONPATH": ""}, **quiet)
        if done.returncode:
            sys.exit(done.stdout)
    (wheel,), (sdist,) = target.glob("lmntk-*.whl"), target.glob("lmntk-*.tar.gz")
    return wheel, sdist


def faults(wheel: Path, sdist: Path) -> list[str]:
    """Return what is wrong, a line each."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]["version"]
    found = [
        f"{path.name} is not of version {version}"
        for path in (wheel, sdist)
        if f"-{version}" not in path.name
    ]
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        found += _missing(wheel.name, names)
        metadata = archive.read(f"lmntk-{version}.dist-info/METADATA").decode() if not found else ""
    if not found and not all(
        line in metadata for line in ("Requires-Python: >=3.11", "# lmntk", "License-File: LICENSE")
    ):
        found.append(f"{wheel.name}: its metadata lack the versions of Python, the README or the licence")
    with tarfile.open(sdist) as archive:
        found += _missing(sdist.name, archive.getnames())
    return found


def _missing(name: str, members: Iterable[str]) -> list[str]:
    """Return what an archive lacks, and what it has too much."""
    listed = [f"/{member}" for member in members]
    lacks = [f"{name}: no {needed}" for needed in NEEDED if not any(f"/{needed}" in each for each in listed)]
    return lacks + [f"{name}: {each} is too much" for each in listed if any(stray in each for stray in STRAY)]


if __name__ == "__main__":
    complaints = faults(*build(Path(sys.argv[1])))
    print("\n".join(complaints) or "wheel and sdist are whole")
    sys.exit(bool(complaints))
