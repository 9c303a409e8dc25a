"""``lmntk kernel``: kernels alone, of texts in files or of kept factors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lmntk.cli.options import (
    BaseOption,
    DtypeOption,
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
    with_computing,
)
from lmntk.cli.printing import print_kernels, with_bars
from lmntk.errors import UserError


@with_computing(before="factors")
def kernel(
    model: ModelOption = None,
    kind: KindOption = None,
    revision: RevisionOption = None,
    base: BaseOption = None,
    train: Annotated[
        Path | None, typer.Option(help="JSONL of the training texts: text_a, text_b, label")
    ] = None,
    evaluate: Annotated[Path | None, typer.Option("--eval", help="JSONL of the evaluation texts")] = None,
    template: TemplateOption = None,
    label_words: LabelWordsOption = None,
    label_words_reduce: ReduceOption = None,
    formulas: FormulasOption = None,
    max_length: Annotated[
        int | None, typer.Option(help="longest prompted text in tokens  [default: 128]")
    ] = None,
    dtype: DtypeOption = None,
    out: Annotated[Path | None, typer.Option(help="the output folder")] = None,
    factors: Annotated[
        Path | None,
        typer.Option(help="a folder that --keep-factors left, in place of model, texts and prompt"),
    ] = None,
    pair: Annotated[str | None, typer.Option(help="of the factors of a run: ROWS,COLUMNS")] = None,
    lora_rank: Annotated[
        int | None, typer.Option(help="of the factors: LoRA's kernel at its start, B = 0", min=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="of LoRA's random A")] = 0,
    as_json: JsonOption = False,
    **computing: Any,
) -> None:
    """Kernels alone: OUT/<formula>.safetensors with ``values`` [N, C, M, C] in float64, and OUT/logits.safetensors.

    Of asigngd, ``values`` has the sign on the training side and ``values_flipped`` on the evaluation side.

    Example: lmntk kernel --model roberta-base --train train.jsonl --eval test.jsonl --template "{a} It was {mask}."
    --label-words terrible,great --formulas sgd --out kernels

    Once more, from factors that --keep-factors left, without the model: lmntk kernel --factors kernels/scratch --lora-rank 8 --out lora
    """
    computing |= {name: tuple(listed(computing[name] or "")) for name in ("include", "exclude")}
    chosen_formulas = given(formulas=formulas and listed(formulas))
    if factors is not None:
        taken = {
            name: computing.pop(name)
            for name in ("groups", "keep_noise", "include", "exclude", "biases_only")
        }
        unwanted = given(
            model=model, train=train, eval=evaluate, template=template or None, label_words=label_words, kind=kind, revision=revision,
            base=base, label_words_reduce=label_words_reduce, max_length=max_length, dtype=dtype, **computing,
        )  # fmt: skip
        if unwanted or out is None:
            what = (
                f"--{next(iter(unwanted)).replace('_', '-')}: the factors are as they were taken; leave it out"
                if unwanted
                else "--out missing"
            )
            raise UserError(f"kernel: {what}")
        from lmntk.experiment.kernel_files import kernels_of_factors

        made = kernels_of_factors(
            factors, out, pair=listed(pair or ""), lora_rank=lora_rank, seed=seed, **taken, **chosen_formulas
        )
        print_kernels(made, as_json)
        return
    if lora_rank is not None or pair is not None:
        raise UserError(
            f"kernel: --{'pair' if pair is not None else 'lora-rank'} is of kept factors; give their folder with --factors"
        )
    needed = {
        "--model": model, "--train": train, "--eval": evaluate, "--template": template or None, "--label-words": label_words, "--out": out,
    }  # fmt: skip
    absent = [flag for flag, value in needed.items() if value is None]
    if absent:
        raise UserError(f"kernel: {', '.join(absent)} missing; see lmntk kernel --help for an example")
    from lmntk.experiment.kernel_files import compute_to_folder

    parameters = {name: not computing.pop(f"without_{name}") for name in ("embeddings", "head")}
    parameters |= {name: computing.pop(name) for name in ("biases_only", "include", "exclude")}
    more = given(
        kind=kind,
        revision=revision,
        base=base,
        label_words_reduce=label_words_reduce,
        dtype=dtype,
        **computing,
    )
    written = with_bars(
        lambda progress: compute_to_folder(
            **needed_values(needed),
            **chosen_formulas,
            **more,
            progress=progress,
            max_length=max_length,
            parameters=parameters,
        )
    )
    print_kernels(written, as_json)


def needed_values(needed: dict[str, Any]) -> dict[str, Any]:
    """Returns flag values under the names of the function's arguments."""
    names = {"--eval": "evaluate"}
    return {
        names.get(flag, flag.removeprefix("--").replace("-", "_")): value for flag, value in needed.items()
    }
