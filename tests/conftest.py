"""For all tests: one thread, no hub, quiet transformers."""

import os
import sys
from collections.abc import Callable, Iterator
from typing import Any
from zlib import crc32

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_worker_niceness", "0")  # at Ray's own 15 its workers wait for all other tests

import pytest
import torch
from transformers.utils import logging

torch.set_num_threads(1)
logging.set_verbosity_error()
logging.disable_progress_bar()

# The files that take longest begin first, so that no process is left alone with one of them at the end.
LONGEST = (
    "test_kernel_ray", "test_ray_jobs", "test_cli", "test_front_door", "test_faults", "test_cut_short", "test_diagnose_run",
    "test_diagnose_verdicts", "test_finetune_run", "test_finetune_resume",
    "test_every_kind", "test_predict", "test_experiment", "test_gpu_commands",
)  # fmt: skip


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow all but one in so many cases of a test that says so, by the hash of its name; order the files."""
    for item in items:
        marker = item.get_closest_marker("one_in")
        if marker is not None and crc32(item.name.encode()) % marker.args[0]:
            item.add_marker("slow")
    order = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@pytest.fixture(autouse=True)
def own_rules() -> Iterator[None]:
    """Forget the rules for modules that a test registers: a page's, left behind, could not be pickled by later tests."""
    from lmntk.tangents.rules import RULES

    before = dict(RULES)
    yield
    RULES.clear()
    RULES.update(before)


@pytest.fixture
def empty_plots(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave plots undrawn, for tests of what else a page says; one about what a plot shows asks for ``drawn_plots``."""
    if "drawn_plots" in request.fixturenames:
        return

    def print_empty(canvas: Any, file: Any, **named: Any) -> None:
        file.write('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"/>')

    monkeypatch.setattr("matplotlib.backends.backend_svg.FigureCanvasSVG.print_svg", print_empty)


@pytest.fixture
def drawn_plots() -> None:
    """Draw the page's plots in this test."""


@pytest.fixture
def command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """The command line in this process: from its arguments to its exit code and what it prints."""
    from lmntk.cli import app

    def called(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lmntk", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            app.main()
        out, errors = capsys.readouterr()
        return int(stopped.value.code or 0), out, errors

    return called
