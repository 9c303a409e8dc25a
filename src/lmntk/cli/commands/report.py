"""``lmntk report``: the page of runs, built anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lmntk.cli.options import JsonOption, given_path


def report(
    runs: Annotated[
        list[Path], typer.Argument(parser=given_path, metavar="RUN...", help="folders that lmntk run wrote")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            parser=given_path,
            metavar="PATH",
            help="the page",
            show_default="RUN/report.html; report.html here for several runs",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Build the page of a run anew, or one page of several runs.

    Writes RUN/report.html, or report.html here with the runs side by side. The page has verdicts, tables, plots,
    settings and how to run it again. It is one file that needs only a browser.

    Example: lmntk report runs/sst-2
    """
    import json

    from lmntk.errors import UserError
    from lmntk.reports.page import PAGE, build_page
    from lmntk.system.files import write_text

    target = out if out is not None else runs[0] / PAGE if len(runs) == 1 else Path(PAGE)
    if target.is_dir():
        raise UserError(f"out: {str(target)!r} is a folder; name a file, such as {str(target / PAGE)!r}")
    if target.exists() and not target.is_file():
        raise UserError(
            f"out: {str(target)!r} is a device or a pipe, which a page cannot replace; name a file"
        )
    page = build_page(runs)
    try:
        write_text(target.resolve(), page)  # of a link, what it points to
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        raise UserError(f"out: cannot write {str(target)!r} ({error.strerror}); name another file") from error
    if as_json:
        print(
            json.dumps(
                {"page": str(target), "runs": [str(run) for run in runs], "bytes": len(page.encode())},
                indent=1,
            )
        )
    else:
        print(f"Written to {target}")
