"""LoRA's kernels against LoRA itself: which targets and ranks, which rate, and where training diverges.

    python benchmarks/subspace_arms.py --model MODEL --data DATA --out subspaces
    python benchmarks/subspace_arms.py --out subspaces --report

All that is measured was written down here before it was run. Every row goes to a table in --out as soon as it is there, and what is
there is not computed again; --parts, --tasks and --seeds take less. A split is k = 16 texts a class (``few_shot.py``), its own seed
is that of LoRA's A (the kernel's and the training's are the same matrix) and of the order of the texts. LoRA starts as peft's does:
Kaiming A, B = 0, alpha = 16, scale alpha / r.

kernels.csv, part ``a``: SST-2, Subj, TREC; seeds 13, 21, 42, 87, 100; LoRA of rank 1, 4, 16, 64 on query+value, attention, mlp, all-linear
(16 candidates). Of the train texts' kernel: relative Frobenius distance after the best scale to the kernel of all parameters (``distance``)
and to that of the adapted weights (``to_adapted``), CKA, accuracy of ridge held out in 5 rounds of folds, condition number, stable rate.

trainings.csv, part ``a``: the same candidates and full fine-tuning, trained by AdamW on the cross-entropy: 60 steps of 8 texts, rate down
to zero linearly, gradients clipped to norm 1, no dropout. Rates: 2e-5, 1e-4, 5e-4 for full fine-tuning, 5e-4, 2e-3, 8e-3 for LoRA; the
best on dev after the last step is taken, of equals the smaller rate. Test accuracy on 200 texts; ``missed`` is ||f_lora - f_full|| /
||f_full - f_0|| over the test logits.

descents.csv, parts ``b`` and ``c``: SST-2, seeds 13, 21, 42, every second of the train texts (8 a class); full training and LoRA of
rank 4 and 64 on query+value and all-linear, by plain gradient descent: 30 steps, all train texts in each, constant rate, no clipping, no
dropout. The rate is a factor times the stable rate that the kernel predicts, 2 / the largest eigenvalue of K / N times the loss's
curvature at f_0. ``b``: factors 2^-5, ..., 2^1; the best rate is the one with the least training loss after the last step, and beside it
the one with the least dev loss. Predicted: the best rate of LoRA over that of full training is the ratio of their stable rates, that is,
both are best at the same factor. ``c``: factors 2^(j/2) from 1/8 to 8, bisected; diverged means a training loss after the last step that
is above its start, or no number. The measured factor is the geometric mean of the largest that did not diverge and the smallest that
did. Predicted: 1, within a factor of 2.

--report: Spearman's rank correlation over the 16 candidates of a task, of means over seeds: distance, held-out error and condition number
against the real test error and against ``missed``. *Ceiling*: the same of the real quantity of two seeds against that of the other three,
mean over all ten ways. Baselines: the test accuracy of the candidate that each rule takes (least distance, best held out, least condition
number, all-linear r = 16 always), mean over splits, beside the best candidate's and full fine-tuning's.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from few_shot import FewShot, labels_of
from subspace_descents import ARMS, DESCENT_SEEDS, descents
from subspace_tables import Table, report

from lmntk.engine.kernel_work import KernelWork
from lmntk.engine.settings import Settings
from lmntk.engine.stream import stream_kernels
from lmntk.finetuning.grid import search
from lmntk.finetuning.logits import logits_of
from lmntk.finetuning.method import FineTuningMethod
from lmntk.finetuning.settings import Labelled, TrainingData, TrainingSettings
from lmntk.finetuning.subsets import Subset
from lmntk.kernels.grid import lora_candidates, plain_candidates
from lmntk.kernels.lora import LoraStart
from lmntk.kernels.subspaces import Candidate, Subspaces
from lmntk.models.build import logit_model
from lmntk.models.filters import ParameterFilter
from lmntk.models.loading import load_pretrained
from lmntk.models.parts import parts_of
from lmntk.solvers.emulator import logit_error
from lmntk.solvers.folds import deal_folds
from lmntk.subspaces.measures import Question, measures_of

TASKS, SEEDS, DESCENT_TASKS = ("sst-2", "subj", "trec"), (13, 21, 42, 87, 100), ("sst-2",)
TARGETS, RANKS = ("query+value", "attention", "mlp", "all-linear"), (1, 4, 16, 64)
FULL = "full"
RATES = {FULL: (2e-5, 1e-4, 5e-4), "lora": (5e-4, 2e-3, 8e-3)}
TRAINING = TrainingSettings("adamw", steps=60, batch_size=8, eval_every=60, dropout=False)
START = LoraStart("kaiming", "alpha/r", 16.0)
TEST_TEXTS, ROUNDS = 200, 5


class Split:
    """One split on one model: texts, labels, kernels and trainings."""

    def __init__(self, pretrained: Any, data: str, task: str, seed: int, every: int = 1) -> None:
        self.task, self.seed, self.pad_id = task, seed, pretrained.pad_id
        split = FewShot.read(data, task, seed, TEST_TEXTS)
        encoder = split.encoder(pretrained, "prompt")
        two_classes = len(set(labels_of(split.train))) == 2
        self.model = logit_model(pretrained, encoder, two_classes)
        sides = {"train": split.train[::every], "dev": split.dev, "test": split.test}
        self.labelled = {
            side: Labelled([encoder.encode(example) for example in examples], labels_of(examples).tolist())
            for side, examples in sides.items()
        }
        self.data = TrainingData(
            self.labelled["train"], self.labelled["dev"], self.pad_id, "accuracy", self.labelled["test"]
        )

    @cached_property
    def before(self) -> dict[str, np.ndarray]:
        """The pre-trained logits of each side."""
        return {
            side: logits_of(self.model, part.texts, self.pad_id).numpy()
            for side, part in self.labelled.items()
        }

    def kernels(self, pairs: list[tuple[str, int]]) -> dict[str, np.ndarray]:
        """Return the train texts' kernels of LoRA on these targets and ranks, of the adapted weights and of all, by name."""
        parts = parts_of(self.model)
        low = [
            replace(each, name=f"{target} r={rank}")
            for target, rank in pairs
            for each in lora_candidates(parts, (target,), (rank,), (self.seed,), START)
        ]
        adapted = [
            Candidate(f"adapted by {target}", lora_candidates(parts, (target,), (1,))[0].parameters)
            for target in dict.fromkeys(target for target, _ in pairs)
        ]
        everything = [replace(each, name=FULL) for each in plain_candidates(parts, ("all",))]
        work = KernelWork(
            self.model,
            {"train": self.labelled["train"].texts},
            [("train", "train")],
            ["sgd"],
            ParameterFilter().select(self.model),
            self.pad_id,
            Subspaces((*low, *adapted, *everything)),
        )
        found = stream_kernels(work, Settings()).subspaces["train", "train"]
        return {name: kernels["sgd"].cpu().double().numpy() for name, kernels in found.items()}

    def subset(self, arm: str) -> Subset:
        """Return what trains in an arm, which is called as its kernel is."""
        if arm == FULL:
            return Subset()
        target, rank = arm.split(" r=")
        return Subset(lora_rank=int(rank), lora_alpha=START.alpha, lora_targets=target, seed=self.seed)


def measure(split: Split, table: Table) -> None:
    """Write the kernels' rows of a split."""
    pairs = [(target, rank) for target in TARGETS for rank in RANKS]
    if all(table.has(split.task, split.seed, f"{target} r={rank}") for target, rank in pairs):
        return
    began = time.time()
    kernels = split.kernels(pairs)
    seconds = time.time() - began
    labels = np.asarray(split.labelled["train"].labels)
    rounds = deal_folds(labels, rounds=ROUNDS)
    question = Question(labels, split.before["train"], split.before["train"], rounds)
    for arm in (FULL, *(f"{target} r={rank}" for target, rank in pairs)):
        if table.has(split.task, split.seed, arm):
            continue
        adapted = None if arm == FULL else kernels[f"adapted by {arm.split(' r=')[0]}"]
        found = measures_of(kernels[arm], kernels[FULL], question, adapted)
        table.add(
            split.task,
            split.seed,
            arm,
            distance=found.to_all.distance,
            to_adapted="" if found.to_adapted is None else found.to_adapted.distance,
            cka=found.to_all.cka,
            held_out=float(found.correct.mean()),
            condition=found.condition,
            stable_rate=found.stable_rate,
            seconds=seconds,
        )


def train(split: Split, table: Table, folder: Path) -> None:
    """Train full fine-tuning and every candidate of a split, and write their rows."""
    kept = folder / f"full-{split.task}-{split.seed}.npy"
    for arm in (FULL, *(f"{target} r={rank}" for target in TARGETS for rank in RANKS)):
        if table.has(split.task, split.seed, arm):
            continue
        began = time.time()
        rates = RATES[FULL if arm == FULL else "lora"]
        settings = replace(TRAINING, seed=split.seed)
        method = FineTuningMethod(settings, rates, (settings.batch_size,), split.subset(arm), False)
        found = search(split.model, split.data, method)
        logits = found.logits["test"].numpy()
        if arm == FULL:
            np.save(kept, logits)
        assert found.chosen is not None
        table.add(
            split.task,
            split.seed,
            arm,
            trained=found.trained,
            rate=found.runs[found.chosen]["learning_rate"],
            dev=found.dev,
            test=float(np.mean(decided(logits) == np.asarray(split.labelled["test"].labels))),
            missed=logit_error(split.before["test"], np.load(kept), logits),
            diverged=sum(run["status"] == "diverged" for run in found.runs),
            seconds=time.time() - began,
        )


def decided(logits: np.ndarray) -> np.ndarray:
    """Return the classes of logits [n, c]."""
    return (logits[:, 0] > 0).astype(int) if logits.shape[1] == 1 else logits.argmax(1)


def main() -> None:
    """Compute the rows that are missing, or print the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model")
    parser.add_argument("--data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", default="cba", help="of a, b, c, in this order")
    parser.add_argument("--tasks", nargs="+")
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    kernels, trainings, falls = (
        Table(options.out / f"{name}.csv") for name in ("kernels", "trainings", "descents")
    )
    if options.report:
        report(kernels, trainings, falls)
        return
    pretrained = load_pretrained(options.model)
    for part in options.parts:
        if part == "a":
            for seed in options.seeds or SEEDS:  # a seed of all tasks before the next: a short run sees each
                for task in options.tasks or TASKS:
                    split = Split(pretrained, options.data, task, seed)
                    measure(split, kernels)
                    train(split, trainings, options.out)
            continue
        for seed in options.seeds or DESCENT_SEEDS:
            for task in options.tasks or DESCENT_TASKS:
                split = Split(pretrained, options.data, task, seed, every=2)
                pairs = [(arm.split(" r=")[0], int(arm.split(" r=")[1])) for arm in ARMS if arm != FULL]
                descents(split, split.kernels(pairs), falls, part)


if __name__ == "__main__":
    main()
