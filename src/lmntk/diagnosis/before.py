"""A model before fine-tuning: its sgd kernels, its logits, and the predictions of the kernel's solution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from lmntk.diagnosis.examples import Examples, device_of, fitted, logits_of
from lmntk.diagnosis.features import stream_sgd
from lmntk.diagnosis.spectrum import readable_groups
from lmntk.engine.compute import as_kernels
from lmntk.engine.settings import Settings
from lmntk.kernels.gram import Panel, gram
from lmntk.kernels.kernel import Kernel
from lmntk.models.logit_model import LogitModel
from lmntk.solvers.inputs import Array
from lmntk.solvers.outcome import Outcome, solve_split, usual_solver

SIDES = ("train", "dev", "test")
Kernels = Mapping[tuple[str, str], Kernel]


@dataclass(frozen=True, eq=False)
class Before:
    """Kernels by (side, formula), of the train texts against each side, and pre-trained logits by side."""

    kernels: Kernels
    logits: Mapping[str, Array]

    def solve(
        self,
        labels: Mapping[str, Sequence[int]],
        metric: str,
        formula: str = "sgd",
        solver: str | None = None,
    ) -> Outcome:
        """Return a kernel's solution, its setting chosen on dev; by default by the formula's usual solver."""
        return solve_split(
            self.kernels, self.logits, labels, metric, formula, solver or usual_solver(formula)
        )


def look_before(
    model: nn.Module,
    examples: Mapping[str, Examples],
    trainable: Mapping[str, nn.Parameter],
    kernels: Kernels | None = None,
    settings: Settings | None = None,
) -> Before:
    """Return the sgd kernels of the train examples against train, dev and test, and the logits.

    The kernels are kept by readable parameter groups too.

    Kernels that are given are taken; only if one of the sgd kernels is missing are all of them computed.
    """
    given = dict(kernels or {})
    if all((side, "sgd") in given for side in SIDES):
        return Before(given, {side: logits_of(model, examples[side]) for side in SIDES})
    settings = replace(settings or Settings(), grouping=readable_groups(model))
    if isinstance(model, LogitModel) and all(examples[side].texts is not None for side in SIDES):
        texts = {side: examples[side].texts or () for side in SIDES}
        streamed = stream_sgd(
            model, texts, [("train", side) for side in SIDES], trainable, examples["train"].pad_id, settings
        )
        for side in SIDES:
            given[side, "sgd"] = as_kernels(streamed.kernels["train", side], ["sgd"], True, {})["sgd"]
        return Before(given, {side: streamed.logits[side].numpy() for side in SIDES})
    panels, orders, logits = {}, {}, {}
    for side in SIDES:
        chosen, coverage = fitted(model, examples[side], trainable)
        panels[side] = Panel(
            [coverage.capture(model, batch, trainable) for _, batch in chosen.on(device_of(model))]
        )
        orders[side] = chosen.order()
        logits[side] = (
            torch.cat([part.logits for part in panels[side].batches]).double().cpu()[orders[side]].numpy()
        )
    for side in SIDES:
        by_group = gram(panels["train"], panels[side], ["sgd"], settings.grouping)["sgd"]
        ordered = {name: part.cpu()[orders["train"]][:, :, orders[side]] for name, part in by_group.items()}
        given[side, "sgd"] = as_kernels({"sgd": ordered}, ["sgd"], True, {})["sgd"]
    return Before(given, logits)
