"""A number that stands in two places is the same in both, and results say with which versions they were computed."""

from __future__ import annotations

import csv
import re
from statistics import fmean, pstdev

import pytest
from shown import PROJECT

from lmntk.kernels.kernel import KERNEL_VERSION
from lmntk.solvers.grid import SOLVER_VERSION

README, DOCS = PROJECT / "README.md", PROJECT / "docs"
COMPUTED = re.compile(
    r"[Cc]omputed\s+at\s+(?:or\s+before\s+)?commit\s+([0-9a-f]{7}),\s+kernel\s+version\s+(\d+),\s+solver\s+version\s+(\d+)"
)
# (page, what it says), (page, where that comes from): the groups of both are the same numbers, digit by digit or rounded
TWICE = [
    (README, r"GPU: \*\*(\d+) seconds\*\*", DOCS / "performance.md", r"\| 32 x 1000 \| `sgd`, now, one run \| ([\d.]+) \|"),
    (README, r"on (\d+) of (\d+) splits", DOCS / "results" / "fit.md", r'"cannot be told"\s+on\s+(\d+)\s+of\s+(\d+)\s+splits'),
    (
        DOCS / "from-lm-kernel-ft.md", r"shape (\d+) times, for 32 training and 1000",
        DOCS / "performance.md", r"\| lmntk, one call \| 137 \| 4.3 \| \*\*(\d+)\*\* \|",
    ),
]  # fmt: skip


def rows_of(page) -> dict[str, list[str]]:
    """Return the rows of a page's tables by their first cell; of equal ones the first."""
    rows: dict[str, list[str]] = {}
    for line in page.read_text(encoding="utf8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and len(cells) > 1:
            rows.setdefault(cells[0], cells[1:])
    return rows


@pytest.mark.parametrize(
    "row",
    ["zero-shot", "`sgd` kernel, ridge", "SGD fine-tuning, 64 steps", "AdamW fine-tuning, 64 steps"],
)
def test_the_readmes_table_is_that_of_the_results(row: str) -> None:
    here, there = rows_of(README)[row], rows_of(DOCS / "results" / "smollm2.md")[row]
    assert here == there[: len(here)]


@pytest.mark.parametrize(
    ("row", "table", "column"),
    [
        ("TF-IDF with logistic regression", "fit-minilm.csv", "test_words"),
        ("SetFit 1.2, its own encoder", "fit-setfit.csv", "test"),
    ],
)
def test_the_readmes_rivals_are_those_of_the_rows(row: str, table: str, column: str) -> None:
    with (DOCS / "results" / table).open(encoding="utf8") as file:
        rows = list(csv.DictReader(file))
    for cell, task in zip(rows_of(README)[row], ("sst-2", "subj"), strict=True):
        values = [100 * float(each[column]) for each in rows if each["task"] == task]
        assert len(values) == 5
        assert cell == f"{fmean(values):.1f} ({pstdev(values):.1f})"


@pytest.mark.parametrize(("page", "said", "source", "there"), TWICE)
def test_a_figure_is_that_of_its_source(page, said: str, source, there: str) -> None:
    here = re.search(said, page.read_text(encoding="utf8"))
    origin = re.search(there, source.read_text(encoding="utf8"))
    assert here is not None and origin is not None
    assert [float(x) for x in here.groups()] == [round(float(x)) for x in origin.groups()]


def test_memory_of_the_known_run() -> None:
    (peak,) = re.findall(
        r"base's shape, 32 x 200, `sgd` \|.*\| ([\d,]+) \| 0 \|", (DOCS / "performance.md").read_text()
    )
    assert f"held **{float(peak.replace(',', '')) / 1024:.1f} GiB** at most" in README.read_text()


@pytest.mark.parametrize("page", ["README.md", "smollm2.md", "fit.md", "minilm/README.md"])
def test_results_are_of_the_versions_of_today(page: str) -> None:
    found = COMPUTED.findall((DOCS / "results" / page).read_text(encoding="utf8"))
    assert found
    for commit, kernel, solver in found:
        assert (int(kernel), int(solver)) == (KERNEL_VERSION, SOLVER_VERSION), (
            f"{page}: {commit} computed other numbers; compute them again, or say so on the page"
        )


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf8").splitlines()) < 120
