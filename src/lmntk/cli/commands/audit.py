"""``lmntk audit``: which labels are probably wrong."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

import typer

from lmntk.cli.labelled import LabelledFile, labelled_options, read_labelled_file
from lmntk.cli.options import FieldOption, JsonOption
from lmntk.cli.printing import print_wrapped, with_progress

if TYPE_CHECKING:
    from lmntk.estimator.audit import AuditRecord

SHOWN = 20  # rows; all are in the folder


def audit_options() -> list[FieldOption]:
    """Return the options of an audit."""
    from lmntk.experiment.configuration import Audit

    return labelled_options(Audit)


def audit(
    context: typer.Context,
    file: LabelledFile,
    as_json: JsonOption = False,
) -> None:
    """Find the labels of a file that are probably wrong.

    Each text is decided without its own label. The most doubtful labels are named, as many as a promised share of
    right ones allows. Needs five texts of each class or more.

    Example: lmntk audit tickets.csv --model roberta-base --text-column message --label-column category --out audit
    """
    from lmntk.experiment.configuration import Audit

    options, read = read_labelled_file(context, file, Audit)
    from lmntk.estimator.audit import audit_file

    record = with_progress(partial(audit_file, options, read))
    if as_json:
        print(json.dumps(record.model_dump(), indent=1))
    else:
        print_audit(record)
        print(f"All {len(record.rows)} texts, the most suspicious first: {options.out}/audit.csv")
        page = options.out / "audit.html"
        if page.exists():
            print(f"More: {page}")


def print_audit(record: AuditRecord) -> None:
    """Print how many labels are named, and the first of them."""
    print_wrapped(f"accuracy, held out, if every label is right: {100 * record.accuracy:.1f} %", 2)
    print_wrapped(record.sentence, 2)
    for row in record.rows[: min(record.named, SHOWN)]:
        print_wrapped(
            f"  row {row['row']}: {row['text'][:70]!r} is labelled {row['label']!r} (probability {100 * row['probability']:.0f} %); "
            f"the others say {row['proposed']!r}",
            6,
        )
    print_wrapped(record.regime["sentence"], 2)
    for line in record.contradictions:
        print_wrapped(f"  several labels: {line}", 6)
