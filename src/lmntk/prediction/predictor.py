"""A solved model as a classifier: its decisions are the linearized model's, so no training text and no kernel is needed any more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from lmntk.errors import UserError
from lmntk.kernels.capturing import Capturing
from lmntk.models.logit_model import LogitModel
from lmntk.models.state import frozen
from lmntk.prompts.batching import collate, length_sorted_batches
from lmntk.prompts.encoding import EncodedText
from lmntk.solvers.inputs import Array, Labels
from lmntk.solvers.linear_form import LinearForm
from lmntk.tangents.direction import weighted_sum
from lmntk.tangents.factors import Tangents
from lmntk.tangents.linearized import LinearizedModel
from lmntk.tangents.noise import noise_coordinates, silence


class Predictor:
    """Decisions f0(x) / s + <grad f(x), v> + intercept of texts, in bounded memory.

    Args:
        model: the pre-trained model.
        directions: v, one for all logits or one a logit.
        pad_id: the padding token.
        intercept: a number.
        f0_scale: s; inf leaves the pre-trained logits out.
        sharpness: probabilities are the softmax (of one logit, the sigmoid) of this times the decisions.
        batch_size: texts in one pass.

    Cost: about three forward passes a text and direction.
    """

    def __init__(
        self,
        model: LogitModel,
        directions: Sequence[Mapping[str, Tensor]],
        pad_id: int,
        *,
        intercept: float = 0.0,
        f0_scale: float = float("inf"),
        sharpness: float = 1.0,
        batch_size: int = 32,
    ) -> None:
        if len(directions) not in (1, model.outputs):
            raise UserError(f"predictor: {len(directions)} directions for {model.outputs} logits; it was made for another task")
        self.model = model
        self.linearized = [LinearizedModel(model, direction) for direction in directions]
        self.pad_id, self.batch_size = pad_id, batch_size
        self.intercept, self.f0_scale, self.sharpness = intercept, f0_scale, sharpness
        self._keeps_apart: bool | None = None

    @property
    def by_two_backward_passes(self) -> bool:
        """True once forward mode turned out not to do for the model, which costs twice the time."""
        return any(linearized.backward for linearized in self.linearized)

    def evaluate(self, texts: Sequence[EncodedText]) -> tuple[Array, Array]:
        """Returns the decisions and the pre-trained logits, each [n, c] float64, in the order of the texts."""
        device = next(self.model.parameters()).device
        shape = len(texts), self.model.outputs
        decisions, before = np.empty(shape), np.empty(shape)
        with torch.no_grad():
            for chosen in length_sorted_batches([text.length for text in texts], self.batch_size if self.keeps_apart(texts) else 1):
                batch = {name: t.to(device) for name, t in collate([texts[i] for i in chosen], self.pad_id).items()}
                expansions = [linearized.taylor(batch) for linearized in self.linearized]
                logits = expansions[0][0]
                slopes = expansions[0][1] if len(expansions) == 1 else torch.stack([s[:, c] for c, (_, s) in enumerate(expansions)], 1)
                before[chosen] = logits.double().cpu().numpy()
                decisions[chosen] = slopes.double().cpu().numpy() + before[chosen] / self.f0_scale + self.intercept
        return decisions, before

    def keeps_apart(self, texts: Sequence[EncodedText]) -> bool:
        """True where a text's logits do not depend on its batch; looked at once, on the shortest and the longest of the first texts."""
        if len(texts) < 2:
            return True
        if self._keeps_apart is None:
            ordered = sorted(texts, key=lambda text: text.length)
            extremes, device = [ordered[0], ordered[-1]], next(self.model.parameters()).device

            def logits(some: Sequence[EncodedText]) -> Tensor:
                with frozen(self.model):
                    found: Tensor = self.model({name: t.to(device) for name, t in collate(some, self.pad_id).items()})
                return found

            together, alone = logits(extremes), torch.cat([logits([text]) for text in extremes])
            tolerance = 1e-6 if together.dtype == torch.float64 else 1e-4
            self._keeps_apart = bool((together - alone).abs().max() <= tolerance * alone.abs().max())
        return self._keeps_apart

    def probabilities(self, decisions: Array) -> Array:
        """Returns class probabilities [n, classes] of decisions [n, c]."""
        return np.exp(_log_probabilities(self.sharpness * decisions))


def directions_of(
    model: LogitModel,
    texts: Sequence[EncodedText],
    trainable: Mapping[str, nn.Parameter],
    form: LinearForm,
    formula: str,
    pad_id: int,
    *,
    drop_noise: bool = True,
    batch_size: int = 32,
) -> list[dict[str, Tensor]]:
    """Returns v = sum_nc coefficients[n, c] phi(grad f_c(x_n)), one for all logits or one a logit, summed in float64.

    Args:
        model: the pre-trained model.
        texts: the n training texts.
        trainable: the parameters that count.
        form: the solution.
        formula: ``sgd`` or ``asigngd``, whose phi is the sign.
        pad_id: the padding token.
        drop_noise: leave coordinates that are rounding noise out of the signs, as the kernel did.
        batch_size: texts in one forward pass.

    Cost: a forward and c backward passes a text, and the sum. Memory: v in float64, once more in the model's precision, and, for the
    noise, the factors of all training texts.
    """
    if formula not in ("sgd", "asigngd"):
        raise UserError(f"predictor: decisions of {formula} are not linear in a text's gradient; use sgd or asigngd")
    capturing = Capturing(model, trainable, pad_id, texts, batch_size)

    def capture_all() -> Iterator[tuple[list[int], Tangents]]:
        for chosen in capturing.batches(texts):
            start = 0
            for tangents in capturing.of_batch([texts[index] for index in chosen]):
                yield chosen[start : start + len(tangents)], tangents
                start += len(tangents)

    captured: Iterable[tuple[list[int], Tangents]] = capture_all()
    signs = formula == "asigngd"
    if signs and drop_noise:  # what is noise in every text can only be told when all are there
        kept = list(captured)
        masks = noise_coordinates([tangents for _, tangents in kept])
        captured = [(chosen, silence(tangents, masks)) for chosen, tangents in kept]
    outputs = form.coefficients.shape[1]
    count = outputs if form.each_class and outputs > 1 else 1
    totals: list[dict[str, Tensor]] = [{} for _ in range(count)]
    for chosen, tangents in captured:
        for index, total in enumerate(totals):
            weights = torch.as_tensor(form.coefficients[chosen])
            if count > 1:  # the direction of one class: the other logits' gradients take no part
                weights = weights * (torch.arange(outputs) == index)
            for name, part in weighted_sum(tangents, weights, trainable, signs).items():
                total[name] = total[name] + part if name in total else part
    return [{name: tensor.to(trainable[name].dtype) for name, tensor in total.items()} for total in totals]


def fit_sharpness(decisions: Array, labels: Labels) -> float:
    """Returns the factor of the decisions [n, c] whose probabilities fit the labels [n] best, by likelihood.

    Targets are a little off 0 and 1, as Platt's (1999): (n + 1) / (n + c) in place of 1, so that a dev set without an error does not
    make every probability 1.
    """
    from scipy.optimize import minimize_scalar

    scale = float(np.abs(decisions).max()) or 1.0
    count, classes = len(labels), max(decisions.shape[1], 2)
    targets = np.full((count, classes), 1.0 / (count + classes))
    targets[np.arange(count), labels] = (count + 1.0) / (count + classes)
    normalised = decisions / scale

    def loss(log_factor: float) -> float:
        return -float((targets * _log_probabilities(np.exp(log_factor) * normalised)).sum())

    return float(np.exp(minimize_scalar(loss, bounds=(-7.0, 7.0), method="bounded").x) / scale)


def _log_probabilities(decisions: Array) -> Array:
    if decisions.shape[1] == 1:
        return np.concatenate([-np.logaddexp(0.0, decisions), -np.logaddexp(0.0, -decisions)], axis=1)
    return np.asarray(decisions - np.logaddexp.reduce(decisions, axis=1, keepdims=True))
