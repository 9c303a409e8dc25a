"""``lmntk next``: which texts to label next."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from lmntk.cli.configured import some_options
from lmntk.cli.options import JsonOption, TextBColumnOfFit, TextColumnOfFit
from lmntk.cli.printing import print_wrapped, with_progress
from lmntk.errors import UserError

OPTIONS = partial(some_options, ("model", "memory", "device"))
LETTERS = 70  # of a text that is shown


def next_texts(
    context: typer.Context,
    folder: Annotated[str, typer.Argument(metavar="DIR", help="the folder of a fit")],
    file: Annotated[str, typer.Argument(metavar="UNLABELLED", help="texts without labels")],
    count: Annotated[int, typer.Option(help="texts to label", min=1)] = 10,
    text_column: TextColumnOfFit = None,
    text_b_column: TextBColumnOfFit = None,
    out: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="folder of next.json and next.csv", show_default="DIR"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say which texts to label next: those that the classifier is least sure of, and no two alike.

    Each is the text that is least sure once the texts before it are labelled. Below 75 % sureness no class should be said.

    Example: lmntk next tickets new-tickets.csv --count 10
    """
    for value, name in ((folder, "DIR"), (file, "UNLABELLED"), (out, "--out")):
        if value == "":  # which as a path would be the folder that one is in
            raise UserError(f"next: {name} is empty; name a path")
    from lmntk.estimator.given import check_folder
    from lmntk.explanation.asked import Machine
    from lmntk.prediction.texts import TextSource
    from lmntk.system.memory import parse_bytes

    given = context.obj
    memory = given.get("memory")
    machine = Machine(
        given.get("model"), given.get("device", "auto"), None if memory is None else parse_bytes(memory)
    )
    source = TextSource(file, text_column, text_b_column, command="next")
    target = Path(folder if out is None else out)
    check_folder(target)
    from lmntk.explanation import next_texts as module

    record = with_progress(partial(module.next_texts, module.Pool(Path(folder), source, count, machine)))
    module.write_next(record, target)
    if as_json:
        print(json.dumps(record.model_dump(), indent=1))
        return
    for text in record.texts:
        if text.rank is not None:
            print_wrapped(
                f"{text.rank:3}. row {text.row}: {text.text[:LETTERS]!r} is {text.predicted} rather than {text.runner_up}: "
                f"{100 * text.sure:.0f} % sure",
                5,
            )
    unsure = sum(text.abstain for text in record.texts)
    print_wrapped(
        f"of {record.pool} texts that could be labelled the {len(record.texts)} with the smallest margins were compared; "
        f"on {unsure} of these no class should be said (less than {100 * module.ABSTAIN:.0f} % sure)",
        2,
    )
    print_wrapped(record.regime["sentence"], 2)
    print(f"All that were compared: {target}/next.json; those to label: {target}/next.csv")
