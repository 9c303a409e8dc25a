"""The notebooks run, print what they say, and stay small."""

from __future__ import annotations

import json

import notebooks  # tools/notebooks.py
import pytest
from shown import PROJECT, differences

NAMES = sorted(path.stem for path in notebooks.FOLDER.glob("*.ipynb"))


def read(name: str) -> dict:
    """Return a notebook as its file has it."""
    return json.loads((notebooks.FOLDER / f"{name}.ipynb").read_text(encoding="utf8"))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_prints_what_it_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    for cell, printed, picture in notebooks.run_cells(read(name)):
        said = "".join(line for output in cell["outputs"] if "text" in output for line in output["text"])
        assert differences(printed, said) == []
        assert (picture is not None) == any("data" in output for output in cell["outputs"])


def test_they_are_four_small_ones_that_have_been_run() -> None:
    assert len(NAMES) == 4
    for name in NAMES:
        assert (notebooks.FOLDER / f"{name}.ipynb").stat().st_size < 60_000
        cells = [cell for cell in read(name)["cells"] if cell["cell_type"] == "code"]
        assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
        assert any(cell["outputs"] for cell in cells)
        assert all(output["output_type"] != "error" for cell in cells for output in cell["outputs"])
