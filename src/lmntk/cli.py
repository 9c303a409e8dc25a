"""The command line: ``lmntk run``, ``plan``, ``kernel``, ``predict``, ``check``, ``split``, ``report``, ``demo``.

Results go to stdout, progress to stderr. A mistake of the user's is one line and exit code 2. Heavy libraries are imported by
the command that needs them, so that ``--help`` answers at once.
"""

from __future__ import annotations

import errno
import json
import sys
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from lmntk import __version__
from lmntk.commands.report import report
from lmntk.errors import ModelError, UserError
from lmntk.options import (
    AddressOption,
    AllLogitsOption,
    BaseOption,
    BatchOption,
    BiasesOption,
    DeviceOption,
    DtypeOption,
    EmbeddingsOption,
    EngineOption,
    ExcludeOption,
    FeaturesOption,
    FormulasOption,
    GroupsOption,
    HeadOption,
    IncludeOption,
    JsonOption,
    KeepFactorsOption,
    KindOption,
    LabelWordsOption,
    MemoryOption,
    ModelOption,
    NoiseOption,
    ReduceOption,
    RevisionOption,
    ScratchOption,
    TemplateOption,
    UntieOption,
    WorkersOption,
)
from lmntk.printing import print_kernels, print_summary, print_wrapped, print_written

INTERRUPTED = 130

app = typer.Typer(
    name="lmntk",
    help="Tangent kernels of pre-trained language models under fine-tuning: computed, solved, explained.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _given(**values: Any) -> dict[str, Any]:
    """Returns the options that were given."""
    return {name: value for name, value in values.items() if value is not None and value is not False}


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="print the version")] = False) -> None:
    if version:
        print(f"lmntk {__version__}")
        raise typer.Exit


@app.command()
def run(
    configuration: Annotated[Path | None, typer.Argument(help="a TOML file with the fields below; flags override it")] = None,
    model: ModelOption = None,
    kind: KindOption = None,
    revision: RevisionOption = None,
    base: BaseOption = None,
    data: Annotated[str | None, typer.Option(help="folder of the tasks' texts, <task>/train.jsonl.gz, LM-BFF's or GLUE's layout")] = None,
    tasks: Annotated[str | None, typer.Option(help="of the 14: sst-2,mr,...")] = None,
    train: Annotated[str | None, typer.Option(help="your own texts: CSV, TSV, JSONL, Parquet, or hf:NAME")] = None,
    test: Annotated[str | None, typer.Option(help="your own test texts")] = None,
    name: Annotated[str | None, typer.Option(help="a name for your own task  [default: own]")] = None,
    text_column: Annotated[str | None, typer.Option(help="column of the text  [default: text]")] = None,
    text_b_column: Annotated[str | None, typer.Option(help="column of the second text")] = None,
    label_column: Annotated[str | None, typer.Option(help="column of the label  [default: label]")] = None,
    labels: Annotated[str | None, typer.Option(help="label values in the order of the label words")] = None,
    metric: Annotated[str | None, typer.Option(help="accuracy or f1, of your own task  [default: accuracy]")] = None,
    template: TemplateOption = None,
    label_words: LabelWordsOption = None,
    label_words_reduce: ReduceOption = None,
    max_length: Annotated[int | None, typer.Option(help="longest prompted text in tokens")] = None,
    k: Annotated[str | None, typer.Option("--k", help="texts a class to train on, and as many to validate: 16,64  [default: 16]")] = None,
    seeds: Annotated[str | None, typer.Option(help="of the splits  [default: 13,21,42,87,100]")] = None,
    modes: Annotated[str | None, typer.Option(help="prompt, head, or both  [default: prompt]")] = None,
    formulas: FormulasOption = None,
    solvers: Annotated[
        str | None, typer.Option(help="of ridge, asym, logistic, row-logistic, svc, svr  [default: ridge; asym for asigngd]")
    ] = None,
    features: FeaturesOption = None,
    test_limit: Annotated[int | None, typer.Option(help="most test texts  [default: 1000]")] = None,
    out: Annotated[Path | None, typer.Option(help="the output folder; a rerun resumes it  [default: runs/lmntk]")] = None,
    dtype: DtypeOption = None,
    attention: Annotated[str | None, typer.Option(help="attention implementation: sdpa, eager")] = None,
    batch_size: BatchOption = None,
    memory: MemoryOption = None,
    scratch: ScratchOption = None,
    keep_factors: KeepFactorsOption = False,
    device: DeviceOption = None,
    engine: EngineOption = None,
    address: AddressOption = None,
    workers: WorkersOption = None,
    all_logits: AllLogitsOption = False,
    untie_head: UntieOption = False,
    without_embeddings: EmbeddingsOption = False,
    without_head: HeadOption = False,
    biases_only: BiasesOption = False,
    include: IncludeOption = None,
    exclude: ExcludeOption = None,
    groups: GroupsOption = False,
    keep_noise: NoiseOption = False,
    no_kernels: Annotated[bool, typer.Option("--no-kernels", help="do not keep the kernels on disk")] = False,
    save_models: Annotated[bool, typer.Option("--save-models", help="keep each solution as a model for lmntk predict")] = False,
    as_json: JsonOption = False,
) -> None:
    """From texts to kernels to accuracy: tasks x k x seeds x modes x formulas, beside zero-shot and a linear probe.

    Writes report.html, results.csv, summary.md, kernels, logits and predictions to --out. Run again, it resumes.

    Example: lmntk run --model roberta-base --data data --tasks sst-2 --k 16 --modes prompt,head --out runs/sst-2
    """
    experiment = _experiment(dict(locals()))
    from lmntk.experiment import run as run_experiment

    rows = _with_bars(lambda progress: run_experiment(experiment, progress))
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        print_summary(rows)
        print()
        print_written(experiment.out)


@app.command()
@wraps(run, assigned=("__annotations__",))
def plan(**options: Any) -> None:
    """What a run would take: operations, memory, disk, time here and on one large GPU. Takes what run takes.

    A few batches are computed and this machine's speed is measured; nothing else is written to --out.

    Example: lmntk plan --model roberta-base --data data --tasks sst-2 --k 16 --memory 4GiB
    """
    experiment = _experiment(options)
    from lmntk.experiment import plan as plan_experiment

    found = _with_bars(lambda progress: plan_experiment(experiment, progress))
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


def _experiment(options: dict[str, Any]) -> Any:
    """Returns the checked configuration of the options that ``run`` and ``plan`` take."""
    from lmntk.configuration import load_experiment, make_experiment

    own_names = ("train", "test", "text_column", "text_b_column", "label_column", "labels", "metric")
    apart = (*own_names, "configuration", "name", "as_json", "no_kernels", "template", "k", "seeds")
    given = _given(
        **{name: value for name, value in options.items() if name not in apart},
        template=tuple(options["template"] or ()) or None,
        k=_numbers("k", options["k"]),
        seeds=_numbers("seeds", options["seeds"]),
    )
    if options["no_kernels"]:
        given["keep_kernels"] = False
    own = _given(**{name: options[name] for name in own_names})
    if own:
        if "train" not in own:
            raise UserError(f"--{next(iter(own)).replace('_', '-')} describes your own texts; give them with --train FILE")
        if "labels" in own:
            own["labels"] = _listed(own["labels"])
        given["own_tasks"] = [{"name": options["name"] or "own", **own}]
    configuration = options["configuration"]
    if configuration is None and "model" not in given:
        raise UserError("run: give --model and texts, or a TOML file: lmntk run experiment.toml")
    return make_experiment(given) if configuration is None else load_experiment(configuration, given)


def _numbers(name: str, text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in _listed(text)]
    except ValueError:
        raise UserError(f"{name}: {text!r} is not a list of whole numbers; write {'16,64' if name == 'k' else '13,21'}") from None


def _with_bars(action: Any) -> Any:
    from rich.console import Console

    from lmntk.progress import Bars

    with Bars(Console(stderr=True)) as bars:
        return action(bars)


@app.command()
def kernel(
    model: ModelOption = None,
    kind: KindOption = None,
    revision: RevisionOption = None,
    base: BaseOption = None,
    train: Annotated[Path | None, typer.Option(help="JSONL of the training texts: text_a, text_b, label")] = None,
    evaluate: Annotated[Path | None, typer.Option("--eval", help="JSONL of the evaluation texts")] = None,
    template: TemplateOption = None,
    label_words: LabelWordsOption = None,
    label_words_reduce: ReduceOption = None,
    formulas: FormulasOption = None,
    max_length: Annotated[int | None, typer.Option(help="longest prompted text in tokens  [default: 128]")] = None,
    dtype: DtypeOption = None,
    out: Annotated[Path | None, typer.Option(help="the output folder")] = None,
    attention: Annotated[str | None, typer.Option(help="attention implementation: sdpa, eager")] = None,
    batch_size: BatchOption = None,
    memory: MemoryOption = None,
    scratch: ScratchOption = None,
    keep_factors: KeepFactorsOption = False,
    device: DeviceOption = None,
    engine: EngineOption = None,
    address: AddressOption = None,
    workers: WorkersOption = None,
    all_logits: AllLogitsOption = False,
    untie_head: UntieOption = False,
    without_embeddings: EmbeddingsOption = False,
    without_head: HeadOption = False,
    biases_only: BiasesOption = False,
    include: IncludeOption = None,
    exclude: ExcludeOption = None,
    groups: GroupsOption = False,
    keep_noise: NoiseOption = False,
    factors: Annotated[Path | None, typer.Option(help="a folder that --keep-factors left, in place of model, texts and prompt")] = None,
    pair: Annotated[str | None, typer.Option(help="of the factors of a run: ROWS,COLUMNS")] = None,
    lora_rank: Annotated[int | None, typer.Option(help="of the factors: LoRA's kernel at its start, B = 0", min=1)] = None,
    seed: Annotated[int, typer.Option(help="of LoRA's random A")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Kernels alone: OUT/<formula>.safetensors with ``values`` [N, C, M, C] in float64, and OUT/logits.safetensors.

    Of asigngd, ``values`` has the sign on the training side and ``values_flipped`` on the evaluation side.

    Example: lmntk kernel --model roberta-base --train train.jsonl --eval test.jsonl --template "{a} It was {mask}."
    --label-words terrible,great --formulas sgd --out kernels

    Once more, from factors that --keep-factors left, without the model: lmntk kernel --factors kernels/scratch --lora-rank 8 --out lora
    """
    if factors is not None:
        given = _given(model=model, train=train, eval=evaluate, template=template or None, label_words=label_words)
        if given or out is None:
            what = f"--{next(iter(given)).replace('_', '-')}: the factors have it; leave it out" if given else "--out missing"
            raise UserError(f"kernel: {what}")
        from lmntk.kernels.command import kernels_of_factors

        made = kernels_of_factors(
            factors, out, pair=_listed(pair or ""), groups=groups, keep_noise=keep_noise, include=_listed(include or ""),
            exclude=_listed(exclude or ""), biases_only=biases_only, lora_rank=lora_rank, seed=seed,
            **_given(formulas=formulas and _listed(formulas)),
        )  # fmt: skip
        print_kernels(made, as_json)
        return
    if lora_rank is not None or pair is not None:
        raise UserError(f"kernel: --{'pair' if pair is not None else 'lora-rank'} is of kept factors; give their folder with --factors")
    needed = {
        "--model": model, "--train": train, "--eval": evaluate, "--template": template or None, "--label-words": label_words, "--out": out,
    }  # fmt: skip
    absent = [flag for flag, value in needed.items() if value is None]
    if absent:
        raise UserError(f"kernel: {', '.join(absent)} missing; see lmntk kernel --help for an example")
    from lmntk.kernels.command import compute_to_folder

    written = _with_bars(
        lambda progress: compute_to_folder(
            **needed_values(needed), progress=progress, max_length=max_length, all_logits=all_logits, untie_head=untie_head,
            groups=groups, keep_noise=keep_noise, scratch=scratch, keep_factors=keep_factors,
            device=device or "auto", engine=engine or "local", address=address, workers=workers, parameters={
                "embeddings": not without_embeddings, "head": not without_head, "biases_only": biases_only,
                "include": tuple(_listed(include or "")), "exclude": tuple(_listed(exclude or "")),
            },
            **_given(
                formulas=formulas and _listed(formulas), dtype=dtype, attention=attention, batch_size=batch_size, memory=memory,
                kind=kind, revision=revision, base=base, label_words_reduce=label_words_reduce,
            ),
        )
    )  # fmt: skip
    print_kernels(written, as_json)


def needed_values(needed: dict[str, Any]) -> dict[str, Any]:
    """Returns flag values under the names of the function's arguments."""
    names = {"--eval": "evaluate"}
    return {names.get(flag, flag.removeprefix("--").replace("-", "_")): value for flag, value in needed.items()}


@app.command()
def predict(
    model_dir: Annotated[Path, typer.Option(help="a run's folder, or one of its models/*")],
    source: Annotated[str, typer.Option("--input", help="JSON lines with text_a, and text_b for pairs; - is stdin")],
    target: Annotated[str, typer.Option("--output", help="a line a text: class, label, probabilities, decisions; - is stdout")] = "-",
    model: ModelOption = None,
    cell: Annotated[str | None, typer.Option(help="of a run's folder  [default: the best on dev]")] = None,
    method: Annotated[str | None, typer.Option(help='of a run\'s folder, such as "sgd ridge"')] = None,
    batch_size: Annotated[int, typer.Option(help="texts in one pass", min=1)] = 32,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Classify any number of texts with a solved model, one pass each, without training texts or kernels.

    Of runs with --save-models. --model says where the pre-trained model is now, if it has moved.

    Example: lmntk predict --model-dir runs/sst-2 --input texts.jsonl --output classes.jsonl
    """
    from lmntk.prediction.stream import STANDARD, predict_file

    def work(progress: Any) -> dict[str, Any]:
        progress.work("texts", None)
        return predict_file(
            model_dir, source, target, model=model, cell=cell, method=method, batch_size=batch_size,
            device=device or "auto", note=progress.note, report=progress.advance,
        )  # fmt: skip

    done = _with_bars(work)
    if target == STANDARD:
        return  # stdout is the result
    if as_json:
        print(json.dumps(done, indent=1))
    else:
        print(f"{done['texts']} texts classified into {target} ({done['texts_per_second']:.1f} a second)")


@app.command()
def check(
    model: Annotated[str, typer.Argument(help="a model or adapter folder, or a hub name")],
    kind: KindOption = None,
    revision: RevisionOption = None,
    base: BaseOption = None,
    mode: Annotated[str, typer.Option(help="prompt or head")] = "prompt",
    template: TemplateOption = None,
    label_words: LabelWordsOption = None,
    label_words_reduce: ReduceOption = None,
    task: Annotated[str | None, typer.Option(help="one of the 14 tasks: its prompt, words and test texts")] = None,
    data: Annotated[str | None, typer.Option(help="folder of the tasks' texts")] = None,
    texts: Annotated[Path | None, typer.Option(help="JSONL of your own texts: text_a, label  [default: bundled reviews]")] = None,
    dtype: DtypeOption = None,
    attention: Annotated[str | None, typer.Option(help="attention implementation: sdpa, eager")] = None,
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
    from lmntk.checkup.examine import check as examine_model
    from lmntk.checkup.findings import is_well

    findings = examine_model(
        model, mode=mode, template=template or None, label_words=_listed(label_words) if label_words else None,
        label_words_reduce=label_words_reduce, task=task, data=data, texts=texts,
        **_given(dtype=dtype, attention=attention, kind=kind, revision=revision, base=base),
    )  # fmt: skip
    well = is_well(findings)
    if as_json:
        print(json.dumps({"model": model, "all_is_well": well, "findings": [finding.as_dict() for finding in findings]}, indent=1))
    else:
        for finding in findings:
            print_wrapped(finding.as_text(), indent=7)
        faults = sum(finding.level == "fault" for finding in findings)
        print("all is well" if well else f"not all is well: {faults} fault{'' if faults == 1 else 's'}")
    if not well:
        raise typer.Exit(1)


@app.command()
def split(
    task: Annotated[str, typer.Option(help="one of the 14 tasks")],
    data: Annotated[str, typer.Option(help="folder of the tasks' texts")],
    k: Annotated[int, typer.Option("--k", help="texts a class")],
    seed: Annotated[int, typer.Option(help="the split's seed")] = 13,
    test_limit: Annotated[int, typer.Option(help="most test texts")] = 1000,
    as_json: Annotated[bool, typer.Option("--json", help="JSON is what it prints anyway")] = True,
) -> None:
    """The row numbers of a k-shot split, from 0 in file order, as JSON: train, dev, test.

    Example: lmntk split --task sst-2 --data data --k 16 --seed 13
    """
    if k < 1 or test_limit < 1 or not 0 <= seed < 2**32:
        raise UserError("split: --k and --test-limit must be at least 1, --seed from 0 to 4294967295")
    from lmntk.preparation import split_cells
    from lmntk.tasks import get_task, read_data

    known = get_task(task)
    cell = split_cells(known.name, read_data(data, known, k=k, seed=seed), k, seed, ["prompt"], test_limit, known.csv_style)[0]
    print(json.dumps({"train": cell.train, "dev": cell.dev, "test": cell.test}))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="the output folder; a rerun resumes it")] = Path("runs/demo"),
    seeds: Annotated[str, typer.Option(help="of the splits")] = "13,21",
    as_json: JsonOption = False,
) -> None:
    """The whole way on the bundled model and texts, in under two minutes: no network, no other files.

    Example: lmntk demo
    """
    from lmntk.bundled import demo_experiment, explain

    experiment = demo_experiment(out, _numbers("seeds", seeds) or [])
    from lmntk.experiment import run as run_experiment

    rows = _with_bars(lambda progress: run_experiment(experiment, progress))
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    print_summary(rows)
    print(explain(rows))
    print_written(experiment.out)


app.command()(report)


def main() -> None:
    """Runs the command line: exit code 2 and one line for the user's mistakes, 130 after Ctrl-C."""
    try:
        code = app(standalone_mode=False)
    except UserError as error:
        print(f"lmntk: {error}", file=sys.stderr)
        sys.exit(2)
    except ModelError as error:
        print(f"lmntk: model: {error}; `lmntk check` says more", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print("lmntk: the disk is full; make room and run the same command again: what is finished is kept", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        print("lmntk: interrupted; run the same command again to resume", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        if hasattr(error, "exit_code") and hasattr(error, "show"):  # a usage error of the command line's parser
            error.show()
            sys.exit(error.exit_code)
        raise
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
