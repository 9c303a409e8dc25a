"""``lmntk subspace``: what to train, at which rank, at which rate."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

import typer

from lmntk.cli.labelled import LabelledFile, labelled_options, read_labelled_file
from lmntk.cli.options import FieldOption, JsonOption
from lmntk.cli.printing import print_wrapped, with_progress

if TYPE_CHECKING:
    from lmntk.subspaces.record import SubspaceRecord


def subspace_options() -> list[FieldOption]:
    """Return the options of a comparison."""
    from lmntk.experiment.configuration import Subspace

    return labelled_options(Subspace)


def subspace(
    context: typer.Context,
    file: LabelledFile,
    as_json: JsonOption = False,
) -> None:
    """Compare what might train, and say which part to take.

    LoRA's targets and ranks, biases, norms, top layers. By kernels alone, without training: how far each candidate's
    kernel is from that of all parameters, its held-out accuracy, its stable rate beside full training's, and the
    smallest that keeps up, as a configuration of peft.

    Example: lmntk subspace tickets.csv --model roberta-base --text-column message --label-column category
    --targets query+value,all-linear --ranks 1,4,16 --out subspaces
    """
    from lmntk.experiment.configuration import Subspace

    options, read = read_labelled_file(context, file, Subspace)
    from lmntk.subspaces.compare import compare_file

    record = with_progress(partial(compare_file, options, read))
    if as_json:
        print(json.dumps(record.model_dump(), indent=1))
    else:
        print_survey(record)


def print_survey(record: SubspaceRecord) -> None:
    """Print the sentence, a row for each candidate, and peft's configuration."""
    if record.recommendation is None:
        print_wrapped(
            "There are too few texts to hold any out: give five of each class or more for a recommendation.",
            2,
        )
    else:
        print_wrapped(record.recommendation["sentence"], 2)
    if record.lora_config is not None:
        print(f"  {record.lora_config}")
    head = f"{'':<24}{'trained':>12}{'held out':>14}{'distance':>10}{'CKA':>6}{'condition':>11}{'loss':>7}{'stable rate':>14}"
    print(f"{head}{'of full':>9}")
    for row in record.candidates:
        print(_line(row))
    top = sorted(record.shares.items(), key=lambda item: -item[1])
    for kind in ("type", "layer"):
        shares = ", ".join(
            f"{name[len(kind) + 2 :]} {100 * share:.0f} %"
            for name, share in top
            if name.startswith(f"{kind}: ")
        )
        print_wrapped(f"shares of the kernel by {kind}: {shares}", 2)


def _line(row: dict[str, Any]) -> str:
    accuracy = (
        "" if row["accuracy"] is None else f"{100 * row['accuracy']:.1f} ± {100 * row['accuracy_error']:.1f}"
    )
    condition = row["condition"] if isinstance(row["condition"], str) else f"{row['condition']:.3g}"
    ratio = "" if row["rate_ratio"] is None else f"{row['rate_ratio']:.3g}"
    cka = "" if row["cka"] is None else f"{row['cka']:.2f}"
    rate = row["stable_rate"] if isinstance(row["stable_rate"], str) else f"{row['stable_rate']:.2e}"
    return (
        f"{row['name']:<24}{row['parameters']:>12,}{accuracy:>14}{row['distance']:>10.3f}{cka:>6}{condition:>11}"
        f"{row['loss']:>7.3f}{rate:>14}{ratio:>9}"
    )
