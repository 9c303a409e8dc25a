"""``lmntk prompts``: which prompt, by kernels alone."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

import typer

from lmntk.cli.labelled import LabelledFile, labelled_options, read_labelled_file
from lmntk.cli.options import FieldOption, JsonOption
from lmntk.cli.printing import print_wrapped, with_progress

if TYPE_CHECKING:
    from lmntk.estimator.prompts import PromptsRecord


def prompts_options() -> list[FieldOption]:
    """Return the options of a comparison."""
    from lmntk.experiment.configuration import Prompts

    return labelled_options(Prompts)


def prompts(
    context: typer.Context,
    file: LabelledFile,
    as_json: JsonOption = False,
) -> None:
    """Rank prompts by the held-out accuracy of their kernels.

    Each template is tried with each set of label words, by its kernel and without training. Zero-shot stands beside it: as it
    is, centred, and with a fitted threshold. The accuracy of the best is estimated with the choice made anew in each fold.
    Needs five texts of each class or more. A high rank is no promise of a good fine-tuning: see docs/results/prompts.md.

    Example: lmntk prompts tickets.csv --model roberta-base --text-column message --label-column category
    --template "{a} It is about {mask}." --template "{mask}: {a}" --label-words "Billing=payment,Shipping=delivery" --out prompts
    """
    from lmntk.experiment.configuration import Prompts

    options, read = read_labelled_file(context, file, Prompts)
    from lmntk.estimator.prompts import prompts_file

    record = with_progress(partial(prompts_file, options, read))
    if as_json:
        print(json.dumps(record.model_dump(), indent=1))
    else:
        print_prompts(record)


def print_prompts(record: PromptsRecord) -> None:
    """Print a row for each prompt, and what came out."""
    from lmntk.estimator.prompts import METHODS

    columns = dict(zip(METHODS, ("kernel", "zero-shot", "centred", "threshold"), strict=True))
    heads = "".join(f"{title:>14}" for title in columns.values())
    print(f"{'':>3}{heads}{'taken':>7}{'tokens':>8}  prompt")
    for row in record.prompts:
        figures = "".join(f"{_shown(row[name]):>14}" for name in columns)
        words = ",".join(row["label_words"]) + (f" (proposal {row['proposed']})" if row["proposed"] else "")
        print(
            f"{row['number']:>3}{figures}{100 * row['taken']:>5.0f} %{row['tokens']:>8.1f}  {row['template']!r} {words}"
        )
    print_wrapped(
        "accuracy held out in % ± its standard error over texts; taken: the share of folds whose other texts choose this prompt",
        2,
    )
    above = [str(row["number"]) for row in record.prompts if row["above_chance"]]
    print_wrapped(
        f"better than chance by more than the error that holds for all rows at once: {', '.join(above) or 'none'}",
        2,
    )
    for sentence in record.sentences:
        print_wrapped(sentence, 2)


def _shown(figures: dict[str, Any]) -> str:
    return f"{100 * figures['accuracy']:.1f} ± {100 * figures['error']:.1f}"
