"""A run's split as a training that is asked about: a ridge solution, or SGD fine-tuning emulated by its kernel; and its test texts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmntk.attribution.changes import TrainedTexts
from lmntk.attribution.descent_refits import DescentRefits
from lmntk.attribution.parts import Parts, Refits, parts_of
from lmntk.attribution.ridge_refits import RidgeRefits
from lmntk.diagnosis.regime import Regime, regime_of
from lmntk.errors import UserError
from lmntk.estimator.solved import plain_text
from lmntk.experiment.configuration import make_experiment
from lmntk.experiment.published import Solvable
from lmntk.experiment.reading import ReadTask, read_tasks
from lmntk.experiment.solve_folder import read_folder
from lmntk.explanation.asked import Question
from lmntk.explanation.blocks import NewTexts, margin_of_labels
from lmntk.explanation.trained import Trained
from lmntk.finetuning.settings import batch_order
from lmntk.runs.reading import read_run
from lmntk.solvers.emulator import learning_rates
from lmntk.solvers.inputs import Array
from lmntk.system.hashing import short
from lmntk.system.notices import kept
from lmntk.system.progress import Progress
from lmntk.tasks.example import Example, digest_examples

# the solvers whose part of each text is exact, on a symmetric kernel
RIDGES = ("sgd ridge", "signgd ridge", "sgd contrasts ridge")
SGD = "sgd fine-tuning"  # of all parameters that the kernel counts
Record = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class RunSolution:
    """A training on a split's kernels.

    Attributes:
        kernel: of the training texts [N, C, N, C].
        numbers: their classes.
        logits: before training [N, C].
        made: the training from its texts.
    """

    kernel: Array
    numbers: Sequence[int]
    logits: Array
    made: Callable[[TrainedTexts], Refits]

    def refits(self, cross: Any = None, cross_f0: Any = None) -> Refits:
        """Return the training, whose outcomes are those of other texts; by default of its own."""
        cross, cross_f0 = (self.kernel, self.logits) if cross is None else (cross, cross_f0)
        return self.made(TrainedTexts.of(self.kernel, cross, self.numbers, self.logits, cross_f0))

    def parts(self, cross: Array, cross_f0: Array) -> Parts:
        """Return decisions on other texts, taken apart."""
        return parts_of(self.refits(cross, cross_f0), np.zeros(self.logits.shape[1]))


class RunSource:
    """A split of a run's folder.

    Args:
        question: what is asked.
        progress: told which split and method are taken.
        read: the run's tasks, where they were read already.

    Raises:
        UserError: no such split or method, no kernels, or texts that are not there any more; or new texts, for which a fit is needed.
    """

    def __init__(
        self, question: Question, progress: Progress, read: Sequence[ReadTask] | None = None
    ) -> None:
        if question.source is not None or question.texts:
            raise UserError(
                "explain: a run explains its own test texts; for new texts make a classifier with `lmntk fit FILE`"
            )
        if question.trust:
            raise UserError(
                "trust: the regime of a run comes from its diagnosis; make one with `lmntk run ... --finetune sgd --diagnose`"
            )
        self.question, self.run = question, read_run(question.folder)
        self.split, self.method = self._chosen(progress)
        self.record = self.run.splits[self.split]
        formula = self.method.split()[0]
        # results of other settings lie beside: the key says which ones the run's are
        key = self.record.get("key")
        name = f"{self.split}-{short(key)}" if key else self.split
        (self.solvable,) = read_folder(question.folder, name, (formula,))
        self.kernels = {
            side: kernel for (side, name), kernel in self.solvable.kernels.items() if name == formula
        }
        if self.kernels["train"].values.shape[1] != self.solvable.logits["train"].shape[1]:
            raise UserError(
                f"explain: the classes of {self.split} share a kernel; run with --classes full, or use `lmntk fit`"
            )
        self.examples = self._texts(read)
        self.trained = self._trained()

    def new_texts(self) -> tuple[NewTexts | None, int]:
        """Return the test texts: those that are decided least well, and how many there are; of a change all."""
        labels = list(self.solvable.labels["test"])
        cross, logits = self.kernels["test"].values, self.solvable.logits["test"]
        order = list(range(len(labels)))
        if not self.question.is_change:
            decisions = self.trained.solution.refits(cross, logits)
            of_all = decisions.offset + decisions.contributions().sum(axis=0)
            worst = np.argsort(margin_of_labels(of_all, labels), kind="stable")
            order = worst[: self.question.most].tolist()
        groups = {name: part[:, :, order] for name, part in self.kernels["test"].groups.items()}
        plain = [plain_text(self.examples["test"][number]) for number in order]
        new = NewTexts(plain, cross[:, :, order], logits[order], groups, [labels[number] for number in order])
        return new, len(labels)

    def regime(self) -> Regime:
        """Return whether the kernel regime holds, by the diagnosis of the kernel's own fine-tuning: of all parameters."""
        trained = f"{self.method.split()[0]} fine-tuning"
        return regime_of(
            [each for each in self.run.diagnoses if (each["split"], each["method"]) == (self.split, trained)]
        )

    def _chosen(self, progress: Progress) -> tuple[str, str]:
        """Return the split and the method that are asked for, by default the ridge solution that is best on dev."""
        question, found = self.question, self._methods()
        fitting = [
            (split, method, dev)
            for split, method, dev in found
            if question.split in (None, split) and (question.method or method) == method
        ]
        if question.method is None:
            fitting = [each for each in fitting if each[1] != SGD]
        if not fitting:
            asked = " and ".join(
                f"{name} {value!r}"
                for name, value in (("split", question.split), ("method", question.method))
                if value is not None
            )
            there = ", ".join(dict.fromkeys(f"{split} {method}" for split, method, _ in found)) or "none"
            raise UserError(
                f"explain: {str(question.folder)!r} has nothing of {asked or 'ridge'} that can be explained "
                f"({', '.join((*RIDGES, SGD))}); it has {there}"
            )
        split, method, _ = max(fitting, key=lambda each: each[2])
        if len(fitting) > 1:
            progress.note(
                f"{split}, {method}, the best on dev of {len(fitting)}; choose with --split and --method"
            )
        return split, method

    def _methods(self) -> list[tuple[str, str, float]]:
        """Return each split and method that can be explained, with its metric on dev."""
        found = [
            (name, row["method"], row["dev"] or 0.0)
            for name, record in self.run.splits.items()
            for row in record["rows"]
            if row["method"] in RIDGES
        ]
        found += [
            (record["split"], SGD, record["dev"] or 0.0)
            for record in self.run.finetunings
            if record["method"] == SGD
            and record.get("chosen") is not None
            and record["split"] in self.run.splits
        ]
        return found

    def _texts(self, read: Sequence[ReadTask] | None) -> dict[str, list[Example]]:
        """Return the split's train and test texts from the files that the run has read.

        Raises:
            UserError: they are not there any more, or have other labels.
        """
        row = self.record["rows"][0]
        try:
            with kept():  # what was remarked when the run read them
                tasks = read or read_tasks(make_experiment(dict(self.run.experiment)))
        except UserError as error:
            raise UserError(f"explain: the texts of {self.split} cannot be read again: {error}") from error
        for task in tasks:
            if task.name == row["task"] and (row["k"], row["seed"]) in task.data:
                data = task.data[row["k"], row["seed"]]
                numbers = self.record["row_numbers"]
                texts = {"train": data.train, "test": data.test}
                if all(max(numbers[side], default=0) < len(texts[side]) for side in texts):
                    chosen = {side: [texts[side][number] for number in numbers[side]] for side in texts}
                    if all(self._are_known(side, chosen[side]) for side in texts):
                        return chosen
        raise UserError(
            f"explain: the texts of {self.split} have changed since the run; run it again, or put them back"
        )

    def _are_known(self, side: str, examples: Sequence[Example]) -> bool:
        """Return whether texts are those whose kernel was kept; one of an earlier version says only their labels."""
        digests = self.kernels["train"].provenance.get("examples")
        if digests is not None:
            return bool(digest_examples(examples) == digests[side])
        return [each.label for each in examples] == list(self.solvable.labels[side])

    def _trained(self) -> Trained:
        made, setting = self._making()
        train, labels = self.examples["train"], self.record["labels"]
        plain = [plain_text(example) for example in train]
        classes = max(2, self.solvable.logits["train"].shape[1])
        return Trained(
            folder=self.question.folder,
            name=repr(f"{self.question.folder}, {self.split}"),
            settings={
                "model": self.run.experiment.get("model", ""),
                "mode": self.solvable.mode,
                "method": self.method,
                **setting,
            },
            plain=plain,
            rows=range(1, len(plain) + 1),
            numbers=list(self.solvable.labels["train"]),
            same=[plain.index(text) for text in plain],
            labels=labels or [str(number) for number in range(classes)],
            intercept=np.zeros(self.solvable.logits["train"].shape[1]),
            solution=RunSolution(
                self.kernels["train"].values,
                self.solvable.labels["train"],
                self.solvable.logits["train"],
                made,
            ),
        )

    def _making(self) -> tuple[Callable[[TrainedTexts], Refits], dict[str, Any]]:
        """Return how training goes on any texts, and its setting."""
        if self.method != SGD:
            row = next(row for row in self.record["rows"] if row["method"] == self.method)
            setting = row["setting"]
            ridge, scale = float(setting["regularization"]), float(setting.get("f0_scale", math.inf))
            return lambda texts: RidgeRefits(texts, ridge, scale), dict(setting)
        record = next(
            each
            for each in self.run.finetunings
            if (each["split"], each["method"]) == (self.split, self.method)
        )
        if record["loss"] != "cross-entropy" and self.kernels["train"].provenance.get("contrasts"):
            raise UserError(
                f"explain: training by the {record['loss']} loss moves what all logits have in common, and the kernel is of contrasts; "
                "run it with --classes full"
            )
        return emulated(record, self.solvable)


def emulated(record: Record, solvable: Solvable) -> tuple[Callable[[TrainedTexts], Refits], dict[str, Any]]:
    """Return the emulation of a recorded SGD fine-tuning on any of its texts, and its setting; the last step counts."""
    run, how = record["runs"][record["chosen"]], record["settings"]
    steps, size = int(how["steps"]), int(run["batch_size"])
    rates = learning_rates(run["learning_rate"], steps, how["schedule"])
    seed, count = int(how["seed"]), len(solvable.labels["train"])

    def draw(present: Sequence[int]) -> list[list[int]]:
        """Return the batches that the trainer would draw of these texts."""
        return [
            [present[number] for number in batch] for batch in batch_order(len(present), size, steps, seed)
        ]

    def made(texts: TrainedTexts) -> Refits:
        batches = None if size >= count else draw
        return DescentRefits(texts, rates, record["loss"], how["max_grad_norm"] or None, batches)

    setting = {
        "emulated": "by the sgd kernel, to the last step",
        "learning_rate": run["learning_rate"],
        "batch_size": size,
        "steps": steps,
    }
    return made, setting
