"""The site, built as ``make docs`` builds it, in a folder of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
PROGRAMS = PROJECT / "build" / "docs" / "venv" / "bin"
BUILDER = PROGRAMS / "zensical"


def build_site(folder: Path) -> tuple[int, str, Path]:
    """Build a folder's pages, by default a copy of ours; return the exit code, what was said, and the site."""
    if not (folder / "docs").exists():
        shutil.copytree(PROJECT / "docs", folder / "docs")
    shutil.copytree(PROJECT / "tools" / "site", folder / "tools" / "site", dirs_exist_ok=True)
    shutil.copy(PROJECT / "mkdocs.yml", folder)
    if not (folder / "src").exists():
        (folder / "src").symlink_to(PROJECT / "src")
    result = subprocess.run(
        [BUILDER, "build", "--strict", "--clean"],
        cwd=folder, env={**os.environ, "PYTHONPATH": "tools/site", "NO_COLOR": "1"},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    return result.returncode, result.stdout + result.stderr, folder / "build" / "docs" / "site"


def link_faults(site: Path) -> list[str]:
    """Return what ``tools/site/links.py`` says of a site."""
    result = subprocess.run(
        [PROGRAMS / "python", PROJECT / "tools" / "site" / "links.py", site],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    return result.stdout.splitlines() if result.returncode else []
