"""The example of docs/diagnosis.md runs, and prints what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "diagnosis.md"


@pytest.mark.slow
def test_the_example_prints_what_the_page_says(capsys):
    text = PAGE.read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    (said,) = re.findall(r"prints, in 20 seconds,\n\n```\n(.*?)```", text, re.S)
    # our own page in this repository
    exec(compile(code, str(PAGE), "exec"), {})
    found, expected = capsys.readouterr().out.splitlines(), said.splitlines()
    number = re.compile(r"\d+(?:\.\d+)?(?:e-?\d+)?")
    assert [number.sub("#", line) for line in found] == [number.sub("#", line) for line in expected]
    for line, as_said in zip(
        found, expected, strict=True
    ):  # float32 on another machine: the same to a hundredth, or a text in 80
        assert [float(x) for x in number.findall(line)] == pytest.approx(
            [float(x) for x in number.findall(as_said)], rel=0.05
        )
