"""``report.html``: one page of a run, or of several, that needs nothing but a browser."""

from __future__ import annotations

import importlib.util
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lmntk import __version__
from lmntk.errors import UserError
from lmntk.runs.reading import Run, read_runs
from lmntk.system.files import write_text

PAGE = "report.html"
NEEDED = ("matplotlib", "jinja2")


def missing_libraries() -> str:
    """Return what the page lacks to be written, and what mends it, in one line; nothing when all is there."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    return f"report: {' and '.join(missing)} missing; pip install 'lmntk[report]'" if missing else ""


def write_page(folder: Path) -> str:
    """Write the page of a run into its folder; returns why not where a library is missing, else nothing.

    Cost: a second to load matplotlib, and some 0.1 s a plot.
    """
    missing = missing_libraries()
    if missing:
        return f"{missing}, then `lmntk report {shlex.quote(str(folder))}` writes {PAGE}"
    write_text(folder / PAGE, build_page([folder]))
    return ""


def build_page(folders: Sequence[Path]) -> str:
    """Return the page of one or several runs as HTML.

    Raises:
        UserError: a folder without a run, or a missing library.
    """
    missing = missing_libraries()
    if missing:
        raise UserError(missing)
    return render(read_runs(folders))


def render(runs: Sequence[Run]) -> str:
    """Return the page of runs that were read."""
    return fill("template.html", contents(runs))


def fill(template: str, values: Mapping[str, Any]) -> str:
    """Return a template of this folder with these values, escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    from lmntk.reports.drawing import plain

    environment = Environment(
        loader=PackageLoader("lmntk.reports", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["sentence"] = lambda text: (
        text[:1].upper() + text[1:].rstrip(".") + "." if text else ""
    )
    environment.filters["drawn"] = Markup  # an svg of drawing.to_svg, which has escaped what it holds
    return plain(environment.get_template(template).render(values))


def contents(runs: Sequence[Run]) -> dict[str, Any]:
    """Return all that the page shows, as plain data and drawn plots."""
    from lmntk.diagnosis.over_splits import comparisons_in, over_splits
    from lmntk.reports.accuracy_plot import accuracy_plot
    from lmntk.reports.closeups import close_ups
    from lmntk.reports.drawing import style
    from lmntk.reports.reached import reached
    from lmntk.reports.regimes import regime_matrix
    from lmntk.reports.rerun import as_toml, changes, settings_rows
    from lmntk.reports.tables import Entry, result_tables
    from lmntk.reports.verdicts import at_largest_k, counted, thresholds, verdicts
    from lmntk.reports.yardsticks import yardsticks

    runs = [replace(run, notes=list(run.notes)) for run in runs]
    titles = runs[0].titles()
    every_row = _named(runs, "rows")
    rows = [
        row for row in every_row if row["test"] is not None
    ]  # the others diverged, which the tables and their notes say
    more_notes: list[str] = []
    judged = verdicts(_named(runs, "diagnoses"), titles, more_notes)
    diagnosed = {(one.run, one.title, one.mode) for one in judged}
    measured = yardsticks(rows, _splits(runs))
    undiagnosed = [
        one for one in reached(rows, titles, measured) if (one.run, one.title, one.mode) not in diagnosed
    ]
    tables = result_tables(every_row, titles, measured)
    with style():
        pairs = list(dict.fromkeys((row.get("run", ""), row["task"]) for row in rows))
        accuracy = [
            accuracy_plot(
                f"a{number}",
                " · ".join(part for part in (titles.get(task, task), run) if part),
                [row for row in rows if (row.get("run", ""), row["task"]) == (run, task)],
            )
            for number, (run, task) in enumerate(pairs)
        ]
        close, close_count = close_ups(runs, titles, more_notes)
    return {
        "title": _title(runs),
        "kicker": "" if len(runs) > 1 else runs[0].folder.resolve().name,
        "runs": [
            {
                "name": run.name,
                "model": run.model,
                "full_model": str(run.experiment.get("model", "")),
                "settings": settings_rows(run.experiment),
                "toml": as_toml(run.experiment) if run.experiment else "",
                "earlier": [changes(run.experiment, one) for one in run.earlier] if run.experiment else [],
                "versions": run.versions,
            }
            for run in runs
        ],
        "facts": _facts(runs, rows),
        "verdicts": judged,
        "first_verdicts": at_largest_k(judged),
        "matrix": regime_matrix(judged, measured),
        "counted": counted(at_largest_k(judged)),
        "thresholds": thresholds(judged),
        "has_emulators": any(one.forecast.emulator is not None for one in judged),
        "comparisons": [
            one | {"run": run.name if len(runs) > 1 else ""}
            for run in runs
            for one in over_splits([], comparisons_in(run.finetunings, run.splits), titles)["comparisons"]
        ],
        "undiagnosed": undiagnosed,
        "has_gains": any(one.gain is not None for one in undiagnosed),
        "tables": tables,
        "splits": sorted({seed for table in tables for seed in table.splits}),
        "has_few": any(
            isinstance(entry, Entry) and entry.few
            for table in tables
            for block in table.blocks
            for line in block.lines
            for entry in line.entries
        ),
        "accuracy": accuracy,
        "close_ups": close,
        "close_ups_of": close_count,
        "explained": [
            {
                **each,
                "title": titles.get(each["task"], each["task"]),
                "run": run.name if len(runs) > 1 else "",
            }
            for run in runs
            for each in run.explained
        ],
        "explain_command": f"lmntk explain {shlex.quote(str(runs[0].folder))}",
        "row_notes": sorted(
            {
                f"{titles.get(row['task'], row['task'])}, {row['method']}: {note}"
                for row in every_row
                for note in row.get("notes", ())
            }
        ),
        "texts": [
            f"{run.name}: {line}" if len(runs) > 1 else str(line)
            for run in runs
            for lines in run.texts.values()
            for line in lines
        ],
        "left_out": [note for run in runs for note in run.notes] + more_notes,
        "command": f"lmntk report {' '.join(shlex.quote(str(run.folder)) for run in runs)}",
        "version": __version__,
    }


def _named(runs: Sequence[Run], part: str) -> list[Mapping[str, Any]]:
    """Return a part of all runs in one list, each entry with its run's name where there are several."""
    return [{**one, "run": run.name} if len(runs) > 1 else one for run in runs for one in getattr(run, part)]


def _splits(runs: Sequence[Run]) -> list[Mapping[str, Any]]:
    """Return the records of all splits, each with its run's name where there are several."""
    return [{**one, "run": run.name} if len(runs) > 1 else one for run in runs for one in run.splits.values()]


def _title(runs: Sequence[Run]) -> str:
    if len(runs) > 1:
        return f"{len(runs)} runs"
    return runs[0].model or runs[0].name


def _facts(runs: Sequence[Run], rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return what was run, in a few words."""
    tasks = len({row["task"] for row in rows})
    return [
        (name, value)
        for name, value in (
            ("tasks", str(tasks)),
            ("texts a class, k", ", ".join(map(str, sorted({row["k"] for row in rows})))),
            ("seeds", ", ".join(map(str, sorted({row["seed"] for row in rows})))),
            ("modes", ", ".join(dict.fromkeys(row["mode"] for row in rows))),
            ("splits", str(sum(len(run.splits) for run in runs))),
        )
        if rows
    ]
