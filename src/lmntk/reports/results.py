"""``results.csv``, one tidy row a method and split, and ``summary.md``, the paper's table: mean (std) over the splits."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from lmntk.solvers.selection import aggregate

COLUMNS = (
    "task", "k", "seed", "mode", "method", "formula", "solver", "metric", "dev", "test", "setting",
    "train_texts", "dev_texts", "test_texts", "notes",
)  # fmt: skip
METRIC_NAMES = {"accuracy": "acc.", "f1": "F1"}


class Writer(Protocol):
    """Where text files go."""

    def write_text(self, name: str, text: str) -> None:
        """Write a file."""


def results_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows as CSV; the setting as JSON, notes joined by semicolons, metrics in [0, 1] with six digits, none if it diverged."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        flat = {column: row.get(column, "") for column in COLUMNS}
        flat |= {part: "" if row[part] is None else f"{row[part]:.6f}" for part in ("dev", "test")}
        flat |= {"setting": json.dumps(row["setting"], sort_keys=True), "notes": "; ".join(row["notes"])}
        writer.writerow(flat)
    return out.getvalue()


def summarise(
    rows: Sequence[Mapping[str, Any]], medians: bool = False
) -> dict[tuple[int, str, str], dict[str, str]]:
    """Returns, for each (k, mode, method), by task the mean (population std), or median, of the test metric over the splits, x 100.

    Splits in which a method diverged are left out; where that leaves fewer than there are anywhere, their number is said.
    """
    show = _median if medians else _mean
    collected: dict[tuple[int, str, str], dict[str, list[float]]] = {}
    for row in rows:
        line = collected.setdefault((row["k"], row["mode"], row["method"]), {})
        line.setdefault(row["task"], []).extend([] if row["test"] is None else [row["test"]])
    most = len({row["seed"] for row in rows})
    return {
        key: {
            task: (show(values) + _few(len(values), most)) if values else "diverged"
            for task, values in line.items()
        }
        for key, line in collected.items()
    }


def _few(splits: int, most: int) -> str:
    return f", {splits} split{'s' if splits > 1 else ''}" if splits < most else ""


def _median(values: Sequence[float]) -> str:
    return f"{aggregate(values).median:.1f}"


def _mean(values: Sequence[float]) -> str:
    summary = aggregate(values)
    return f"{summary.mean:.1f} ({summary.std:.1f})" if len(values) > 1 else f"{summary.mean:.1f}"


def summary_table(
    rows: Sequence[Mapping[str, Any]], titles: Mapping[str, str], medians: bool = False
) -> tuple[list[str], list[list[str]]]:
    """Return the table's header and its lines: k, mode, method, then a column a task."""
    metrics = {row["task"]: METRIC_NAMES.get(row["metric"], row["metric"]) for row in rows}
    header = [
        "k",
        "mode",
        "method",
        *(f"{titles.get(task, task)} ({metric})" for task, metric in metrics.items()),
    ]
    lines = [
        [str(k), mode, method, *(shown.get(task, "-") for task in metrics)]
        for (k, mode, method), shown in sorted(summarise(rows, medians).items(), key=lambda item: item[0][0])
    ]
    return header, lines


def markdown_table(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    return "\n".join(
        [
            f"| {' | '.join(header)} |",
            f"|{'---|' * len(header)}",
            *(f"| {' | '.join(line)} |" for line in body),
        ]
    )


def plain_markdown(text: str) -> str:
    """Return a text as Markdown that shows it: no tags, no cells and no lines of its own."""
    shown = " ".join(html.escape(str(text), quote=False).split())
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", shown) if re.search(r"[<>|`\[]", text) else shown


def summary_markdown(
    rows: Sequence[Mapping[str, Any]],
    titles: Mapping[str, str],
    facts: Mapping[str, str],
    verdicts: Sequence[str] = (),
) -> str:
    """Return the summary page; ``verdicts`` are sentences."""
    seeds = sorted({row["seed"] for row in rows})
    lines = ["# Results", ""]
    if verdicts:
        lines += [
            "## Does fine-tuning behave like its kernel?",
            "",
            *(f"* {plain_markdown(sentence)}" for sentence in verdicts),
            "",
            "## Accuracy",
            "",
        ]
    if rows:
        titles = {name: plain_markdown(title) for name, title in titles.items()}
        titles |= {row["task"]: titles.get(row["task"], plain_markdown(row["task"])) for row in rows}
        header, body = summary_table(rows, titles)
        lines += [
            f"Test metric x 100, mean (population standard deviation) over the splits {', '.join(map(str, seeds))}; each method's",
            "",
        ]
        lines[-2] += " setting chosen on the split's dev set."
        lines += [
            markdown_table(header, body),
            "",
            "## Medians",
            "",
            markdown_table(*summary_table(rows, titles, medians=True)),
        ]
        notes = sorted({f"{row['task']}, {row['method']}: {note}" for row in rows for note in row["notes"]})
        if notes:
            lines += ["", "## Notes", "", *(f"* {plain_markdown(note)}" for note in notes)]
    lines += [
        "",
        "## Where this comes from",
        "",
        *(f"* {plain_markdown(name)}: {plain_markdown(value)}" for name, value in facts.items()),
        "",
    ]
    return "\n".join(lines)


def write_reports(
    store: Writer,
    rows: Sequence[Mapping[str, Any]],
    titles: Mapping[str, str],
    facts: Mapping[str, str],
    verdicts: Sequence[str] = (),
) -> None:
    """Write ``results.csv`` and ``summary.md``."""
    store.write_text("results.csv", results_csv(rows))
    store.write_text("summary.md", summary_markdown(rows, titles, facts, verdicts))
