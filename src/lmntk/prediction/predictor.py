"""A solved model as a classifier: its decisions are the linearized model's, without training texts and kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lmntk.engine.budget import Budget, Search, is_roomy
from lmntk.engine.lengths import halved
from lmntk.engine.phases import classifying_phases
from lmntk.errors import UserError
from lmntk.models.apart import TextsApart
from lmntk.models.logit_model import LogitModel
from lmntk.models.state import frozen
from lmntk.prediction.limits import PassLimits
from lmntk.prompts.batching import collate, length_sorted_batches
from lmntk.prompts.encoding import EncodedText
from lmntk.solvers.calibration import log_probabilities
from lmntk.solvers.inputs import Array
from lmntk.system.device_memory import device_budget, memory_of, reporting_full_device
from lmntk.system.memory import peak_of, resident, return_freed, trim
from lmntk.system.precision import FULL, products
from lmntk.tangents.linearized import LinearizedModel


@dataclass(frozen=True)
class DecisionRule:
    """A rule from slopes <grad f(x), v> and logits f0(x) to decisions, and from decisions to probabilities.

    Attributes:
        intercept: a number that is added, or one a logit.
        f0_scale: s, by which the pre-trained logits are divided; inf leaves them out.
        sharpness: probabilities are the softmax (of one logit, the sigmoid) of this times the decisions.
    """

    intercept: float | tuple[float, ...] = 0.0
    f0_scale: float = float("inf")
    sharpness: float = 1.0


class Predictor:
    """Decisions f0(x) / s + <grad f(x), v> + intercept of texts, in bounded memory.

    Args:
        model: the pre-trained model.
        directions: v, one for all logits or one a logit; none, or an empty one, where nothing was learned but the intercept.
        pad_id: the padding token.
        rule: intercept, s, and the sharpness of probabilities.
        limits: texts in one pass, and the memory.

    Attributes:
        token_bytes: what a token of a pass takes; None before the memory was first looked at.
        looked_at: tokens of the longest text that this is known of.
        apart: what is known of texts in a batch; where the model mixes them, they go one at a time.

    Cost: about three forward passes a text and direction; without a direction one.
    """

    def __init__(
        self,
        model: LogitModel,
        directions: Sequence[Mapping[str, Tensor]],
        pad_id: int,
        rule: DecisionRule | None = None,
        limits: PassLimits | None = None,
    ) -> None:
        directions = directions if any(directions) else ()
        self.rule, self.limits = rule or DecisionRule(), limits or PassLimits()
        intercepts = np.size(self.rule.intercept)
        for count, what in ((len(directions) or 1, "directions"), (intercepts, "intercepts")):
            if count not in (1, model.outputs):
                raise UserError(
                    f"predictor: {count} {what} for {model.outputs} logits; it was made for another task"
                )
        self.model, self.device, self.pad_id = model, next(model.parameters()).device, pad_id
        self.gpu = memory_of(self.device) if self.limits.gpu is None else self.limits.gpu
        # what cannot be had is better said now
        device_budget(self.device, self.gpu, self.limits.device_memory)
        self.linearized = [LinearizedModel(model, direction) for direction in directions]
        self.token_bytes: float | None = None
        self.looked_at = 0
        self.apart = TextsApart(pad_id)

    @property
    def by_two_backward_passes(self) -> bool:
        """A flag: forward mode did not do for the model, which costs twice the time."""
        return any(linearized.backward for linearized in self.linearized)

    @reporting_full_device()
    def evaluate(self, texts: Sequence[EncodedText]) -> tuple[Array, Array]:
        """Return the decisions and the pre-trained logits, each [n, c] float64, in the order of the texts.

        Raises:
            UserError: the memory is too small for one text; says the least that works.
        """
        shape = len(texts), self.model.outputs
        decisions, before = np.empty(shape), np.empty(shape)
        with torch.no_grad():
            for chosen in length_sorted_batches([text.length for text in texts], self.texts_at_once(texts)):
                logits, slopes = self._expand([texts[i] for i in chosen])
                before[chosen] = logits.double().cpu().numpy()
                rest = before[chosen] / self.rule.f0_scale + np.asarray(self.rule.intercept)
                decisions[chosen] = slopes.double().cpu().numpy() + rest
        return decisions, before

    def _expand(self, texts: Sequence[EncodedText]) -> tuple[Tensor, Tensor]:
        """Return logits and slopes [n, c]; without a direction slopes are zero, and nothing is differentiated."""
        batch = {name: t.to(self.device) for name, t in collate(texts, self.pad_id).items()}
        with products(FULL):
            if not self.linearized:
                with frozen(self.model):
                    logits = self.model(batch)
                return logits, torch.zeros_like(logits)
            expansions = [linearized.taylor(batch) for linearized in self.linearized]
        if len(expansions) == 1:
            return expansions[0]
        return expansions[0][0], torch.stack([slopes[:, c] for c, (_, slopes) in enumerate(expansions)], 1)

    def texts_at_once(self, texts: Sequence[EncodedText]) -> int:
        """Return how many of the texts go into one pass: as many as the memory holds of the longest.

        Where the model mixes the texts of a batch it is one.

        What a text takes is looked at on the two longest of the first texts, and again on one that is longer than all before: attention
        takes more a token, the longer the text.
        """
        size = self.limits.batch_size if self.keeps_apart(texts) else 1
        memory = self.limits.memory
        if (memory is None and self.gpu is None) or not texts:
            return size
        ordered = sorted(texts, key=lambda text: text.length)
        a_text = self._bytes_of_token(ordered, size) * ordered[-1].length
        trim()  # what earlier passes freed is there for the next
        budget = Budget(memory, device_budget(self.device, self.gpu, self.limits.device_memory))
        host, gpu = resident(), None if self.gpu is None else self.gpu.held()
        search = Search[int](budget, lambda count: classifying_phases(host, gpu, count * a_text))
        at_once = search.first(halved(size), [1], "one text and v")  # a little more room changes nothing
        if memory is not None and not is_roomy(search.held(size).host, memory):
            return_freed()
        return at_once

    def _bytes_of_token(self, ordered: Sequence[EncodedText], size: int) -> float:
        """Return what a token of a pass takes; looks at the longest texts where they are longer than all before."""
        if ordered[-1].length > self.looked_at:
            few = ordered[-min(2, size) :]
            if self.token_bytes is None:
                self._expand(few[-1:])  # the first pass compares two ways, and takes more
            else:
                few = few[-1:]  # of what is not known yet no more than has to be
            peak = peak_of if self.gpu is None else self.gpu.peak_of
            grown, _ = peak(lambda: self._expand(few))
            self.token_bytes = max(self.token_bytes or 0.0, grown / (len(few) * few[-1].length))
            self.looked_at = few[-1].length
        assert self.token_bytes is not None
        return self.token_bytes

    def keeps_apart(self, texts: Sequence[EncodedText]) -> bool:
        """Return whether a text's logits do not depend on its batch; see ``TextsApart``."""
        with frozen(self.model):
            return self.apart.holds(self.model, texts, self.device)

    def probabilities(self, decisions: Array) -> Array:
        """Return class probabilities [n, classes] of decisions [n, c]."""
        return np.exp(log_probabilities(self.rule.sharpness * decisions))
