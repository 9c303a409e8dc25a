"""``lmntk reproduce``: the paper's tables and figures."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from lmntk.cli.commands.run import experiment_of, run
from lmntk.cli.options import given
from lmntk.cli.printing import print_summary, print_verdicts, print_written, with_bars
from lmntk.errors import UserError

# what an experiment is about is in its file; the command says on what, where, and how much of it
APART = (
    "configuration", "train", "test", "name", "text_column", "text_b_column", "label_column", "labels", "metric", "template", "label_words",
    "label_words_reduce", "max_length", "formulas", "solvers", "finetune", "diagnose", "save_models", "linearized",
)  # fmt: skip


def reproduce(
    experiment: Annotated[
        str | None, typer.Argument(metavar="NAME", help="which experiment; --list shows them")
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="what there is to reproduce")] = False,
    **options: Any,
) -> None:
    """Reproduce a table or figure of the paper: kernels, fine-tuning, diagnosis and report, from one of lmntk's own configurations.

    Options make it smaller, or say where: other tasks, k, seeds, fewer test texts, a smaller grid. Run again, it resumes, and experiments
    of one --out share what they have in common.

    Example: lmntk reproduce main --model roberta-base --data data --out runs/main

    On two cores: lmntk reproduce main --model DIR --data data --tasks sst-2,mr --k 16 --seeds 13,21 --test-limit 200
    --learning-rates 1e-3 --batch-sizes 8 --steps 100
    """
    from lmntk.bundled.experiments import names, place_of

    if show or experiment is None:
        if experiment is None and not show:
            raise UserError(f"reproduce: say what: {', '.join(names())}")
        print(
            json.dumps(names(), indent=1)
            if options["as_json"]
            else "\n".join(f"{name:<16}{what}" for name, what in names().items())
        )
        return
    path = place_of(experiment)
    if options["model"] is None or options["data"] is None:
        raise UserError(
            f"reproduce: give --{'model' if options['model'] is None else 'data'}; see lmntk reproduce --help for an example"
        )
    if options["tasks"] is not None and "texts_of" in path.read_text(encoding="utf8"):
        raise UserError(
            f"reproduce: {experiment} is of one task's prompts, so --tasks does not fit; leave it out"
        )
    absent = {
        name: parameter.default
        for name, parameter in inspect.signature(run).parameters.items()
        if name in APART
    }
    chosen = experiment_of(
        options | absent | {"configuration": path}, given(out=options["out"] or Path("runs") / experiment)
    )
    from lmntk.experiment.report import verdicts_of
    from lmntk.experiment.run import run as run_experiment

    rows = with_bars(lambda progress: run_experiment(chosen, progress))
    found = verdicts_of(chosen.out)
    if options["as_json"]:
        print(json.dumps({"rows": rows, **found}, indent=1))
        return
    print_summary(rows)
    print()
    print_verdicts(found)
    print_written(chosen.out)


def _signature() -> inspect.Signature:
    """Returns this command's own options, and run's that an experiment leaves open."""
    own = [
        p
        for p in inspect.signature(reproduce, eval_str=True).parameters.values()
        if p.kind is not p.VAR_KEYWORD
    ]
    shared = [p for name, p in inspect.signature(run, eval_str=True).parameters.items() if name not in APART]
    return inspect.Signature([*own, *shared])


_both = _signature()
reproduce.__signature__ = _both  # type: ignore[attr-defined]
reproduce.__annotations__ = {name: parameter.annotation for name, parameter in _both.parameters.items()}
