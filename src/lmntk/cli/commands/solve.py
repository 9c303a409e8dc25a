"""``lmntk solve``: kernels that are there already, solved."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from lmntk.cli.options import JsonOption, given_path


def solve(
    kernels: Annotated[
        Path,
        typer.Option(
            parser=given_path,
            metavar="PATH",
            help="a run's folder, a folder of the paper's code with {train,dev,test}_kernels_TASK.pt, or a folder with train, "
            "dev and test that lmntk kernel wrote from files with labels",
        ),
    ],
    task: Annotated[
        str | None,
        typer.Option(
            help="the task as in the files' names, or one split of a run",
            show_default="needed, except for folders of lmntk kernel",
        ),
    ] = None,
    formulas: Annotated[
        str | None,
        typer.Option(
            help="formulas: sgd, signgd, asigngd", show_default="what is there; sgd if the file does not say"
        ),
    ] = None,
    solvers: Annotated[
        str | None,
        typer.Option(
            help="solvers: ridge, asym, logistic, row-logistic, svc, svr",
            show_default="ridge; asym for asigngd",
        ),
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="accuracy or f1, for a task that is none of the 14")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Solve kernels that are there already.

    Uses the grids of a run, and prints a table of dev and test. Each setting is chosen on dev. Files of the paper's
    code are read as tensors alone: no code in them runs.

    Example: lmntk solve --kernels downloads/sst-2-16-13 --task sst-2 --solvers ridge,logistic,svc

    To solve what lmntk kernel wrote, make three folders, DIR/train, DIR/dev and DIR/test, with the same --train and
    --label-words, from files with labels; for DIR/train the training texts are --eval too: lmntk solve --kernels DIR
    """
    from lmntk.errors import UserError
    from lmntk.experiment.configuration.parts import parts_of
    from lmntk.experiment.solve_folder import solve_folder
    from lmntk.kernels.formulas import FORMULAS
    from lmntk.reports.results import markdown_table
    from lmntk.runs.earlier import NOT_CHECKED, hidden_results, is_earlier
    from lmntk.solvers.grid import SOLVERS

    chosen = {"formulas": parts_of(formulas), "solvers": parts_of(solvers)}
    for name, known in (("formulas", FORMULAS), ("solvers", SOLVERS)):
        unknown = [value for value in chosen[name] or () if value not in known]
        if unknown:
            raise UserError(f"{name}: {unknown[0]!r} is not one of {', '.join(known)}")
    if metric not in (None, "accuracy", "f1"):
        raise UserError(f"metric: {metric!r} is neither accuracy nor f1")
    run = (kernels.parent if kernels.name == "kernels" else kernels).absolute()
    if is_earlier(run):
        print(f"lmntk: {str(kernels)!r} {NOT_CHECKED}", file=sys.stderr)
    if hidden := hidden_results(run):
        print(f"lmntk: {hidden}", file=sys.stderr)
    rows = solve_folder(kernels, task, chosen["formulas"] or None, chosen["solvers"] or None, metric)
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    lines = []
    for row in rows:
        setting = ", ".join(
            f"{name} {value if isinstance(value, str) else format(value, 'g')}"
            for name, value in row["setting"].items()
        )
        lines.append(
            [
                row["split"],
                row["method"],
                row["metric"],
                f"{100 * row['dev']:.1f}",
                f"{100 * row['test']:.1f}",
                setting,
            ]
        )
    print(markdown_table(["split", "method", "metric", "dev", "test", "setting"], lines))
    for note in dict.fromkeys(
        f"{row['split']}, {row['method']}: {note}" for row in rows for note in row["notes"]
    ):
        print(f"* {note}")
