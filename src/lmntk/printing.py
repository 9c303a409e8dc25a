"""What commands print: on stdout tables and lists, in the width of a terminal or, into a pipe, as they are; on stderr bars."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from lmntk.progress import Bars

Result = TypeVar("Result")


def print_summary(rows: list[dict[str, Any]]) -> None:
    """Prints the table of mean (deviation) by k, mode and method."""
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
    """Prints the kernels' files with their shapes."""
    if as_json:
        print(json.dumps(written, indent=1))
    else:
        for file, shape in written["files"].items():
            print(f"{file}  {shape}")
        print(written["coverage"])


def print_wrapped(line: str, indent: int) -> None:
    """Prints a line, at a terminal in its width and with the later rows indented; a pipe has no width to fit."""
    if sys.stdout.isatty():
        import shutil
        import textwrap

        width = max(shutil.get_terminal_size().columns, 4 * indent)
        line = textwrap.fill(line, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)
    print(line)


def with_bars(action: Callable[[Bars], Result]) -> Result:
    """Returns what an action returns, which is shown at work on stderr."""
    from rich.console import Console

    from lmntk.progress import Bars

    with Bars(Console(stderr=True)) as bars:
        return action(bars)
