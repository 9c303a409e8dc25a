"""``lmntk check``: the doctor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lmntk.cli.options import (
    AttentionOption,
    BaseOption,
    DtypeOption,
    JsonOption,
    KindOption,
    LabelWordsOption,
    ReduceOption,
    RevisionOption,
    TemplateOption,
    given,
    listed,
)
from lmntk.cli.printing import print_wrapped
from lmntk.errors import UserError


def check(
    model: Annotated[str, typer.Argument(help="a model or adapter folder, or a hub name")],
    kind: KindOption = None,
    revision: RevisionOption = None,
    base: BaseOption = None,
    mode: Annotated[str, typer.Option(help="prompt or head")] = "prompt",
    template: TemplateOption = None,
    label_words: LabelWordsOption = None,
    label_words_reduce: ReduceOption = None,
    task: Annotated[
        str | None, typer.Option(help="one of the 14 tasks: its prompt, words and test texts")
    ] = None,
    data: Annotated[str | None, typer.Option(help="folder of the tasks' texts")] = None,
    texts: Annotated[
        Path | None, typer.Option(help="JSONL of your own texts: text_a, label  [default: bundled reviews]")
    ] = None,
    dtype: DtypeOption = None,
    attention: AttentionOption = None,
    as_json: JsonOption = False,
) -> None:
    """The doctor: is this model fit to have its kernels taken? Exit code 0 when all is well, 1 when something is not.

    Looks at every parameter's gradient beside plain autograd, tied parameters, batch composition, rounding noise, the label
    words' ranks, and the accuracy before training where there are labels. Label words that are several tokens of this model are
    a mistake when given (exit code 2), a fault when they are a task's, a note when they are the default ones.

    Example: lmntk check roberta-base --template "{a} It was {mask}." --label-words terrible,great
    """
    if mode not in ("prompt", "head"):
        raise UserError(f"mode: {mode!r} is neither prompt nor head")
    from lmntk.checkup.examine import PromptChoice, TextChoice
    from lmntk.checkup.examine import check as examine_model
    from lmntk.checkup.findings import is_well

    findings = examine_model(
        model,
        PromptChoice(mode, template or None, listed(label_words) if label_words else None, label_words_reduce),
        TextChoice(task, data, texts),
        **given(dtype=dtype, attention=attention, kind=kind, revision=revision, base=base),
    )  # fmt: skip
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
