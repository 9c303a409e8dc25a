"""``lmntk explain``: which training texts a prediction comes from, and what would have happened with other training texts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lmntk.cli.configured import some_options
from lmntk.cli.options import LIST, JsonOption, TextBColumnOfFit, TextColumnOfFit
from lmntk.cli.printing import print_wrapped, with_progress
from lmntk.errors import UserError

if TYPE_CHECKING:
    from lmntk.explanation.records import ChangeRecord, ExplainedText, ExplanationRecord, TrainingText

OPTIONS = partial(some_options, ("model", "memory", "device"))
SHOWN, LETTERS = 3, 70  # texts for and against a prediction, and letters of each
MOST_CHANGES = 20  # rows of a table of changes
CHANGES = "What would have happened"


def explain(
    context: typer.Context,
    folder: Annotated[str, typer.Argument(metavar="DIR", help="the folder of a fit or a run")],
    file: Annotated[
        str | None,
        typer.Argument(
            help="texts to explain; the default is the training texts, each decided by the others"
        ),
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option(help="a text to explain; given once or several times")
    ] = None,
    text_column: TextColumnOfFit = None,
    text_b_column: TextBColumnOfFit = None,
    texts: Annotated[int, typer.Option(help="texts to explain at most", min=1)] = 20,
    shapley: Annotated[
        str | None,
        typer.Option(
            metavar="auto|exact|ORDERS",
            help="Shapley values too: exact up to 10 training texts, else by random orders, 200 by default",
        ),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(help="leave out a training text: give its words", rich_help_panel=CHANGES),
    ] = None,
    without_rows: Annotated[
        str | None,
        typer.Option(
            metavar=LIST, help="leave out the training texts in these rows, from 1", rich_help_panel=CHANGES
        ),
    ] = None,
    relabel: Annotated[
        str | None,
        typer.Option(
            metavar="ROW=CLASS,...",
            help="give the training texts in these rows another label",
            rich_help_panel=CHANGES,
        ),
    ] = None,
    trust: Annotated[
        str | None,
        typer.Option(metavar="check", help="check: compare a short real training with its emulation"),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="split of the run", show_default="the best on dev")
    ] = None,
    method: Annotated[str | None, typer.Option(help='method of the run, such as "sgd ridge"')] = None,
    out: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="folder of explain.json and explain.html", show_default="DIR"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say which training texts a prediction comes from, or what other training texts would have changed.

    A prediction is an offset plus what each training text adds; the sum is exact. With --without, --without-rows or
    --relabel, predictions are compared with those of training on the changed texts.

    Example: lmntk explain tickets --text "my parcel never came"
    """
    from lmntk.explanation.asked import Machine, Question
    from lmntk.prediction.texts import TextSource
    from lmntk.system.memory import parse_bytes

    for value, name in ((folder, "DIR"), (file, "FILE"), (out, "--out")):
        if value == "":  # which as a path would be the folder that one is in
            raise UserError(f"explain: {name} is empty; name a path")
    if trust not in (None, "check"):
        raise UserError(f"trust: {trust!r} is not known; use --trust check, or leave it out")
    given = context.obj
    memory = given.get("memory")
    question = Question(
        Path(folder),
        None if file is None else TextSource(file, text_column, text_b_column, command="explain"),
        tuple(text or ()),
        texts,
        orders_of(shapley),
        tuple(without or ()),
        rows_of(without_rows),
        labels_of(relabel),
        trust == "check",
        split,
        method,
        Machine(
            given.get("model"), given.get("device", "auto"), None if memory is None else parse_bytes(memory)
        ),
    )
    target = Path(folder if out is None else out)
    check_target(target)
    from lmntk.explanation.answer import answer

    record = with_progress(partial(answer, question))
    from lmntk.explanation.records import ExplanationRecord
    from lmntk.explanation.written import write

    page = write(record, target)
    if as_json:
        print(json.dumps(record.model_dump(), indent=1))
    elif isinstance(record, ExplanationRecord):
        print_explanation(record)
        print(f"More: {page}")
    else:
        print_changes(record)
        print(f"All {len(record.texts)} texts: {page}")


def orders_of(shapley: str | None) -> int | None:
    """Return in how many orders texts come for Shapley values; 0 for all parts.

    Raises:
        UserError: no number of orders.
    """
    from lmntk.explanation.asked import ORDERS

    if shapley is None:
        return None
    if shapley in ("auto", "exact"):
        return ORDERS if shapley == "auto" else 0
    if not shapley.isdecimal() or int(shapley) < 2:
        raise UserError(
            f"shapley: {shapley!r} is not auto, exact, or a number of orders from 2; use --shapley auto"
        )
    return int(shapley)


def rows_of(rows: str | None) -> tuple[int, ...]:
    """Return rows from a list with commas.

    Raises:
        UserError: one is no whole number.
    """
    found = [part.strip() for part in (rows or "").split(",") if part.strip()]
    wrong = [part for part in found if not part.isdecimal()]
    if wrong or (rows is not None and not found):
        raise UserError(
            f"without-rows: {(wrong or [rows or ''])[0]!r} is not a row; give numbers from 1, such as 3,5"
        )
    return tuple(map(int, found))


def labels_of(relabel: str | None) -> dict[int, str]:
    """Return the new label of rows, from ``3=Billing,5=Returns``.

    Raises:
        UserError: an entry is not of this form, or a row has two labels.
    """
    labels: dict[int, str] = {}
    for entry in (relabel or "").split(",") if relabel is not None else ():
        row, _, label = entry.partition("=")
        if not row.strip().isdecimal() or not label.strip():
            raise UserError(
                f"relabel: {entry!r} is not ROW=CLASS; write 3=Billing, with commas between several"
            )
        if int(row) in labels:
            raise UserError(f"relabel: row {int(row)} is given two labels; give it one")
        labels[int(row)] = label.strip()
    return labels


def check_target(out: Path) -> None:
    """Refuse a folder that cannot be written to.

    Raises:
        UserError: it is a file, lies in one, or may not be written to.
    """
    from lmntk.estimator.given import check_folder

    check_folder(out)


def print_explanation(record: ExplanationRecord) -> None:
    """Print each prediction with the texts that speak most for and against it."""
    from lmntk.explanation.written import weights_of

    print_wrapped(
        f"{_counted(len(record.texts), record.held_out)}; {len(record.training)} were trained on; {record.regime['sentence']}",
        2,
    )
    for explained in record.texts:
        known = "" if explained.label is None else f", labelled {explained.label}"
        row = "" if explained.row is None else f"row {explained.row}: "
        print()
        print_wrapped(f"{row}{explained.text[:LETTERS]!r} is {explained.predicted}{known}", 2)
        print_wrapped(
            f"  margin over {explained.runner_up} {explained.margin:+.3f}, of this the offset {explained.offset:+.3f}",
            4,
        )
        for line in lines_of(explained, record.training):
            print_wrapped(line, 12)
    if any(weights_of(explained) is not explained.influence for explained in record.texts):
        print_wrapped("with a ridge of 0 no influence is known; the figures are contributions", 2)
    for note in record.notes:
        print_wrapped(note, 2)


def lines_of(explained: ExplainedText, training: Sequence[TrainingText]) -> list[str]:
    """Return a line for each of the texts that speak most for and against a prediction."""
    from lmntk.explanation.written import strongest, weights_of

    lines, weights = [], weights_of(explained)
    for way, numbers in zip(("for", "against"), strongest(explained, SHOWN), strict=True):
        for number in numbers:
            contribution, other = explained.contributions[number], explained.without[number]
            shapley = None if explained.shapley is None else explained.shapley[number]
            assert contribution is not None
            parts = [f"{other} without it"] if other is not None else []
            parts += [f"contribution {contribution:+.3f}"] if weights is explained.influence else []
            if shapley is not None and explained.shapley_errors is not None:
                error = explained.shapley_errors[number]
                parts.append(f"Shapley {shapley:+.3f}" + (f" ± {error:.3f}" if error else ""))
            text = training[number]
            said = f" ({', '.join(parts)})" if parts else ""
            lines.append(
                f"  {way:<7} {weights[number]:+.3f}  {text.label}, row {text.row}: {text.text[:LETTERS]!r}{said}"
            )
    return lines


def print_changes(record: ChangeRecord) -> None:
    """Print what was changed, and the predictions that moved most."""
    for text in record.without:
        print_wrapped(f"without row {text.row}, {text.label}: {text.text[:LETTERS]!r}", 2)
    for text in record.relabelled:
        print_wrapped(f"row {text.row} is {text.label}: {text.text[:LETTERS]!r}", 2)
    counted = _counted(len(record.texts), record.held_out)
    print_wrapped(
        f"another class is predicted of {record.flips} of {counted}; {record.regime['sentence']}", 2
    )
    print("  margin change  class")
    for changed in record.texts[: max(SHOWN, min(record.flips, MOST_CHANGES))]:
        row = "" if changed.row is None else f"row {changed.row}: "
        classes = (
            changed.before if changed.after == changed.before else f"{changed.before} -> {changed.after}"
        )
        print_wrapped(
            f"  {changed.margin:+.3f} {changed.change:+.3f}  {classes}  {row}{changed.text[:LETTERS]!r}", 6
        )
    for note in record.notes:
        print_wrapped(note, 2)


def _counted(texts: int, held_out: bool) -> str:
    kind = "training text" if held_out else "text"
    return f"{texts} {kind}{'' if texts == 1 else 's'}" + (", each decided by the others" if held_out else "")
