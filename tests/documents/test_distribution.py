"""What is handed out: the same version everywhere, a whole wheel and a whole sdist. test_front_door.py installs the wheel."""

from __future__ import annotations

import re
import shutil
import zipfile
from pathlib import Path

import distribution  # tools/distribution.py
import pytest
from shown import PROJECT

import lmntk


def test_the_version_is_the_same_everywhere() -> None:
    said = {
        name: re.search(pattern, (PROJECT / name).read_text(encoding="utf8"), re.MULTILINE)
        for name, pattern in {
            "pyproject.toml": r'^version = "(.+)"$',
            "CITATION.cff": r"^version: (.+)$",
            "CHANGELOG.md": r"^## (\S+)",
        }.items()
    }
    assert {name: match and match[1] for name, match in said.items()} == dict.fromkeys(
        said, lmntk.__version__
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel and the sdist."""
    return distribution.build(tmp_path_factory.mktemp("dist"))


def test_wheel_and_sdist_are_whole(built: tuple[Path, Path]) -> None:
    assert distribution.faults(*built) == []


def test_a_wheel_without_the_model_is_found(built: tuple[Path, Path], tmp_path: Path) -> None:
    wheel, sdist = built
    broken = Path(shutil.copy(wheel, tmp_path))
    with zipfile.ZipFile(wheel) as whole, zipfile.ZipFile(broken, "w") as less:
        for name in whole.namelist():
            if not name.endswith("model.safetensors"):
                less.writestr(name, whole.read(name))
    assert any("model.safetensors" in fault for fault in distribution.faults(broken, sdist))
