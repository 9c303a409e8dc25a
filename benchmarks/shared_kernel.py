"""One kernel for many classes: what the shared one, its random version and the plain sum of logits lose beside the full one.

    python benchmarks/shared_kernel.py --model MODEL --data DATA --out shared.csv
    python benchmarks/shared_kernel.py --out shared.csv --report

The full kernel of a split is computed once; the others are made of it, exactly as they are by passes of their own.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path
from typing import Any

import numpy as np
from few_shot import FewShot, labels_of

from lmntk.engine.kernel_work import KernelWork
from lmntk.engine.settings import Settings
from lmntk.engine.stream import stream_kernels
from lmntk.models.build import logit_model
from lmntk.models.filters import ParameterFilter
from lmntk.models.loading import load_pretrained
from lmntk.solvers.folds import deal_folds
from lmntk.solvers.held_out import RidgeCandidates, choose
from lmntk.solvers.ridge_path import RidgePath
from lmntk.solvers.shared import contrasts, shared_kernel, sign_combinations

TASKS = ("trec", "ag_news", "sst-5")
RIDGES = (0.001, 0.01, 0.1, 1.0)
FIELDS = (
    "task",
    "seed",
    "kernel",
    "passes",
    "products",
    "distance",
    "ridge",
    "test",
    "test_texts",
    "seconds",
)


def main() -> None:
    """Compute the rows that are missing, or print the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model")
    parser.add_argument("--data")
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[13, 21, 42])
    parser.add_argument("--test-limit", type=int, default=200)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    rows = list(csv.DictReader(options.out.open(encoding="utf8"))) if options.out.exists() else []
    if options.report:
        report(rows)
        return
    if not rows:
        options.out.write_text(",".join(FIELDS) + "\n", encoding="utf8")
    done = {(row["task"], int(row["seed"])) for row in rows}
    pretrained = load_pretrained(options.model)
    for seed in options.seeds:
        for task in options.tasks:
            if (task, seed) not in done:
                made = measured(pretrained, options, task, seed)
                with options.out.open("a", encoding="utf8") as file:
                    csv.DictWriter(file, FIELDS).writerows(made)
                print(*made, sep="\n", flush=True)


def measured(pretrained: Any, options: Any, name: str, seed: int) -> list[dict[str, Any]]:
    """Return the rows of one split."""
    start = time.time()
    split = FewShot.read(options.data, name, seed, options.test_limit)
    examples, tests, encoder = split.train, split.test, split.encoder(pretrained, "prompt")
    labels, truth = labels_of(examples), labels_of(tests)
    texts = {"train": list(map(encoder.encode, examples)), "test": list(map(encoder.encode, tests))}
    model, pairs = logit_model(pretrained, encoder, False), [("train", "train"), ("train", "test")]
    work = KernelWork(model, texts, pairs, ["sgd"], ParameterFilter().select(model), pretrained.pad_id)
    kernels = stream_kernels(work, Settings()).kernels
    train, test = (kernels[pair]["sgd"]["all"].numpy() for pair in pairs)
    seconds, c = time.time() - start, train.shape[1]
    rounds, rows = deal_folds(labels, rounds=3), []
    for title, basis in (("full", np.eye(c)), ("contrasts", contrasts(c))):
        k = basis.shape[1]
        of_basis, of_tests = (
            np.einsum("ncmd,ck,dj->nkmj", kernel, basis, basis, optimize=True) for kernel in (train, test)
        )
        candidates = RidgeCandidates(of_basis, labels, regularizations=RIDGES, basis=basis)
        setting = candidates.settings[choose(candidates, labels, rounds)]
        decisions = np.einsum("nkmj,nk->mj", of_tests, candidates.solution(setting)) @ basis.T
        right = np.mean(decisions.argmax(1) == truth)
        rows.append(row(title, k, k * k, 0.0, setting["regularization"], right))
    versions = {
        f"signs, S = {count}": (sign_combinations(c, count, seed), count) for count in (1, 2, 4, 8)
    } | {"plain sum of logits": (np.ones((c, 1)), 1)}
    made = {"shared": (shared_kernel(train), shared_kernel(test), c - 1)}
    for title, (weights, count) in versions.items():
        made[title] = (
            np.einsum("ncmd,ck,dk->nm", train, weights, weights),
            np.einsum("ncmd,ck,dk->nm", test, weights, weights),
            count,
        )
    for title, (single, single_test, passes) in made.items():
        ridge, accuracy = solved(single, single_test, labels, truth, c, rounds)
        rows.append(row(title, passes, passes, distance(single, train), ridge, accuracy))
    shared = {"task": name, "seed": seed, "test_texts": len(tests), "seconds": f"{seconds:.0f}"}
    return [each | shared for each in rows]


def row(kernel: str, passes: int, products: int, far: float, ridge: float, accuracy: float) -> dict[str, Any]:
    """Return a row; passes are backward ones a text, products those of a pair of texts."""
    return {
        "kernel": kernel,
        "passes": passes,
        "products": products,
        "distance": f"{far:.4f}",
        "ridge": ridge,
        "test": f"{accuracy:.4f}",
    }


def solved(
    train: np.ndarray, test: np.ndarray, labels: np.ndarray, truth: np.ndarray, classes: int, rounds: Any
) -> tuple[float, float]:
    """Return the ridge that held-out texts choose for a kernel [N, N], and the test accuracy with it."""
    path, targets = RidgePath(train), np.eye(classes)[labels][:, None]
    right = np.zeros(len(RIDGES))
    for folds in rounds:
        for fold in folds:
            for number, ridge in enumerate(RIDGES):
                values = path.leave_out(targets, ridge, fold[None])[0, :, 0]
                right[number] += np.sum(values.argmax(1) == labels[fold])
    best = max(range(len(RIDGES)), key=lambda number: (right[number], RIDGES[number]))
    alpha = path.solve(targets, RIDGES[best])[:, 0]
    return RIDGES[best], float(np.mean((test.T @ alpha).argmax(1) == truth))


def distance(single: np.ndarray, full: np.ndarray) -> float:
    """Return the relative distance of single x (centring) to the centred full kernel, after the best scale."""
    c = full.shape[1]
    centring = np.eye(c) - 1 / c
    centred = np.einsum("ncmd,ce,df->nemf", full, centring, centring)
    like = np.einsum("nm,ef->nemf", single, centring)
    scale = np.sum(like * centred) / np.sum(like * like)
    return float(np.linalg.norm(scale * like - centred) / np.linalg.norm(centred))


def report(rows: list[dict[str, str]]) -> None:
    """Print means over the splits."""
    tasks = list(dict.fromkeys(each["task"] for each in rows))
    print("| kernel | " + " | ".join(f"{task}: test, distance" for task in tasks) + " |")
    print("|---|" + "---|" * len(tasks))
    for kernel in dict.fromkeys(each["kernel"] for each in rows):
        cells = []
        for task in tasks:
            some = [each for each in rows if each["task"] == task and each["kernel"] == kernel]
            tests, far = ([float(each[name]) for each in some] for name in ("test", "distance"))
            cells.append(f"{100 * np.mean(tests):.1f} ({100 * np.std(tests):.1f}), {np.mean(far):.2f}")
        print(f"| {kernel} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
