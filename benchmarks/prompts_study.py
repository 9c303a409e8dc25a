"""Prompts ranked by kernels, against what fine-tuning with each of them really reaches; and whether a natural prompt means a kernel.

    python benchmarks/prompts_study.py --model MODEL --data DATA --out prompts
    python benchmarks/prompts_study.py --model SMOLLM2 --data DATA --out prompts --sets sst-2-causal
    python benchmarks/prompts_study.py --out prompts --report

All that is measured was written down here, and the prompts in prompts_study.toml, before any of it was run. Every row goes to a
table in --out as soon as it is there, and what is there is not computed again. A split is k = 16 texts a class (``few_shot.py``):
train, as many dev texts, and 200 test texts; seeds 13 and 21. A row of prompts.csv is a prompt on a split:

* before training, of the train texts alone, held out as ``lmntk prompts`` holds them out (``estimator/prompt_ranking.py``):
  ``kernel``, the accuracy of ridge regression with its setting chosen inside each fold; ``zero_shot``, ``centred``,
  ``threshold``: without training. Of more than two classes the kernel is the shared one (two sign combinations), else it would
  take 36 times the products;
* ``chi``: the mean of |chi| over the test texts' logits and classes, before training;
* real fine-tuning by SGD (rate 5e-3) and AdamW (rate 1e-4), 64 steps of 8 texts, rate down to zero linearly, gradients clipped to
  norm 1, no dropout, order of the texts by the seed, the weights after the last step; no grid, the same for all prompts: dev
  texts take no part. ``sgd`` and ``adamw`` are test accuracies, ``..._diverged`` whether there were none. The causal model: rates
  1e-3 and 2e-5;
* after it, of each optimizer: ``..._distance``, the mean relative change of the kernel's entries (``kernel_distance``) on the
  first 8 train texts a class, of more than two classes 2; ``..._logit_error``, the share of the move of the first 60 test texts'
  logits that the model linearized at the reached weights misses; ``sgd_e``, of two classes, the share of the same move that SGD's
  emulation by the kernel misses: the regime's e. Of AdamW and of more classes the linearization stands in its place
  (``diagnosis/regime.py``);
* ``seconds`` of the processor for all of it.

--report says, for each set and optimizer, over its prompts, of means over seeds:

* the rank correlation (Spearman's) with the test accuracy of fine-tuning, of the ranking by ``kernel``, by ``threshold`` (the
  rival), by ``zero_shot`` and by small ``chi``; *ceiling*: that of one seed's test accuracy with the other's;
* the regret: the test accuracy of the best prompt less that of the prompt which a ranking puts first (of equals their mean), and
  of a prompt taken at random; mean over splits;
* the lead of ``kernel`` over ``threshold`` in both;
* the theory: the rank correlation of ``chi`` with ``..._distance``, ``..._logit_error`` and ``sgd_e``. Small |chi|, more of a
  kernel, means above 0.

Intervals are the middle 95 of 100 of 2,000 bootstraps over the prompts. The claim that is tested: the kernel's rank correlation
is above 0, its interval too, and above the rival's; the outcome is told either way.
"""

from __future__ import annotations

import argparse
import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from few_shot import FewShot, labels_of
from measuring import print_table
from scipy.stats import rankdata
from subspace_tables import Row, Table

from lmntk.baselines.rivals import ZeroShot
from lmntk.diagnosis.examples import Examples
from lmntk.diagnosis.features import kernel_distance, sgd_kernel, stream_sgd
from lmntk.diagnosis.linearization import linearized_logits
from lmntk.engine.settings import Settings
from lmntk.estimator.choice import candidates_of, folds_of
from lmntk.estimator.texts import LabelledTexts
from lmntk.estimator.ways import measure, way_of
from lmntk.finetuning.grid import search
from lmntk.finetuning.logits import logits_of
from lmntk.finetuning.method import FineTuningMethod
from lmntk.finetuning.settings import Labelled, TrainingData, TrainingSettings, batch_order
from lmntk.finetuning.subsets import Subset
from lmntk.kernels.kernel import Kernel
from lmntk.models.loading import load_pretrained
from lmntk.prompts.assembly import Limits
from lmntk.prompts.encoding import PromptEncoder, fitting_length
from lmntk.solvers.chi import mean_chi
from lmntk.solvers.emulated_training import Training, emulate
from lmntk.solvers.emulator import logit_error
from lmntk.solvers.held_out import CentredCandidate, Pool, held_out
from lmntk.solvers.selection import predict_labels
from lmntk.solvers.threshold import FittedThreshold

PROMPTS = Path(__file__).with_suffix(".toml")
SETS, SEEDS = ("sst-2", "trec"), (13, 21)
RATES = {"masked": {"sgd": 5e-3, "adamw": 1e-4}, "causal": {"sgd": 1e-3, "adamw": 2e-5}}
STEPS, BATCH, CLIP = 64, 8, 1.0
TEST_TEXTS, MOVE_TEXTS = 200, 60
FEATURE_TEXTS = {2: 8}  # a class; of more classes 2
BOOTSTRAPS = 2000


@dataclass(frozen=True)
class StudyPrompt:
    """A prompt of the study: the number within its set, the template and the words."""

    number: int
    template: str
    words: tuple[str, ...]


def prompts_of(name: str) -> list[StudyPrompt]:
    """Return the prompts of a set, in the order in which they were written."""
    entries = tomllib.loads(PROMPTS.read_text(encoding="utf8"))["prompts"]
    pairs = [
        (text, tuple(entry["words"]))
        for entry in entries
        if entry["set"] == name
        for text in entry["templates"]
    ]
    return [StudyPrompt(number, *pair) for number, pair in enumerate(pairs)]


class PromptOnSplit:
    """One prompt on one split of one model."""

    def __init__(self, pretrained: Any, split: FewShot, prompt: StudyPrompt, seed: int) -> None:
        self.pretrained, self.split, self.seed = pretrained, split, seed
        task = split.task
        encoder = PromptEncoder(
            pretrained.tokenizer,
            prompt.template,
            prompt.words,
            Limits(fitting_length(pretrained.tokenizer, task.max_length), task.text_a_limit),
            reading=pretrained.reading("prompt"),
            decoder_start=pretrained.decoder_start,
        )
        self.classes = len(task.labels)
        sharing: Any = "auto" if self.classes == 2 else "shared"
        self.way = way_of(pretrained, "prompt", encoder, task.labels, sharing=sharing)
        self.model, self.pad_id = self.way.model, pretrained.pad_id
        self.labels = {side: labels_of(getattr(split, side)) for side in ("train", "dev", "test")}
        self.texts = {side: self.way.encoded(getattr(split, side)) for side in self.labels}
        self.before = logits_of(self.model, self.texts["test"], self.pad_id).numpy()

    def ranked_by(self) -> dict[str, float]:
        """Return the held-out accuracies of the train texts, by kernel and without training."""
        texts = LabelledTexts(tuple(self.split.train), tuple(self.split.task.labels))
        measured = measure(self.way, texts.examples, Settings())
        labels, f0 = texts.numbers, measured.logits
        rounds = folds_of(texts, self.way.singles[0].outputs, 0)
        ways = {
            "kernel": Pool(candidates_of(measured, labels)),
            "zero_shot": ZeroShot(f0),
            "centred": CentredCandidate(f0),
            "threshold": FittedThreshold(f0, labels),
        }
        return {name: held_out(each, labels, rounds).accuracy for name, each in ways.items()}

    def trained(self, optimizer: str, rate: float) -> dict[str, Any]:
        """Return the test accuracy of real fine-tuning, and how far it left the kernel."""
        settings = TrainingSettings(
            optimizer, rate, BATCH, STEPS, eval_every=STEPS, max_grad_norm=CLIP, dropout=False, seed=self.seed
        )
        sides = {
            side: Labelled(self.texts[side], self.labels[side].tolist()) for side in ("train", "dev", "test")
        }
        data = TrainingData(sides["train"], sides["dev"], self.pad_id, "accuracy", sides["test"])
        found = search(self.model, data, FineTuningMethod(settings, (rate,), (BATCH,), Subset(), False))
        if found.chosen is None:
            return {optimizer: "", f"{optimizer}_diverged": 1} | dict.fromkeys(self._after(optimizer), "")
        after = found.logits["test"].numpy()
        few = self.texts["test"][:MOVE_TEXTS]
        linearized = linearized_logits(self.model, Examples.of_texts(few, self.pad_id), found.weights).after
        start, end = self.before[:MOVE_TEXTS], after[:MOVE_TEXTS]
        values = {
            optimizer: float(np.mean(predict_labels(after) == self.labels["test"])),
            f"{optimizer}_diverged": 0,
            f"{optimizer}_distance": self._distance(found.weights),
            f"{optimizer}_logit_error": logit_error(start, end, linearized),
        }
        if optimizer == "sgd":
            values["sgd_e"] = self._emulated(rate, start, end) if self.classes == 2 else ""
        return values

    def _after(self, optimizer: str) -> list[str]:
        names = [f"{optimizer}_distance", f"{optimizer}_logit_error"]
        return [*names, "sgd_e"] if optimizer == "sgd" else names

    @cached_property
    def _few(self) -> Examples:
        """The train texts of whose kernel the change is measured: the first ones of each class."""
        count = FEATURE_TEXTS.get(self.classes, 2)
        chosen = [n for c in range(self.classes) for n in np.flatnonzero(self.labels["train"] == c)[:count]]
        return Examples.of_texts([self.texts["train"][n] for n in chosen], self.pad_id)

    def _kernel_at(self, weights: Any = None) -> np.ndarray:
        (kernel,) = sgd_kernel(self.model, self._few, self.way.trainable, weights=weights).values()
        return kernel

    @cached_property
    def _kernel_before(self) -> np.ndarray:
        return self._kernel_at()

    def _distance(self, weights: Any) -> float:
        return float(kernel_distance(self._kernel_before, self._kernel_at(weights)).elementwise)

    def _emulated(self, rate: float, start: np.ndarray, end: np.ndarray) -> float:
        """Return e: the share of the move that the emulation of this very training by its kernel misses."""
        texts = {"train": self.texts["train"], "test": self.texts["test"][:MOVE_TEXTS]}
        pairs = [("train", "train"), ("train", "test")]
        streamed = stream_sgd(self.model, texts, pairs, self.way.trainable, self.pad_id, Settings())
        kernels = {
            (side, "sgd"): Kernel("sgd", next(iter(streamed.kernels["train", side]["sgd"].values())).numpy())
            for side in texts
        }
        order = batch_order(len(self.texts["train"]), BATCH, STEPS, self.seed)
        training = Training("sgd", rate, STEPS, batch_size=BATCH, clip=CLIP, batches=order)
        f0 = {side: streamed.logits[side].numpy() for side in texts}
        emulated = emulate(training, kernels, self.labels["train"].tolist(), f0, [STEPS], "test")
        assert emulated is not None
        return logit_error(start, end, emulated[-1]) if np.isfinite(emulated[-1]).all() else float("inf")


def measure_all(options: argparse.Namespace, table: Table) -> None:
    """Write the rows that are missing, a seed of all prompts before the next."""
    pretrained = load_pretrained(options.model)
    rates = RATES["masked" if pretrained.reading("prompt") == "mask" else "causal"]
    for seed in options.seeds:
        for name in options.sets:
            split = FewShot.read(options.data, name.removesuffix("-causal"), seed, TEST_TEXTS)
            for prompt in prompts_of(name)[: options.first]:
                if table.has(name, seed, str(prompt.number)):
                    continue
                began = time.process_time()
                on_split = PromptOnSplit(pretrained, split, prompt, seed)
                values: dict[str, Any] = {"chi": mean_chi(on_split.before, on_split.labels["test"].tolist())}
                values |= on_split.ranked_by()
                for optimizer, rate in rates.items():
                    values |= on_split.trained(optimizer, rate)
                table.add(name, seed, str(prompt.number), **values, seconds=time.process_time() - began)


Values = dict[
    str, np.ndarray
]  # by name, a mean over seeds of each prompt; of test accuracies by seed [seeds, prompts]
Statistic = Callable[[np.ndarray], float]  # of the prompts that take part, by their numbers


def report(table: Table) -> None:
    """Print what the table says."""
    for name in dict.fromkeys(row["task"] for row in table.rows.values()):
        rows = [row for row in table.rows.values() if row["task"] == name]
        found = sorted({row["seed"] for row in rows}, key=int)
        everything = [str(prompt.number) for prompt in prompts_of(name)]
        whole = [seed for seed in found if all(table.has(name, seed, number) for number in everything)]
        seeds = whole or found[:1]  # a seed that is not through yet would take prompts away
        numbers = [number for number in everything if all(table.has(name, seed, number) for seed in seeds)]
        by_seed = [[table.get(name, seed, number) for number in numbers] for seed in seeds]
        lines = []
        for optimizer in ("sgd", "adamw"):
            lines += lines_of(optimizer, by_seed)
        title = f"{name}: {len(numbers)} prompts, {len(seeds)} seeds"
        print_table([title, "estimate", "95 in 100"], lines)
        print()


def lines_of(optimizer: str, by_seed: Sequence[Sequence[Row]]) -> list[list[str]]:
    """Return the lines of an optimizer; a training that diverged is worth nothing."""

    def column(field: str, missing: float = float("nan")) -> np.ndarray:
        return np.asarray([[float(row[field] or missing) for row in rows] for rows in by_seed])

    real = 100 * column(optimizer, 0.0)  # (seeds, prompts)
    scores = {name: column(name) for name in ("kernel", "threshold", "zero_shot")} | {
        "small |chi|": -column("chi")
    }

    def correlation(score: np.ndarray) -> Statistic:
        return lambda chosen: rank_correlation(score[:, chosen].mean(0), real[:, chosen].mean(0))

    def regret(score: np.ndarray | None) -> Statistic:
        def of(chosen: np.ndarray) -> float:
            lost = []
            for truth, values in zip(real[:, chosen], real if score is None else score, strict=True):
                values = np.zeros(len(truth)) if score is None else values[chosen]
                lost.append(truth.max() - truth[values == values.max()].mean())
            return float(np.mean(lost))

        return of

    def lead(first: Statistic, second: Statistic) -> Statistic:
        return lambda chosen: first(chosen) - second(chosen)

    told: dict[str, Statistic] = {}
    for name, score in scores.items():
        told[f"rank correlation of {name} with the test accuracy"] = correlation(score)
    told["the kernel's less the threshold's"] = lead(
        correlation(scores["kernel"]), correlation(scores["threshold"])
    )
    for name, score in scores.items():
        told[f"regret of {name}, points"] = regret(score)
    told["regret of a prompt at random, points"] = regret(None)
    told["the threshold's less the kernel's, points"] = lead(
        regret(scores["threshold"]), regret(scores["kernel"])
    )
    after = [f"{optimizer}_distance", f"{optimizer}_logit_error", *(["sgd_e"] if optimizer == "sgd" else [])]
    for field in after:
        values = column(field)
        if np.isfinite(values).any():
            told[f"rank correlation of |chi| with {field}"] = theory(column("chi"), values)
    lines = [
        [f"{optimizer}: {name}", *interval(statistic, real.shape[1])] for name, statistic in told.items()
    ]
    if len(real) > 1:
        ceiling = rank_correlation(real[0], real[1:].mean(0))
        lines.append([f"{optimizer}: ceiling, one seed with the others", f"{ceiling:.2f}", ""])
    return lines


def theory(chi: np.ndarray, values: np.ndarray) -> Statistic:
    """Return the rank correlation of |chi| with what a training moved, of the prompts whose trainings ended."""

    def of(chosen: np.ndarray) -> float:
        ended = chosen[np.isfinite(values[:, chosen]).all(axis=0)]
        return rank_correlation(chi[:, ended].mean(0), values[:, ended].mean(0))

    return of


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Return Spearman's; nan where one side is all equal. It is called some 100,000 times."""
    if len(np.unique(first)) < 2 or len(np.unique(second)) < 2:
        return float("nan")
    return float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])


def interval(statistic: Statistic, prompts: int) -> list[str]:
    """Return a statistic of all prompts, and its middle 95 of 100 over bootstraps of them."""
    random = np.random.default_rng(0)
    drawn = [statistic(random.integers(0, prompts, prompts)) for _ in range(BOOTSTRAPS)]
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return [f"{statistic(np.arange(prompts)):.2f}", f"{low:.2f} to {high:.2f}"]


def main() -> None:
    """Compute the rows that are missing, or print the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model")
    parser.add_argument("--data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--first", type=int, help="so many prompts of each set alone")
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    table = Table(options.out / "prompts.csv")
    if options.report:
        report(table)
    else:
        measure_all(options, table)


if __name__ == "__main__":
    main()
