"""The direction v of a solution, summed over its training texts in the memory of v and one batch.

Where a GPU computes the bound is that of its memory, and the host holds what is written of v.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lmntk.engine.batches import Capturer
from lmntk.engine.budget import Budget, Search
from lmntk.engine.lengths import halved
from lmntk.engine.phases import DirectionSizes, Trial, direction_phases
from lmntk.errors import UserError
from lmntk.prompts.encoding import EncodedText
from lmntk.solvers.linear_form import LinearForm
from lmntk.system.device_memory import reporting_full_device
from lmntk.system.precision import FULL, products
from lmntk.tangents.factors import Tangents
from lmntk.tangents.noise import NoiseSearch, silence
from lmntk.tangents.weighted_sum import add_weighted_sum

ALWAYS_LINEAR = (
    "ridge",
    "logistic",
    "svr",
)  # solvers whose decisions on sgd (ridge: asigngd too) are linear in a text's gradient


@dataclass(frozen=True)
class DirectionCut:
    """A cut of the sum of directions: texts a batch, directions at once.

    ``peak`` is what the process will hold at most, in bytes, and ``gpu_peak`` a GPU, where there is one.
    """

    batch_size: int
    at_once: int
    peak: int = 0
    gpu_peak: int = 0


def cut_directions(
    trial: Trial,
    trainable: Mapping[str, nn.Parameter],
    directions: int,
    batch_size: int,
    budget: Budget,
    signs: bool = True,
) -> DirectionCut:
    """Return the cut that fits into the budget, with the most directions at once.

    Each further round captures the texts again.

    Memory: what there is; v in float64 for each direction of a round, in the model's precision for each other; one batch's capture;
    one parameter's sum. Where the budget has a GPU's memory, all of this is there, and the host holds what is there and v in the
    model's precision.

    Raises:
        UserError: it cannot be done in so little; says which option gives too little, and the least that works.
    """
    parameters = trainable.values()
    sizes = DirectionSizes(
        trial,
        coordinates=sum(parameter.numel() for parameter in parameters),
        largest=max((parameter.numel() for parameter in parameters), default=0),
        weights=sum(parameter.numel() * parameter.element_size() for parameter in parameters),
        count=directions,
        signs=signs,
        on_gpu=budget.device_memory is not None,
    )
    search = Search[DirectionCut](budget, lambda cut: direction_phases(sizes, cut.batch_size, cut.at_once))
    cuts = (
        DirectionCut(size, at_once) for at_once in range(directions, 0, -1) for size in halved(batch_size)
    )
    cut = search.first(cuts, [DirectionCut(1, 1)], "a solution's direction in float64")
    held = search.held(cut)
    return replace(cut, peak=int(held.host), gpu_peak=int(held.gpu))


def is_linear(formula: str, solver: str, outputs: int) -> bool:
    """Return whether a solver's decisions are linear in a text's gradient, whichever setting is chosen."""
    return formula != "signgd" and (solver in ALWAYS_LINEAR or (solver == "svc" and outputs == 1))


def most_directions(formula: str, solver: str, outputs: int) -> int:
    """Return how many directions may stand for a solution: of ``asym`` one a logit, of others one or none."""
    return outputs if solver == "asym" else int(is_linear(formula, solver, outputs))


def count_of(form: LinearForm) -> int:
    """Return how many directions stand for a solution: one, or one a class."""
    outputs = form.coefficients.shape[1]
    return outputs if form.each_class and outputs > 1 else 1


@reporting_full_device()
def directions_of(
    capturer: Capturer,
    texts: Sequence[EncodedText],
    form: LinearForm,
    formula: str,
    *,
    drop_noise: bool = True,
    at_once: int | None = None,
) -> list[dict[str, Tensor]]:
    """Return v = sum_nc coefficients[n, c] phi(grad f_c(x_n)), one for all logits or one a logit, summed in float64.

    Args:
        capturer: of the pre-trained model, with the parameters that count.
        texts: the n training texts.
        form: the solution.
        formula: ``sgd`` or ``asigngd``, whose phi is the sign.
        drop_noise: leave coordinates that are rounding noise out of the signs, as the kernel did.
        at_once: the most directions that are summed in one round over the texts; all by default.

    Cost: a forward and c backward passes a text and round, and the sum; to find the noise one round more. Memory: see ``cut_directions``.
    """
    if formula not in ("sgd", "asigngd"):
        raise UserError(
            f"predictor: decisions of {formula} are not linear in a text's gradient; use sgd or asigngd"
        )
    signs, count, outputs = formula == "asigngd", count_of(form), form.coefficients.shape[1]
    masks: Mapping[str, Tensor] = {}
    if signs and drop_noise:  # what is noise in every text can only be told when all have been seen
        search = NoiseSearch()
        for _, tangents in _captured(capturer, texts):
            search.add(tangents)
        masks = search.masks()
    directions: list[dict[str, Tensor]] = []
    while len(directions) < count:
        indices = range(len(directions), min(count, len(directions) + (at_once or count)))
        totals: list[dict[str, Tensor]] = [{} for _ in indices]
        for chosen, tangents in _captured(capturer, texts):
            silenced = silence(tangents, masks)
            for index, total in zip(indices, totals, strict=True):
                weights = torch.as_tensor(form.coefficients[chosen])
                if count > 1:  # the direction of one class: the other logits' gradients take no part
                    weights = weights * (torch.arange(outputs) == index)
                with products(FULL):
                    add_weighted_sum(total, silenced, weights, capturer.trainable, signs)
        for total in totals:
            directions.append(
                {name: total.pop(name).to(capturer.trainable[name].dtype) for name in list(total)}
            )
    return directions


def _captured(capturer: Capturer, texts: Sequence[EncodedText]) -> Iterator[tuple[list[int], Tangents]]:
    for chosen in capturer.batches(texts):
        start = 0
        for tangents in capturer.of_batch([texts[index] for index in chosen]):
            yield chosen[start : start + len(tangents)], tangents
            start += len(tangents)
