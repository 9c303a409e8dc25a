"""The package as others meet it: a wheel, installed alone; its public names; their types; a light import."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

import lmntk

PROJECT = Path(__file__).resolve().parents[1]
STUB = Path(lmntk.__file__).with_suffix(".pyi")
HOMES = {
    alias.name: f"lmntk.{node.module}"
    for node in ast.parse(STUB.read_text()).body
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
}


def done(*command, **options):
    result = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, timeout=600, **options
    )
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """An interpreter that has lmntk from its wheel, and everything else from the environment of the tests."""
    folder = tmp_path_factory.mktemp("front_door")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, source)
    leftovers = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(PROJECT / "src", source / "src", ignore=leftovers)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
    done(*pip, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", folder / "wheels", source)
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    (packages,) = (folder / "venv").glob("lib/python*/site-packages")
    (wheel,) = (folder / "wheels").glob("*.whl")
    done(*pip, "install", "--no-deps", "--no-index", "--target", packages, wheel)
    paths = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    (packages / "of_the_tests.pth").write_text("\n".join(sorted(paths)) + "\n")
    return folder / "venv" / "bin" / "python"


def outside():
    """The environment without the checkout's own sources."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")}


def test_the_stub_names_everything_public():
    assert set(lmntk.__all__) == {"__version__", *HOMES}
    assert set(dir(lmntk)) == set(HOMES)
    shown = ast.parse(STUB.read_text()).body
    (listed,) = (ast.literal_eval(node.value) for node in shown if isinstance(node, ast.Assign))
    assert set(listed) == set(lmntk.__all__)
    with pytest.raises(AttributeError):
        lmntk.no_such_name  # noqa: B018


def test_importing_lmntk_stays_light():
    heavy = "{'torch', 'transformers', 'numpy', 'scipy', 'sklearn', 'pandas', 'pydantic', 'typer', 'rich'}"
    assert done(sys.executable, "-c", f"import sys, lmntk; print({heavy} & set(sys.modules))") == "set()\n"


def test_every_public_name_comes_out_of_the_wheel(installed, tmp_path):
    imports = "\n".join(
        f"from {home} import {name} as _; assert _ is lmntk.{name}" for name, home in HOMES.items()
    )
    code = f"import lmntk\n{imports}\nprint(lmntk.__file__)\nfrom lmntk import *\nprint(compute_kernels.__name__)"
    file, name = done(installed, "-c", code, cwd=tmp_path, env=outside()).split()
    assert Path(file).is_relative_to(installed.parents[1])
    assert Path(file).with_suffix(".pyi").is_file()
    assert Path(file).with_name("py.typed").is_file()
    assert name == "compute_kernels"


def test_mypy_knows_the_types_of_public_names(installed, tmp_path):
    # The libraries below are left out: they take mypy half a minute, and what is asked here is not theirs.
    (tmp_path / "mypy.ini").write_text(
        "[mypy]\n"
        + "".join(
            f"[mypy-{name}.*]\nfollow_imports = skip\n"
            for name in ("torch", "transformers", "numpy", "pydantic")
        )
    )
    lines = ["from lmntk import compute_kernels", "reveal_type(compute_kernels)"]
    lines += [f"from lmntk import {name}\nreveal_type({name})" for name in HOMES]
    (tmp_path / "user.py").write_text("\n".join(lines) + "\n")
    shown = done(
        sys.executable, "-m", "mypy", "--python-executable", installed, "--cache-dir", os.devnull, "user.py",
        cwd=tmp_path, env=outside(),
    )  # fmt: skip
    types = re.findall(r'Revealed type is "(.*)"', shown)
    assert len(types) == 1 + len(HOMES), shown
    assert types[0].startswith("def (pretrained: lmntk.models.loading.")
    assert "Any" not in types


@pytest.mark.parametrize("page", ["README.md", "docs/index.md", "Makefile"])
def test_what_is_installed_for_the_demonstration_trains_and_draws(page):
    before, _, _ = (
        (PROJECT / page)
        .read_text(encoding="utf8")
        .partition("lmntk demo\n" if "." in page else "lmntk demo --out")
    )
    installed_parts = re.findall(r"install .*\[([a-z,]+)\]", before)[-1].split(",")
    assert {"report", "finetune"} <= set(installed_parts)


@pytest.mark.slow
def test_the_wheel_runs_its_demonstration(installed, tmp_path):
    said = done(installed, "-m", "lmntk", "demo", "--out", "demo", cwd=tmp_path, env=outside())
    lines = [line.split(":")[0] for line in said.splitlines()]
    assert lines == ["Asked", "Forecast", "Really trained", "Leave it alone", "A wrong label", "Next"]
    for line in said.splitlines()[:-1]:
        assert f"\n{line}\n" in (PROJECT / "docs" / "index.md").read_text(encoding="utf8")
    assert (tmp_path / "demo" / "report.html").is_file()
