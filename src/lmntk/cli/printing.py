"""Output of commands: tables and lists on stdout, progress on stderr.

At a terminal lines are wrapped to its width; into a pipe they go as they are.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lmntk.errors import UserError
from lmntk.system.notices import heard_by, kept, say

if TYPE_CHECKING:
    from lmntk.cli.bars import Bars
    from lmntk.cli.lines import Lines
    from lmntk.system.progress import Progress

Result = TypeVar("Result")


def print_summary(rows: list[dict[str, Any]]) -> None:
    """Print the table of mean (deviation) by k, mode and method."""
    from rich.console import Console
    from rich.table import Table

    from lmntk.reports.results import markdown_table, summary_table
    from lmntk.tasks import TASKS

    titles = {name: task.title for name, task in TASKS.items()}
    if not sys.stdout.isatty():  # a pipe has no width to fit
        print(markdown_table(*summary_table(rows, titles)))
        return
    header, lines = summary_table(rows, titles)
    table = Table(*header)
    for line in lines:
        table.add_row(*line)
    Console().print(table)


def print_kernels(written: dict[str, Any], as_json: bool) -> None:
    """Print the kernels' files with their shapes."""
    if as_json:
        print(json.dumps(written, indent=1))
    else:
        for file, shape in written["files"].items():
            print(f"{file}  {shape}")
        print(written["coverage"])


SHOWN = {
    "rate": "learning rate", "largest_stable_rate": "largest stable one", "logit_error": "logit error",
    "kernel_distance_median": "median kernel distance", "gradient_distance": "gradient distance", "emulation_error": "emulation error",
    "emulation_move_error": "of the move", "emulation_test_error": "of the test texts' move",
    "chi_with_prompt": "|chi| with prompt", "chi_without_prompt": "without",
}  # fmt: skip
PASSED = {True: "passed", False: "failed", None: "cannot be told"}


def print_verdicts(over_splits: dict[str, Any]) -> None:
    """Print of each task and method the regime, the forecast, the paper's three tests, and the numbers beside them."""
    from lmntk.diagnosis.over_splits import heading
    from lmntk.diagnosis.verdict import TESTS

    for verdict in over_splits["verdicts"]:
        splits = f" ({verdict['splits']} splits)" if verdict["splits"] > 1 else ""
        regime, forecast = verdict["regime"], verdict["forecast"]
        print(f"{heading(verdict)}{splits}: {regime['phrase']}")
        print_wrapped(f"  e is {regime['about']}" if regime["regime"] else f"  {regime['about']}", 2)
        if forecast["sentence"]:
            print_wrapped(f"  {forecast['sentence']}", 2)
        print_wrapped(f"  {TESTS}: {verdict['verdict']}: {verdict['reason']}", 2)
        for test in verdict["tests"]:
            print(f"  {_tested(test, forecast)}")
        numbers = [
            f"{title} {verdict['numbers'][name]:.3g}"
            for name, title in SHOWN.items()
            if verdict["numbers"].get(name) is not None
        ]
        print_wrapped(f"  {', '.join(numbers)}", 2)
    for comparison in over_splits["comparisons"]:
        where = f"{comparison['title']}, k = {comparison['k']}, {comparison['mode']}"
        print_wrapped(f"{where}: {comparison['sentence']}", 2)


def _tested(test: dict[str, Any], forecast: dict[str, Any]) -> str:
    """Return the line of a test; of ``solves`` it has the miss on both sides, no share, which praises what overshoots."""
    name, threshold, passed = test["name"], f"{test['threshold']:g}", PASSED[test["passed"]]
    if name == "solves" and forecast["kernel"] is not None:
        above = "; the kernel is above" if forecast["overshoots"] else ""
        figure = f"{forecast['kernel']['figure']} points"
        return f"{name:<15}{figure}  (at least {threshold} of fine-tuning's): {passed}{above}"
    value = "-" if test["value"] is None else f"{test['value']:.2f}"
    return (
        f"{name:<15}{value:>6}  ({'below' if name == 'fixed features' else 'at least'} {threshold}): {passed}"
    )


def print_written(folder: Path) -> None:
    """Print what a run left in its folder."""
    names = (
        "report.html",
        "verdicts.json",
        "results.csv",
        "summary.md",
        "kernels",
        "finetuning",
        "diagnosis",
        "models",
        "predictions",
    )
    print(f"Written to {folder}: {', '.join(name for name in names if (folder / name).exists())}")


def print_wrapped(line: str, indent: int) -> None:
    """Print a line, at a terminal wrapped to its width with the later rows indented."""
    if sys.stdout.isatty():
        import shutil
        import textwrap

        width = max(shutil.get_terminal_size().columns, 4 * indent)
        line = textwrap.fill(
            line, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
        )
    print(line)


def with_progress(action: Callable[[Progress], Result], *, notices_at_once: bool = True) -> Result:
    """Return what an action returns; its progress is on stderr: bars at a terminal, elsewhere a line a minute.

    Notices are printed when they are said, or with those of the whole command, at its end.
    """
    with _listener() as listener, heard_by(listener.note) if notices_at_once else nullcontext():
        return action(listener)


def _listener() -> Bars | Lines:
    if not sys.stderr.isatty():
        from lmntk.cli.lines import Lines

        return Lines()
    from rich.console import Console

    from lmntk.cli.bars import Bars

    return Bars(Console(stderr=True))


@contextmanager
def notices_on_stderr() -> Iterator[None]:
    """Print the block's notices at its end, on stderr, and libraries' warnings as lines too; a user's mistake stands alone.

    Warnings that are meant for programmers are left out; with Python's own options (``-W``) all is as these say.
    """

    def show(message: Warning | str, category: type[Warning], filename: str, *_: Any, **__: Any) -> None:
        if not issubclass(category, FutureWarning | DeprecationWarning | PendingDeprecationWarning):
            say(f"{Path(filename).stem}: {' '.join(str(message).split())}")

    before = warnings.showwarning
    with kept() as lines:
        try:
            if not sys.warnoptions:
                warnings.showwarning = show
            yield
        except UserError:
            lines.clear()
            raise
        finally:
            warnings.showwarning = before
            for line in lines:
                print(f"lmntk: {line}", file=sys.stderr)
