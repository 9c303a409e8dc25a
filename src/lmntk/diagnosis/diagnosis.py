"""One fine-tuning, diagnosed: what its kernel says, what training did, the three tests, and the verdict."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from lmntk.diagnosis.before import SIDES, Before, Kernels, look_before
from lmntk.diagnosis.chi import mean_chi
from lmntk.diagnosis.examples import Examples, fitted, logits_of
from lmntk.diagnosis.features import gradient_distance, gradient_norms, kernel_distance, sgd_kernel
from lmntk.diagnosis.linearization import linearized_logits, logit_error
from lmntk.diagnosis.spectrum import group_shares, readable_groups, shares_of, spectrum
from lmntk.diagnosis.stability import stable_rates
from lmntk.diagnosis.training import Training, compared, emulate
from lmntk.diagnosis.verdict import Evidence, Verdict, decide
from lmntk.engine.settings import Settings
from lmntk.errors import UserError
from lmntk.models.weights import at_weights
from lmntk.solvers.inputs import Array
from lmntk.solvers.selection import predict_labels
from lmntk.system.hashing import versions
from lmntk.tangents.coverage import Coverage
from lmntk.tasks.metrics import score

FORMAT = "lmntk diagnosis 2"
FEATURE_TEXTS = 64  # train texts whose gradients are compared; their factors are in memory at once
TRAJECTORY_TEXTS = 16  # the same at each step of a trajectory
SHOWN_TEXTS = 8  # dev texts whose learning curves are kept
SHOWN_KERNEL = 64  # texts a side of the kernels that are kept for a picture


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What ``lmntk diagnose`` writes; parts that are not known are None or empty."""

    identity: Mapping[str, Any]  # split, task, k, seed, mode, metric, method, formula
    verdict: Verdict
    numbers: Mapping[str, float | None]
    trajectory: Sequence[Mapping[str, float]] = ()
    logits: Mapping[str, Any] | None = None
    predictions: Mapping[str, Sequence[int] | None] | None = None
    emulation: Mapping[str, Any] | None = None
    spectrum: Mapping[str, Any] | None = None
    groups: Mapping[str, float] | None = None
    kernels: Mapping[str, Any] | None = None
    versions: Mapping[str, str] = field(default_factory=versions)

    def as_dict(self, key: str = "") -> dict[str, Any]:
        """Returns plain data for JSON, numbers that are not finite being null; ``key`` is the hash of all that it depends on."""
        parts = {
            "trajectory": list(self.trajectory) or None,
            "logits": self.logits,
            "predictions": self.predictions,
            "emulation": self.emulation,
            "spectrum": self.spectrum,
            "groups": self.groups,
            "kernels": self.kernels,
            "versions": self.versions,
        }
        head = {
            "format": FORMAT,
            "key": key,
            **self.identity,
            **self.verdict.as_dict(),
            "numbers": self.numbers,
        }
        found: dict[str, Any] = _plain(head | parts)
        return found


def diagnose(
    model: nn.Module,
    examples: Mapping[str, Examples],
    labels: Mapping[str, Sequence[int]],
    weights: Mapping[str, Tensor] | None,
    *,
    trainable: Mapping[str, nn.Parameter] | None = None,
    metric: str = "accuracy",
    mode: str = "prompt",
    kernels: Kernels | None = None,
    formula: str = "sgd",
    solver: str | None = None,
    training: Training | None = None,
    trajectory: Iterable[tuple[int, Mapping[str, Tensor]]] = (),
    other_mode: Array | None = None,
    diverged: str = "",
    identity: Mapping[str, Any] | None = None,
    settings: Settings | None = None,
) -> Diagnosis:
    """Returns the diagnosis of one fine-tuning of any module from a batch to logits [n, c].

    Args:
        model: at theta_0, where it is again when this returns.
        examples: ``train``, ``dev`` and ``test``.
        labels: class numbers of the same sides.
        weights: the fine-tuned weights by the names of ``model.named_parameters()``; None if training diverged.
        trainable: the parameters that were trained; by default those that require a gradient.
        metric: ``accuracy`` or ``f1``.
        mode: ``prompt``, or ``head`` where the logits before training are a linear probe's.
        kernels: by (side, formula), those of theta_0 that are there already; sgd kernels that are not are computed.
        formula: of the kernel whose solution is held against fine-tuning: the optimizer's own, ``sgd`` or of Adam and SignGD ``asigngd``.
        solver: with which it is solved; by default the formula's usual one.
        training: how it was trained; without it there is no emulation, and the stable rates are the cross-entropy's.
        trajectory: (step, weights) along the training, in order; taken one at a time.
        other_mode: logits [m, c] of the test texts before training in the other mode, for its mean |chi|.
        diverged: why there are no weights.
        identity: split, task, k, seed, method; written as they are.
        settings: batch size, memory, scratch folder.

    Cost: the kernels; four forward passes a test text, beside that of its logits before training; 64 train texts' gradients three
    times (before and after for their distance, which takes them batch by batch and keeps none, and after for the kernel), and once more
    where given kernels have no readable groups; for each step of the trajectory four forward passes a dev text and 16 train texts'
    gradients three times. Memory: the model, twice the weights, and what ``settings`` bounds.

    Where all train texts are of one class nothing is solved, and the kernel's spectrum has no labels to be held against.

    Raises:
        UserError: a side missing, labels that do not fit, a metric that is unknown, a kernel of other texts, or no kernel of the formula.
    """
    settings = settings or Settings()
    missing = [side for side in SIDES if side not in examples or side not in labels]
    if missing:
        raise UserError(f"diagnose: there are no {missing[0]} texts with labels; give train, dev and test")
    trainable = (
        {n: p for n, p in model.named_parameters() if p.requires_grad} if trainable is None else trainable
    )
    if not trainable:
        raise UserError(
            "diagnose: no parameter requires a gradient; name those that were trained in trainable"
        )
    _, coverage = fitted(model, examples["train"], trainable)
    if not coverage.batched:
        examples = {side: part.alone() for side, part in examples.items()}
    before = look_before(model, examples, trainable, kernels, settings)
    found = _Findings(model, examples, labels, trainable, metric, before, coverage, settings)
    absent = [side for side in SIDES if (side, formula) not in before.kernels]
    if absent:
        raise UserError(
            f"diagnose: there is no {formula} kernel of the {absent[0]} texts; give all three, or solve the sgd kernel"
        )
    numbers: dict[str, float | None] = found.before_training(training, mode, other_mode)
    logits: dict[str, Any] = {
        "before": before.logits["test"],
        "fine_tuned": None,
        "linearized": None,
        "labels": list(labels["test"]),
    }
    classes: dict[str, Sequence[int] | None] = {"fine_tuned": None, "linearized": None}
    pictures = None
    if weights is not None and not diverged:
        diverged = _not_finite(weights)
    if weights is not None and not diverged:
        with at_weights(model, weights):
            logits["fine_tuned"] = logits_of(model, examples["test"])
        logits["linearized"] = linearized_logits(model, examples["test"], weights).after
        if np.isfinite(logits["fine_tuned"]).all():
            classes = {name: predict_labels(logits[name]).tolist() for name in classes}
            moved, pictures = found.features(weights)
            numbers |= moved
            numbers["logit_error"] = logit_error(logits["before"], logits["fine_tuned"], logits["linearized"])
        else:
            diverged = "the fine-tuned model's logits are not finite"
            logits["fine_tuned"] = logits["linearized"] = None
    unsolved = (
        f"all {len(labels['train'])} train texts are of one class" if len(set(labels["train"])) < 2 else ""
    )
    evidence = Evidence(
        metric,
        labels["test"],
        predict_labels(before.logits["test"]).tolist(),
        None if unsolved else before.solve(labels, metric, formula, solver).predictions,
        classes["fine_tuned"],
        classes["linearized"],
        numbers.get("kernel_distance"),
        diverged,
        numbers.get("kernel_distance_median"),
        formula,
        unsolved,
    )
    scored = {
        name: evidence.score(getattr(evidence, name))
        for name in ("zero_shot", "fine_tuned", "kernel", "linearized")
    }
    numbers = scored | numbers
    steps, curves = found.along(trajectory, None if diverged else weights, training)
    spread = (
        None if unsolved else spectrum(before.kernels["train", "sgd"].values, labels["train"])
    )  # against labels that differ
    emulation = found.emulation(training, curves)
    numbers |= {
        name: None if spread is None else getattr(spread, name)
        for name in ("target_alignment", "effective_rank")
    }
    numbers |= {
        f"emulation_{name}": None if emulation is None else emulation[name]
        for name in ("error", "move_error")
    }
    return Diagnosis(
        identity={**(identity or {}), "mode": mode, "metric": metric, "formula": formula},
        verdict=decide(evidence),
        numbers=numbers,
        trajectory=steps,
        logits=logits,
        predictions={name: getattr(evidence, name) for name in scored},
        emulation=emulation,
        spectrum=None
        if spread is None
        else {"eigenvalues": spread.eigenvalues, "alignment": spread.alignment},
        groups=found.groups(),
        kernels=pictures,
    )


@dataclass(frozen=True, eq=False)
class _Findings:
    """The model with all that is known of it before, and what is measured of it."""

    model: nn.Module
    examples: Mapping[str, Examples]
    labels: Mapping[str, Sequence[int]]
    trainable: Mapping[str, nn.Parameter]
    metric: str
    before: Before
    coverage: Coverage
    settings: Settings

    def before_training(
        self, training: Training | None, mode: str, other_mode: Array | None
    ) -> dict[str, float | None]:
        """Returns chi and the stable rates. Chi is that of the test texts: the linear probe was fitted to the train texts."""
        here, there = ("with", "without") if mode == "prompt" else ("without", "with")
        loss = "cross-entropy" if training is None else training.loss
        size = None if training is None else training.batch_size
        is_descent = (
            training is None or training.optimizer == "sgd"
        )  # the steps of others are no gradients, nor their rates
        rates = stable_rates(
            self.before.kernels["train", "sgd"].values, self.before.logits["train"], loss, size
        )
        return {
            f"chi_{here}_prompt": mean_chi(self.before.logits["test"], self.labels["test"]),
            f"chi_{there}_prompt": None if other_mode is None else mean_chi(other_mode, self.labels["test"]),
            "largest_stable_rate": rates.full_batch if is_descent else None,
            "largest_stable_rate_for_every_f": rates.for_every_f if is_descent else None,
            "largest_stable_rate_for_every_minibatch": rates.every_minibatch if is_descent else None,
            "rate": None if training is None else training.learning_rate,
        }

    def features(self, weights: Mapping[str, Tensor]) -> tuple[dict[str, float | None], dict[str, Any]]:
        """Returns the distances that features moved, and the kernels before and after for a picture."""
        chosen = _spread_over_classes(self.labels["train"], FEATURE_TEXTS)
        first, second = self._kernels(chosen, weights)
        moved = kernel_distance(first, second)
        gradients = gradient_distance(
            self.model, self.examples["train"].choose(chosen), weights, self.trainable, self.coverage
        )
        ordered = np.array(sorted(range(len(chosen)), key=lambda i: self.labels["train"][chosen[i]]))[
            :SHOWN_KERNEL
        ]
        pictures = {
            "before": np.einsum("ncmc->nm", first)[np.ix_(ordered, ordered)],
            "after": np.einsum("ncmc->nm", second)[np.ix_(ordered, ordered)],
            "labels": [self.labels["train"][chosen[i]] for i in ordered],
        }
        cosines = gradients.cosine[np.isfinite(gradients.cosine)]
        numbers: dict[str, float | None] = {
            "kernel_distance": moved.elementwise,
            "kernel_distance_median": moved.median,
            "kernel_distance_frobenius": moved.frobenius,
            "kernel_cosine": moved.cosine,
            "kernel_entries_left_out": moved.left_out,
            "gradient_distance": gradients.mean,
            "gradient_cosine": float(cosines.mean()) if cosines.size else None,
            "feature_texts": float(len(chosen)),
        }
        return numbers, pictures

    def _kernels(self, chosen: Sequence[int], weights: Mapping[str, Tensor]) -> tuple[Array, Array]:
        """Returns the sgd kernels of chosen train texts with themselves before and after."""
        first = self.before.kernels["train", "sgd"].values[
            np.ix_(chosen, range(self._outputs), chosen, range(self._outputs))
        ]
        settings = replace(self.settings, grouping=None)
        after = sgd_kernel(
            self.model, self.examples["train"].choose(chosen), self.trainable, settings, weights
        )
        return first, next(iter(after.values()))

    @property
    def _outputs(self) -> int:
        return int(self.before.logits["train"].shape[1])

    def along(
        self,
        trajectory: Iterable[tuple[int, Mapping[str, Tensor]]],
        weights: Mapping[str, Tensor] | None,
        training: Training | None,
    ) -> tuple[list[dict[str, float]], dict[int, Array]]:
        """Returns what is measured at each step, and the dev texts' real logits by step."""
        dev, start = self.examples["dev"], self.before.logits["dev"]
        chosen = _spread_over_classes(self.labels["train"], TRAJECTORY_TEXTS)
        found, curves = [], {0: start}
        for step, there in trajectory:
            if _not_finite(there):
                break
            with at_weights(self.model, there):
                real = logits_of(self.model, dev)
            if not np.isfinite(real).all():
                break
            curves[step] = real
            linearized = linearized_logits(self.model, dev, there).after
            first, second = self._kernels(chosen, there)
            gradients = gradient_distance(
                self.model, self.examples["train"].choose(chosen), there, self.trainable, self.coverage
            )
            found.append(
                {
                    "step": step,
                    "logit_error": logit_error(start, real, linearized),
                    "kernel_distance": kernel_distance(first, second).elementwise,
                    "gradient_distance": gradients.mean,
                    "linearized": score(self.metric, self.labels["dev"], predict_labels(linearized).tolist()),
                    "dev": score(self.metric, self.labels["dev"], predict_labels(real).tolist()),
                }
            )
        if weights is not None and training is not None and training.reached not in curves:
            with at_weights(self.model, weights):
                curves[training.reached] = logits_of(self.model, dev)
        return found, curves

    def emulation(self, training: Training | None, curves: Mapping[int, Array]) -> dict[str, Any] | None:
        """Returns real and emulated learning curves of dev texts, if the training can be emulated."""
        if training is None or len(curves) < 2:
            return None
        steps = sorted(curves)
        emulated = emulate(training, self.before.kernels, self.labels["train"], self.before.logits, steps)
        if emulated is None:
            return None
        real = np.stack([curves[step] for step in steps])
        return compared(steps, real, emulated).as_dict(SHOWN_TEXTS)

    def groups(self) -> dict[str, float]:
        """Returns each parameter group's share of the train kernel's trace; of 64 train texts where the kernel has no such groups."""
        grouping = readable_groups(self.model)
        parts = self.before.kernels["train", "sgd"].groups
        if parts and set(parts) <= {grouping(name) for name in self.trainable}:
            return group_shares(parts)
        chosen = _spread_over_classes(self.labels["train"], FEATURE_TEXTS)
        return shares_of(
            gradient_norms(
                self.model, self.examples["train"].choose(chosen), self.trainable, grouping, self.coverage
            )
        )


def _spread_over_classes(labels: Sequence[int], most: int) -> list[int]:
    """Returns at most so many places, in turn one of each class, in ascending order."""
    queues = {label: [i for i, each in enumerate(labels) if each == label] for label in sorted(set(labels))}
    turns = sorted(
        (turn, label, place) for label, places in queues.items() for turn, place in enumerate(places)
    )
    return sorted(place for _, _, place in turns[:most])


def _not_finite(weights: Mapping[str, Tensor]) -> str:
    bad = next((name for name, value in weights.items() if not bool(value.isfinite().all())), None)
    return "" if bad is None else f"the fine-tuned weights of {bad!r} are not finite"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value
