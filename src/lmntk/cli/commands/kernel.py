"""``lmntk kernel``: kernels alone, of texts in files or of kept factors."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import typer

from lmntk.cli.configured import kernel_options
from lmntk.cli.options import JsonOption
from lmntk.cli.printing import print_kernels, with_progress
from lmntk.errors import UserError

if TYPE_CHECKING:
    from lmntk.experiment.configuration import TextKernels
    from lmntk.system.progress import Progress


def kernel(context: typer.Context, as_json: JsonOption = False) -> None:
    """Compute kernels, and solve nothing: of texts in files, or of kept factors.

    Writes OUT/<formula>.safetensors with ``values`` [N, C, M, C] in float64, OUT/logits.safetensors, and
    OUT/labels.json, which lmntk solve needs.
    For asigngd, ``values`` has the sign on the training side, and ``values_flipped`` on the evaluation side.

    Example: lmntk kernel --model roberta-base --train train.jsonl --eval test.jsonl --template "{a} It
    was {mask}." --label-words terrible,great --formulas sgd --out kernels

    From factors that --keep-factors left, without the model: lmntk kernel --factors
    kernels/scratch --lora-rank 1,8,64 --targets query+value --out lora
    """
    from lmntk.experiment.configuration import (
        FactorKernels,
        TextKernels,
        from_flags,
    )

    given = context.obj
    from_factors = "factors" in given
    wanted: type[FactorKernels | TextKernels] = FactorKernels if from_factors else TextKernels
    options = kernel_options()
    unwanted = [option.flag for option in options if option.name in given.keys() - wanted.model_fields.keys()]
    if unwanted:
        reason = (
            ": kept factors have their own setting; leave it out"
            if from_factors
            else " needs kept factors; give their folder with --factors"
        )
        raise UserError(f"kernel: {unwanted[0]}{reason}")
    required = {name for name, field in wanted.model_fields.items() if field.is_required()}
    missing = [option.flag for option in options if option.name in required - given.keys()]
    if missing:
        raise UserError(f"kernel: {', '.join(missing)} missing; see lmntk kernel --help for an example")
    if from_factors:
        of_factors = from_flags(FactorKernels, given)
        from lmntk.experiment.factor_kernels import kernels_of_factors

        written = with_progress(lambda progress: kernels_of_factors(of_factors))
    else:
        of_texts = from_flags(TextKernels, given)
        written = with_progress(partial(_kernels_of_texts, of_texts))
    print_kernels(written, as_json)


def _kernels_of_texts(wanted: TextKernels, progress: Progress) -> dict[str, Any]:
    from lmntk.experiment.kernel_texts import read_kernel_texts

    progress.phase("reading the texts")
    read = read_kernel_texts(wanted)
    from lmntk.experiment.kernel_files import kernels_of_texts

    return kernels_of_texts(wanted, progress, read)
