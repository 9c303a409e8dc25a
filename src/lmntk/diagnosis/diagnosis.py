"""One fine-tuning, diagnosed: what its kernel says, what training did, the regime, the paper's three tests, and their verdict."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from lmntk.diagnosis.before import SIDES, Before, look_before
from lmntk.diagnosis.examples import fitted, logits_of
from lmntk.diagnosis.features import kernel_distance
from lmntk.diagnosis.linearization import linearized_logits
from lmntk.diagnosis.moves import Moves
from lmntk.diagnosis.record import Diagnosis
from lmntk.diagnosis.regime import TEST_ERROR
from lmntk.diagnosis.spectrum import group_shares, readable_groups, shares_of, spectrum
from lmntk.diagnosis.stability import stable_rates
from lmntk.diagnosis.subject import FineTuning, KernelSolution, LabelledExamples
from lmntk.diagnosis.verdict import Evidence, decide
from lmntk.engine.settings import Settings
from lmntk.errors import UserError
from lmntk.models.weights import at_weights
from lmntk.solvers.chi import mean_chi
from lmntk.solvers.emulated_training import Emulation, Training, emulate
from lmntk.solvers.emulator import logit_error
from lmntk.solvers.inputs import Array
from lmntk.solvers.selection import predict_labels
from lmntk.tasks.metrics import score

FEATURE_TEXTS = 64  # train texts whose gradients are compared
TRAJECTORY_TEXTS = 16  # the same at each step of a trajectory
SHOWN_TEXTS = 8  # dev texts whose learning curves are kept
SHOWN_KERNEL = 64  # texts a side of the kernels that are kept for a picture


def diagnose(
    model: nn.Module,
    texts: LabelledExamples,
    fine_tuning: FineTuning,
    *,
    solution: KernelSolution | None = None,
    mode: str = "prompt",
    other_mode: Array | None = None,
    identity: Mapping[str, Any] | None = None,
    settings: Settings | None = None,
) -> Diagnosis:
    """Return the diagnosis of one fine-tuning of any module from a batch to logits [n, c].

    Args:
        model: at theta_0, where it is again when this returns.
        texts: the train, dev and test examples with their labels.
        fine_tuning: the weights that it led to, and what is known of the way there.
        solution: the kernel that it is held against; by default the sgd kernel, which is then computed.
        mode: ``prompt``, or ``head`` where the logits before training are a linear probe's.
        other_mode: logits [m, c] of the test texts before training in the other mode, for its mean |chi|.
        identity: split, task, k, seed, method; written as they are.
        settings: batch size, memory, scratch folder.

    Cost: the kernels; four forward passes a test text, beside that of its logits before training; 64 train
    texts' gradients before and after, and those of 16 of them before; for each step of the trajectory four forward
    passes a dev text and the gradients of the 16. Where their factors do not fit it is more (``Moves``). Memory:
    the model, twice the weights, and what ``settings`` bounds.

    Where all train texts are of one class nothing is solved, and the kernel's spectrum has no labels to be
    held against.

    Raises:
        UserError: a side missing, labels that do not fit, a metric that is unknown, a kernel of other texts,
            or no kernel of the formula.
    """
    settings, solution = settings or Settings(), solution or KernelSolution()
    labels, formula, training = texts.labels, solution.formula, fine_tuning.training
    missing = [side for side in SIDES if side not in texts.examples or side not in labels]
    if missing:
        raise UserError(f"diagnose: there are no {missing[0]} texts with labels; give train, dev and test")
    trainable = fine_tuning.trainable
    if trainable is None:
        trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trainable:
        raise UserError(
            "diagnose: no parameter requires a gradient; name those that were trained in trainable"
        )
    _, coverage = fitted(model, texts.examples["train"], trainable)
    if not coverage.batched:
        texts = replace(texts, examples={side: part.alone() for side, part in texts.examples.items()})
    before = look_before(model, texts.examples, trainable, solution.kernels, settings)
    kernel = before.kernels["train", "sgd"].values
    moves = Moves(model, texts.examples["train"], trainable, kernel, settings, coverage)
    measured = _Measurements(model, texts, trainable, before, moves)
    absent = [side for side in SIDES if (side, formula) not in before.kernels]
    if absent:
        raise UserError(
            f"diagnose: there is no {formula} kernel of the {absent[0]} texts; "
            "give all three, or solve the sgd kernel"
        )
    numbers: dict[str, float | None] = measured.before_training(training, mode, other_mode)
    logits: dict[str, Any] = {
        "before": before.logits["test"],
        "fine_tuned": None,
        "linearized": None,
        "labels": list(labels["test"]),
    }
    classes: dict[str, Sequence[int] | None] = {"fine_tuned": None, "linearized": None}
    pictures = None
    weights, diverged = fine_tuning.weights, fine_tuning.diverged
    if weights is not None and not diverged:
        diverged = _not_finite(weights)
    if weights is not None and not diverged:
        with at_weights(model, weights):
            logits["fine_tuned"] = logits_of(model, texts.examples["test"])
        logits["linearized"] = linearized_logits(model, texts.examples["test"], weights).after
        if np.isfinite(logits["fine_tuned"]).all():
            classes = {name: predict_labels(logits[name]).tolist() for name in classes}
            moved, pictures = measured.features(weights)
            numbers |= moved
            numbers["logit_error"] = logit_error(logits["before"], logits["fine_tuned"], logits["linearized"])
            numbers |= measured.emulated(training, logits, classes)
        else:
            diverged = "the fine-tuned model's logits are not finite"
            logits["fine_tuned"] = logits["linearized"] = None
    groups = measured.groups()  # before other texts' factors take the place of these
    has_one_class = len(set(labels["train"])) < 2
    solved = None if has_one_class else before.solve(labels, texts.metric, formula, solution.solver)
    evidence = Evidence(
        metric=texts.metric,
        labels=labels["test"],
        zero_shot=predict_labels(before.logits["test"]).tolist(),
        kernel=None if solved is None else solved.predictions,
        fine_tuned=classes["fine_tuned"],
        linearized=classes["linearized"],
        distance=numbers.get("kernel_distance"),
        diverged=diverged,
        median=numbers.get("kernel_distance_median"),
        formula=formula,
        unsolved=f"all {len(labels['train'])} train texts are of one class" if has_one_class else "",
    )
    names = ("zero_shot", "fine_tuned", "kernel", "linearized")
    numbers = {name: evidence.score(getattr(evidence, name)) for name in names} | numbers
    steps, curves = measured.along(fine_tuning.trajectory, None if diverged else weights, training)
    spread = None if has_one_class else spectrum(kernel, labels["train"])  # by labels that differ
    emulation = measured.emulation(training, curves)
    numbers |= {
        name: None if spread is None else getattr(spread, name)
        for name in ("target_alignment", "effective_rank")
    }
    numbers |= {
        f"emulation_{name}": None if emulation is None else emulation[name]
        for name in ("error", "move_error")
    }
    eigen = None
    if spread is not None:
        eigen = {"eigenvalues": spread.eigenvalues, "alignment": spread.alignment}
    return Diagnosis(
        identity={**(identity or {}), "mode": mode, "metric": texts.metric, "formula": formula},
        verdict=decide(evidence),
        numbers=numbers,
        trajectory=steps,
        logits=logits,
        predictions=classes | {name: getattr(evidence, name) for name in names},
        emulation=emulation,
        spectrum=eigen,
        groups=groups,
        kernels=pictures,
    )


@dataclass(frozen=True, eq=False)
class _Measurements:
    """The model with all that is known of it before training; its methods measure the fine-tuning."""

    model: nn.Module
    texts: LabelledExamples
    trainable: Mapping[str, nn.Parameter]
    before: Before
    moves: Moves

    def before_training(
        self, training: Training | None, mode: str, other_mode: Array | None
    ) -> dict[str, float | None]:
        """Return chi and the stable rates.

        Chi is that of the test texts: the linear probe was fitted to the train texts.
        """
        here, there = ("with", "without") if mode == "prompt" else ("without", "with")
        test_labels = self.texts.labels["test"]
        loss = "cross-entropy" if training is None else training.loss
        size = None if training is None else training.batch_size
        # the steps of other optimizers are no gradients, nor their rates
        is_descent = training is None or training.optimizer == "sgd"
        rates = stable_rates(
            self.before.kernels["train", "sgd"].values, self.before.logits["train"], loss, size
        )
        return {
            f"chi_{here}_prompt": mean_chi(self.before.logits["test"], test_labels),
            f"chi_{there}_prompt": None if other_mode is None else mean_chi(other_mode, test_labels),
            "largest_stable_rate": rates.full_batch if is_descent else None,
            "largest_stable_rate_for_every_f": rates.for_every_f if is_descent else None,
            "largest_stable_rate_for_every_minibatch": rates.every_minibatch if is_descent else None,
            "rate": None if training is None else training.learning_rate,
        }

    def features(self, weights: Mapping[str, Tensor]) -> tuple[dict[str, float | None], dict[str, Any]]:
        """Return the distances that features moved, and the kernels before and after for a picture."""
        labels = self.texts.labels["train"]
        chosen = _spread_over_classes(labels, FEATURE_TEXTS)
        move = self.moves.to(weights, chosen)
        moved, gradients = kernel_distance(move.before, move.after), move.gradients
        ordered = np.array(sorted(range(len(chosen)), key=lambda i: labels[chosen[i]]))[:SHOWN_KERNEL]
        pictures = {
            "before": np.einsum("ncmc->nm", move.before)[np.ix_(ordered, ordered)],
            "after": np.einsum("ncmc->nm", move.after)[np.ix_(ordered, ordered)],
            "labels": [labels[chosen[i]] for i in ordered],
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

    def along(
        self,
        trajectory: Iterable[tuple[int, Mapping[str, Tensor]]],
        weights: Mapping[str, Tensor] | None,
        training: Training | None,
    ) -> tuple[list[dict[str, float]], dict[int, Array]]:
        """Return the numbers that are measured at each step, and the dev texts' real logits by step."""
        dev, dev_labels = self.texts.examples["dev"], self.texts.labels["dev"]
        start, metric = self.before.logits["dev"], self.texts.metric
        chosen = _spread_over_classes(self.texts.labels["train"], TRAJECTORY_TEXTS)
        points, curves = [], {0: start}
        for step, weights_there in trajectory:
            if _not_finite(weights_there):
                break
            with at_weights(self.model, weights_there):
                real = logits_of(self.model, dev)
            if not np.isfinite(real).all():
                break
            curves[step] = real
            linearized = linearized_logits(self.model, dev, weights_there).after
            move = self.moves.to(weights_there, chosen)
            points.append(
                {
                    "step": step,
                    "logit_error": logit_error(start, real, linearized),
                    "kernel_distance": kernel_distance(move.before, move.after).elementwise,
                    "gradient_distance": move.gradients.mean,
                    "linearized": score(metric, dev_labels, predict_labels(linearized).tolist()),
                    "dev": score(metric, dev_labels, predict_labels(real).tolist()),
                }
            )
        if weights is not None and training is not None and training.reached not in curves:
            with at_weights(self.model, weights):
                curves[training.reached] = logits_of(self.model, dev)
        return points, curves

    def emulated(
        self, training: Training | None, logits: Mapping[str, Any], classes: dict[str, Sequence[int] | None]
    ) -> dict[str, float | None]:
        """Return e and the metric of the test texts in the emulation, whose classes are added; nothing without one.

        E is SGD's alone: SignGD's emulation is of a single logit, one text a step.
        """
        if training is None:
            return {}
        labels, steps = self.texts.labels, [training.reached]
        emulated = emulate(training, self.before.kernels, labels["train"], self.before.logits, steps, "test")
        if emulated is None:
            return {}
        is_finite = bool(np.isfinite(emulated).all())
        error = logit_error(logits["before"], logits["fine_tuned"], emulated[0]) if is_finite else math.inf
        numbers: dict[str, float | None] = {TEST_ERROR: error} if training.optimizer == "sgd" else {}
        if is_finite:
            predicted = predict_labels(emulated[0]).tolist()
            classes["emulated"] = predicted
            numbers["emulated"] = score(self.texts.metric, labels["test"], predicted)
        return numbers

    def emulation(self, training: Training | None, curves: Mapping[int, Array]) -> dict[str, Any] | None:
        """Return real and emulated learning curves of dev texts, if the training can be emulated."""
        if training is None or len(curves) < 2:
            return None
        steps, labels = sorted(curves), self.texts.labels["train"]
        emulated = emulate(training, self.before.kernels, labels, self.before.logits, steps)
        if emulated is None:
            return None
        real = np.stack([curves[step] for step in steps])
        return Emulation.of(steps, real, emulated).as_dict(SHOWN_TEXTS)

    def groups(self) -> dict[str, float]:
        """Return each parameter group's share of the train kernel's trace.

        Where the kernel has no such groups, the share is that of 64 train texts.
        """
        grouping = readable_groups(self.model)
        parts = self.before.kernels["train", "sgd"].groups
        if parts and set(parts) <= {grouping(name) for name in self.trainable}:
            return group_shares(parts)
        chosen = _spread_over_classes(self.texts.labels["train"], FEATURE_TEXTS)
        return shares_of(self.moves.norms(chosen, grouping))


def _spread_over_classes(labels: Sequence[int], most: int) -> list[int]:
    """Return at most ``most`` row numbers, in turn one of each class, in ascending order."""
    queues = {label: [i for i, each in enumerate(labels) if each == label] for label in sorted(set(labels))}
    turns = sorted((turn, label, row) for label, rows in queues.items() for turn, row in enumerate(rows))
    return sorted(row for _, _, row in turns[:most])


def _not_finite(weights: Mapping[str, Tensor]) -> str:
    bad = next((name for name, value in weights.items() if not bool(value.isfinite().all())), None)
    return "" if bad is None else f"the fine-tuned weights of {bad!r} are not finite"
