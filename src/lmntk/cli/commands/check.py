"""``lmntk check``: the doctor."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from lmntk.cli.configured import some_options
from lmntk.cli.options import JsonOption, given_path
from lmntk.cli.printing import print_wrapped, with_progress
from lmntk.errors import UserError

FIELDS = (
    "kind",
    "revision",
    "gguf",
    "base",
    "template",
    "label_words",
    "chat",
    "label_words_reduce",
    "dtype",
    "attention",
    "text_column",
    "text_b_column",
    "label_column",
    "labels",
)
OPTIONS = partial(some_options, FIELDS)


def check(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="a model or adapter folder, a GGUF file, or a hub name")],
    mode: Annotated[str, typer.Option(help="prompt or head", rich_help_panel="Prompt")] = "prompt",
    task: Annotated[
        str | None,
        typer.Option(help="one of the 14 tasks: its prompt, words and test texts", rich_help_panel="Data"),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="folder of the tasks' texts", rich_help_panel="Data")
    ] = None,
    texts: Annotated[
        Path | None,
        typer.Option(
            parser=given_path,
            metavar="PATH",
            help="your own texts: CSV, TSV, JSONL, Parquet; labels are optional",
            rich_help_panel="Data",
            show_default="bundled reviews",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say whether lmntk reads a model correctly.

    The exit code is 0 if all is well, else 1. It compares every parameter's gradient with plain autograd. It also
    looks at tied parameters, batch composition, rounding noise and the ranks of the label words, and at the
    accuracy before training if there are labels. Label words of several tokens are a mistake if you gave them
    (exit code 2), a fault if they are a task's, and a note if they are the default ones.

    Example: lmntk check roberta-base --template "{a} It was {mask}." --label-words terrible,great
    """
    if mode not in ("prompt", "head"):
        raise UserError(f"mode: {mode!r} is neither prompt nor head")
    from lmntk.checkup.choices import PromptChoice, TextChoice, check_choices
    from lmntk.experiment.configuration.parts import parts_of
    from lmntk.tasks import Columns

    given = context.obj
    words = list(parts_of(given.pop("label_words", ""))) or None
    template, reduce = given.pop("template", None), given.pop("label_words_reduce", None)
    prompt = PromptChoice(mode, template, words, reduce, given.pop("chat", False))
    table = given.pop("own_tasks", {})
    columns = Columns(
        table.get("text_column", "text"), table.get("text_b_column"), table.get("label_column", "label")
    )
    labels = parts_of(table["labels"]) if "labels" in table else None
    chosen = TextChoice(task, data, texts, columns, labels)
    check_choices(prompt, chosen)
    from lmntk.checkup.examine import check as examine_model
    from lmntk.checkup.findings import is_well

    findings = with_progress(
        lambda progress: examine_model(model, prompt, chosen, progress=progress, **given),
        notices_at_once=False,
    )
    well = is_well(findings)
    if as_json:
        print(
            json.dumps(
                {
                    "model": model,
                    "all_is_well": well,
                    "findings": [finding.as_dict() for finding in findings],
                },
                indent=1,
            )
        )
    else:
        for finding in findings:
            print_wrapped(finding.as_text(), indent=7)
        faults = sum(finding.level == "fault" for finding in findings)
        print("all is well" if well else f"not all is well: {faults} fault{'' if faults == 1 else 's'}")
    if not well:
        raise typer.Exit(1)
