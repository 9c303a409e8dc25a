"""``lmntk run``, from texts to accuracies, and ``lmntk plan``, what it would take."""

from __future__ import annotations

import inspect
import json
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from lmntk.cli.options import (
    BaseOption,
    DtypeOption,
    FeaturesOption,
    FormulasOption,
    JsonOption,
    KindOption,
    LabelWordsOption,
    ModelOption,
    ReduceOption,
    RevisionOption,
    TemplateOption,
    given,
    listed,
    numbers,
    training,
    with_computing,
    with_training,
)
from lmntk.cli.printing import print_summary, print_verdicts, print_written, with_bars
from lmntk.errors import UserError


@with_training(before="diagnose")
@with_computing(before="no_kernels")
def run(
    configuration: Annotated[
        Path | None, typer.Argument(help="a TOML file with the fields below; flags override it")
    ] = None,
    model: ModelOption = None,
    kind: KindOption = None,
    revision: RevisionOption = None,
    base: BaseOption = None,
    data: Annotated[
        str | None,
        typer.Option(help="folder of the tasks' texts, <task>/train.jsonl.gz, LM-BFF's or GLUE's layout"),
    ] = None,
    tasks: Annotated[str | None, typer.Option(help="of the 14: sst-2,mr,...")] = None,
    train: Annotated[
        str | None, typer.Option(help="your own texts: CSV, TSV, JSONL, Parquet, or hf:NAME")
    ] = None,
    test: Annotated[str | None, typer.Option(help="your own test texts")] = None,
    name: Annotated[str | None, typer.Option(help="a name for your own task  [default: own]")] = None,
    text_column: Annotated[str | None, typer.Option(help="column of the text  [default: text]")] = None,
    text_b_column: Annotated[str | None, typer.Option(help="column of the second text")] = None,
    label_column: Annotated[str | None, typer.Option(help="column of the label  [default: label]")] = None,
    labels: Annotated[str | None, typer.Option(help="label values in the order of the label words")] = None,
    metric: Annotated[
        str | None, typer.Option(help="accuracy or f1, of your own task  [default: accuracy]")
    ] = None,
    template: TemplateOption = None,
    label_words: LabelWordsOption = None,
    label_words_reduce: ReduceOption = None,
    max_length: Annotated[int | None, typer.Option(help="longest prompted text in tokens")] = None,
    k: Annotated[
        str | None,
        typer.Option("--k", help="texts a class to train on, and as many to validate: 16,64  [default: 16]"),
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="of the splits  [default: 13,21,42,87,100]")] = None,
    modes: Annotated[str | None, typer.Option(help="prompt, head, or both  [default: prompt]")] = None,
    formulas: FormulasOption = None,
    solvers: Annotated[
        str | None,
        typer.Option(
            help="of ridge, asym, logistic, row-logistic, svc, svr  [default: ridge; asym for asigngd]"
        ),
    ] = None,
    features: FeaturesOption = None,
    finetune: Annotated[
        str | None, typer.Option(help="fine-tune for real as well: of sgd, adamw, signgd")
    ] = None,
    diagnose: Annotated[
        bool, typer.Option("--diagnose", help="say whether fine-tuning behaves like its kernel")
    ] = False,
    test_limit: Annotated[int | None, typer.Option(help="most test texts  [default: 1000]")] = None,
    out: Annotated[
        Path | None, typer.Option(help="the output folder; a rerun resumes it  [default: runs/lmntk]")
    ] = None,
    dtype: DtypeOption = None,
    no_kernels: Annotated[bool, typer.Option("--no-kernels", help="do not keep the kernels on disk")] = False,
    save_models: Annotated[
        bool, typer.Option("--save-models", help="keep each solution as a model for lmntk predict")
    ] = False,
    as_json: JsonOption = False,
    **grouped: Any,
) -> None:
    """From texts to kernels to accuracy: tasks x k x seeds x modes x formulas, beside zero-shot and a linear probe.

    Writes report.html, results.csv, summary.md, kernels, logits and predictions to --out. Run again, it resumes.

    Example: lmntk run --model roberta-base --data data --tasks sst-2 --k 16 --modes prompt,head --out runs/sst-2
    """
    experiment = experiment_of(locals() | grouped)
    from lmntk.experiment.run import run as run_experiment

    rows = with_bars(lambda progress: run_experiment(experiment, progress))
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        print_summary(rows)
        print()
        if experiment.diagnose:
            from lmntk.experiment.report import verdicts_of

            print_verdicts(verdicts_of(experiment.out))
        print_written(experiment.out)


@wraps(run, assigned=("__annotations__",))
def plan(**options: Any) -> None:
    """What a run would take: operations, memory, disk, time here and on one large GPU. Takes what run takes.

    A few batches are computed and this machine's speed is measured; nothing else is written to --out.

    Example: lmntk plan --model roberta-base --data data --tasks sst-2 --k 16 --memory 4GiB
    """
    experiment = experiment_of(options)
    from lmntk.experiment.plan import plan as plan_experiment

    found = with_bars(lambda progress: plan_experiment(experiment, progress))
    if options["as_json"]:
        print(json.dumps({name: estimate.as_dict() for name, estimate in found}, indent=1))
    elif not found:
        print(f"nothing is left to compute in {experiment.out}")
    else:
        for name, estimate in found:
            print(f"{name}: {estimate.describe()}")
        if len(found) > 1:
            total = found[0][1]
            for _, estimate in found[1:]:
                total = total + estimate
            print(f"all: {total.describe()}")


def experiment_of(
    options: dict[str, Any], more: dict[str, Any] | None = None, defaults: dict[str, Any] | None = None
) -> Any:
    """Returns the checked configuration of the options that ``run``, ``plan``, ``finetune`` and ``diagnose`` take.

    Args:
        options: by the names of ``run``'s parameters.
        more: fields that go over the options and the file.
        defaults: fields for what neither of them says.
    """
    from lmntk.experiment.configuration import load_experiment, make_experiment

    own_names = ("train", "test", "text_column", "text_b_column", "label_column", "labels", "metric")
    apart = (
        *own_names,
        "configuration",
        "grouped",
        "name",
        "as_json",
        "no_kernels",
        "template",
        "k",
        "seeds",
    )
    fields = given(
        **{name: value for name, value in options.items() if name not in apart},
        template=tuple(options["template"] or ()) or None,
        k=numbers("k", options["k"]),
        seeds=numbers("seeds", options["seeds"]),
    )
    if options["no_kernels"]:
        fields["keep_kernels"] = False
    trained = given(
        **{name: fields.pop(name, None) for name in (*inspect.signature(training).parameters, "export")}
    )
    own = given(**{name: options[name] for name in own_names})
    if own:
        if "train" not in own:
            raise UserError(
                f"--{next(iter(own)).replace('_', '-')} describes your own texts; give them with --train FILE"
            )
        if "labels" in own:
            own["labels"] = listed(own["labels"])
        fields["own_tasks"] = [{"name": options["name"] or "own", **own}]
    fields |= more or {}
    if trained:
        fields["finetuning"] = trained
    configuration = options["configuration"]
    if configuration is None and "model" not in fields:
        raise UserError("run: give --model and texts, or a TOML file: lmntk run experiment.toml")
    experiment = (
        make_experiment((defaults or {}) | fields)
        if configuration is None
        else load_experiment(configuration, fields, defaults)
    )
    if trained and not experiment.finetune:
        name = next(iter(trained)).replace("_", "-")
        raise UserError(
            f"run: --{name} is of fine-tuning, and nothing is trained; add --finetune sgd (of diagnose: --optimizers sgd)"
        )
    return experiment
