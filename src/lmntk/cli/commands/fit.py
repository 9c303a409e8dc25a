"""``lmntk fit``: from one labelled file to a classifier, and how good it is."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

import typer

from lmntk.cli.labelled import LabelledFile, labelled_options, read_labelled_file
from lmntk.cli.options import FieldOption, JsonOption
from lmntk.cli.printing import print_wrapped, with_progress

if TYPE_CHECKING:
    from lmntk.estimator.record import FitRecord


def fit_options() -> list[FieldOption]:
    """Return the options of a fit."""
    from lmntk.experiment.configuration import Fit

    return labelled_options(Fit)


def fit(
    context: typer.Context,
    file: LabelledFile,
    as_json: JsonOption = False,
) -> None:
    """Make a classifier from one labelled file, and rate it.

    Needs two texts of each class or more. The accuracy is held out, and simple rivals stand beside it, on the same
    texts. "Do not fine-tune this" is a result. `lmntk predict` classifies with the folder.

    Example: lmntk fit tickets.csv --model roberta-base --text-column message --label-column category
    --template "{a} It is about {mask}." --label-words "Billing=payment,Shipping=delivery" --out tickets
    """
    from lmntk.experiment.configuration import Fit

    options, read = read_labelled_file(context, file, Fit)
    from lmntk.estimator.fit import fit_file

    record = with_progress(partial(fit_file, options, read))
    if as_json:
        print(json.dumps(record.model_dump(), indent=1))
    else:
        print_fit(record)
        page = options.out / "report.html"
        if page.exists():
            print(f"More: {page}")
        print(f"Next: lmntk predict {options.out} FILE --out classes.csv")


def print_fit(record: FitRecord) -> None:
    """Print a fit: the sentence, and the rivals."""
    from lmntk.estimator.standing import TOO_FEW

    standing = record.standing
    print_wrapped(TOO_FEW if standing is None else standing["sentence"], 2)
    if standing is not None and standing["outcome"] != "few":
        print_wrapped(
            f"accuracy on new texts: {100 * standing['accuracy']:.1f} % "
            f"(90 in 100: {100 * standing['low']:.1f} to {100 * standing['high']:.1f}), "
            f"estimated from {standing['texts']} texts that were held out in turn. {standing['condition']}",
            2,
        )
        for rival in standing["rivals"]:
            lead = f"{100 * rival['lead']:+.1f} ± {100 * rival['error']:.1f}"
            print(f"  {rival['name']:<32}{100 * rival['accuracy']:6.1f}   this one {lead}")
    chosen = ", ".join(f"{name} {value}" for name, value in record.setting.items())
    print_wrapped(f"chosen: mode {record.mode}, {chosen}", 2)
    for number, prompt in enumerate(record.prompts):
        words = ",".join(prompt.label_words)
        if prompt.template == record.template and prompt.label_words == [
            *(record.label_words or {}).values()
        ]:
            print_wrapped(
                f"prompt {number + 1} of {len(record.prompts)} was taken, {prompt.template!r} with {words}; it is chosen anew in "
                f"each fold, in {100 * prompt.taken:.0f} % of them this one",
                2,
            )
