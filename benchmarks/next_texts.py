"""Labels that `lmntk next` asks for, against random ones and against the least sure ones.

    python benchmarks/next_texts.py --model MODEL --data DATA --out build/next
    python benchmarks/next_texts.py --out build/next --report

The pool are the texts of a published split, as if unlabelled (k = 64 for two classes, 16 for six; train and dev). Labelling starts with a
few texts of each class, drawn anew for each of ten seeds, and goes on by eight texts, five times. Three ways choose them: the greedy batch
of the posterior that `lmntk next` takes; the eight smallest margins; chance. Each then is ridge regression of the prompt's kernel at
lambda .01 without the pre-trained logits, fixed beforehand, and classifies the same test texts. The kernel is computed once a task and
kept in --out.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path
from typing import Any

import numpy as np
from few_shot import FewShot, labels_of
from measuring import print_table

from lmntk import compute_kernels, load_pretrained
from lmntk.attribution.changes import TrainedTexts
from lmntk.attribution.parts import Margins
from lmntk.attribution.posterior import Posterior
from lmntk.attribution.ridge_refits import RidgeRefits
from lmntk.solvers.selection import predict_labels

TASKS = {"sst-2": (64, 4), "subj": (64, 4), "trec": (16, 2)}  # k of the pool, and texts a class to start with
SPLIT, TESTS = 13, 200
STARTS, BATCH, ROUNDS = 10, 8, 5
REGULARIZATION = 0.01
WAYS = ("next", "margin", "random")
FIELDS = ("task", "start", "way", "labels", "accuracy")


def main() -> None:
    """Compute the tasks that are missing, or print the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model")
    parser.add_argument("--data")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    if options.report:
        report(options.out)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    for task in options.tasks:
        table = options.out / f"{task}.csv"
        if not table.exists():
            rows = curves(Pool.read(options, task), *TASKS[task][1:])
            with table.open("w", encoding="utf8", newline="") as file:
                writer = csv.DictWriter(file, FIELDS)
                writer.writeheader()
                writer.writerows({"task": task, **row} for row in rows)


class Pool:
    """The kernel of a task's pool with itself and with the test texts, its logits and its labels."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.kernel, self.f0 = arrays["kernel"], arrays["f0"]
        self.labels, self.truth = arrays["labels"], arrays["truth"]

    @classmethod
    def read(cls, options: Any, task: str) -> Pool:
        """Return the kept pool, or compute it."""
        path = options.out / f"{task}.npz"
        if not path.exists():
            split = FewShot.read(options.data, task, SPLIT, TESTS, TASKS[task][0])
            pool, test = [*split.train, *split.dev], split.test
            pretrained, began = load_pretrained(options.model), time.time()
            encoder = split.encoder(pretrained, "prompt")
            computed = compute_kernels(pretrained, encoder, pool, [*pool, *test], ["sgd"])
            print(f"{task}: {len(pool)} texts to choose from, {time.time() - began:.0f} s", flush=True)
            np.savez(
                path,
                kernel=np.asarray(computed.kernels["sgd"].values),
                f0=np.asarray(computed.logits["eval"]),
                labels=labels_of(pool),
                truth=labels_of(test),
            )
        with np.load(path) as arrays:
            return cls({name: arrays[name].astype(np.float64) for name in ("kernel", "f0")} | {
                name: arrays[name] for name in ("labels", "truth")
            })  # fmt: skip

    def trained(self, labelled: list[int], others: list[int]) -> RidgeRefits:
        """Return ridge regression on some texts of the pool, asked about others."""
        kernel = self.kernel[np.ix_(labelled, range(self.kernel.shape[1]), labelled)]
        cross = self.kernel[np.ix_(labelled, range(self.kernel.shape[1]), others)]
        texts = TrainedTexts.of(kernel, cross, self.labels[labelled], self.f0[labelled], self.f0[others])
        return RidgeRefits(texts, REGULARIZATION)

    def accuracy(self, labelled: list[int]) -> float:
        """Return the share of test texts that is right after training on these texts."""
        tests = list(range(len(self.labels), self.kernel.shape[2]))
        return float(np.mean(predict_labels(self.trained(labelled, tests).decisions) == self.truth))


def curves(pool: Pool, start: int) -> list[dict[str, Any]]:
    """Return the accuracy by number of labels, for each start and way."""
    rows = []
    for number in range(STARTS):
        random = np.random.default_rng([SPLIT, number])
        first = [
            int(text)
            for label in np.unique(pool.labels)
            for text in random.permutation(np.flatnonzero(pool.labels == label))[:start]
        ]
        for way in WAYS:
            labelled, draws = list(first), np.random.default_rng([SPLIT, number, 1])
            for turn in range(ROUNDS + 1):
                accuracy = pool.accuracy(labelled)
                rows.append(
                    {"start": number, "way": way, "labels": len(labelled), "accuracy": f"{accuracy:.4f}"}
                )
                if turn < ROUNDS:
                    labelled += asked(pool, labelled, way, draws)
    return rows


def asked(pool: Pool, labelled: list[int], way: str, random: np.random.Generator) -> list[int]:
    """Return the texts whose labels a way asks for."""
    others = [text for text in range(len(pool.labels)) if text not in set(labelled)]
    if way == "random":
        return [int(text) for text in random.permutation(others)[:BATCH]]
    refits = pool.trained(labelled, others)
    if way == "margin":
        margins = Margins.of(refits.decisions)
        return [
            others[number] for number in np.argsort(margins.along(refits.decisions), kind="stable")[:BATCH]
        ]
    among = pool.kernel[np.ix_(others, range(pool.kernel.shape[1]), others)]
    return [others[number] for number in Posterior.of(refits, among).batch(BATCH)]


def report(out: Path) -> None:
    """Print the accuracies and the leads over chance, paired over the starts, with their standard errors."""
    lines = []
    for path in sorted(out.glob("*.csv")):
        with path.open(encoding="utf8") as file:
            rows = list(csv.DictReader(file))
        for labels in sorted({int(row["labels"]) for row in rows}):
            of = {
                way: np.array(
                    [
                        100 * float(row["accuracy"])
                        for row in rows
                        if row["way"] == way and int(row["labels"]) == labels
                    ]
                )
                for way in WAYS
            }
            leads = [of[way] - of["random"] for way in WAYS[:2]]
            lines.append(
                [rows[0]["task"], str(labels), *(f"{values.mean():.1f}" for values in of.values())]
                + [f"{lead.mean():+.1f} ± {lead.std(ddof=1) / np.sqrt(len(lead)):.1f}" for lead in leads]
            )
    print_table(["task", "labels", *WAYS, "next - random", "margin - random"], lines)


if __name__ == "__main__":
    main()
