"""``lmntk predict``: any number of texts through a solved model."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from lmntk.cli.configured import some_options
from lmntk.cli.options import JsonOption
from lmntk.cli.printing import with_progress
from lmntk.errors import UserError

OPTIONS = partial(some_options, ("model", "memory", "device", "device_memory"))


def predict(
    context: typer.Context,
    folder: Annotated[
        str, typer.Argument(metavar="DIR", help="the folder of a fit or a run, or one of its models/*")
    ],
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="the texts: CSV, TSV, JSON lines, Parquet, a folder of save_to_disk; - is JSON lines on stdin",
        ),
    ],
    target: Annotated[
        str,
        typer.Option(
            "--out", metavar="FILE", help="the answers, as CSV, TSV or JSON lines by its ending; - is stdout"
        ),
    ] = "-",
    split: Annotated[
        str | None, typer.Option(help="split of the run", show_default="the best on dev")
    ] = None,
    method: Annotated[str | None, typer.Option(help='method of the run, such as "sgd ridge"')] = None,
    text_column: Annotated[
        str | None,
        typer.Option(
            help="column of the text", show_default="the one DIR was made from, else text, else text_a"
        ),
    ] = None,
    text_b_column: Annotated[
        str | None,
        typer.Option(
            help="column of the second text",
            show_default="the one DIR was made from, else text_b, if it is there",
        ),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(help="texts in one forward pass", min=1, rich_help_panel="Machine")
    ] = 32,
    as_json: JsonOption = False,
) -> None:
    """Classify any number of texts with a solved model.

    DIR is what lmntk fit or run --save-models wrote. Each text takes one pass, without training texts or kernels. A table
    has the columns of FILE, and four more: label, probability, margin (to the runner-up), and look, which is yes if a
    person should look. JSON lines also have the decisions. If the pre-trained model has moved, --model says where it is.

    Example: lmntk predict runs/tickets new.csv --text-column message --out classes.csv
    """
    from lmntk.prediction.description import WantedPredictor
    from lmntk.prediction.limits import PassLimits
    from lmntk.prediction.stream import predict_file
    from lmntk.prediction.texts import STANDARD, TextSource
    from lmntk.system.memory import default_memory, parse_bytes

    for value, name in ((folder, "DIR"), (source, "FILE"), (target, "--out")):
        if not value.strip():  # which as a path would be the folder that one is in
            raise UserError(f"predict: {name} is empty; name a path")
    given = context.obj
    memory, device_memory = given.get("memory"), given.get("device_memory")
    wanted = WantedPredictor(split, method, given.get("model"))
    limits = PassLimits(
        batch_size,
        default_memory() if memory is None else parse_bytes(memory),
        None if device_memory is None else parse_bytes(device_memory, "device-memory"),
    )

    def work(progress: Any) -> dict[str, Any]:
        progress.work("texts", None)
        return predict_file(
            Path(folder),
            TextSource(source, text_column, text_b_column),
            target,
            wanted,
            limits,
            device=given.get("device", "auto"),
            note=progress.note,
            report=progress.advance,
        )

    done = with_progress(work)
    if target == STANDARD:
        return  # stdout is the result
    if as_json:
        print(json.dumps(done, indent=1))
        return
    looks = f"; {done['look']} to look at" if done["look"] else ""
    print(f"{done['texts']} texts classified into {target} ({done['texts_per_second']:.1f} a second){looks}")
