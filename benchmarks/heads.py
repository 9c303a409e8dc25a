"""Head mode's head: fitted to the labels, or drawn from a seed? What each says held out, and what it reaches on the test texts.

    python benchmarks/heads.py --model MODEL --data DATA --tasks sst-2 trec --seeds 13 21 --out heads.csv

The texts are the 2 k of train and dev of a published split. Rows that are in the file already are not computed again.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path

import numpy as np
import torch
from few_shot import FewShot, labels_of
from torch import nn

from lmntk.engine.kernel_work import KernelWork
from lmntk.engine.settings import Settings
from lmntk.engine.stream import stream_kernels
from lmntk.models.build import Probe, logit_model
from lmntk.models.filters import ParameterFilter
from lmntk.models.loading import load_pretrained
from lmntk.solvers.folds import deal_folds
from lmntk.solvers.held_out import RidgeCandidates, choose, held_out
from lmntk.solvers.inputs import flatten
from lmntk.solvers.selection import predict_labels

HEADS = ("fitted", "zero", "seeded 0.02", "seeded 0.1", "seeded 0.5")
FIELDS = ("task", "seed", "head", "texts", "held_out", "test", "test_texts", "setting", "seconds")


def main() -> None:
    """Compute the rows that are missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--tasks", nargs="+", default=["sst-2", "trec"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[13])
    parser.add_argument("--heads", nargs="+", default=HEADS)
    parser.add_argument("--test-limit", type=int, default=300)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    done = set()
    if options.out.exists():
        with options.out.open(encoding="utf8") as file:
            done = {(row["task"], int(row["seed"]), row["head"]) for row in csv.DictReader(file)}
    else:
        options.out.write_text(",".join(FIELDS) + "\n", encoding="utf8")
    pretrained = load_pretrained(options.model)
    for name in options.tasks:
        for seed in options.seeds:
            for head in options.heads:
                if (name, seed, head) not in done:
                    row = measured(pretrained, options, name, seed, head)
                    print(row, flush=True)
                    with options.out.open("a", encoding="utf8") as file:
                        csv.DictWriter(file, FIELDS).writerow(row)


def measured(pretrained, options, name: str, seed: int, kind: str) -> dict[str, object]:
    """Return the row of one head on one split."""
    start = time.time()
    split = FewShot.read(options.data, name, seed, options.test_limit)
    encoder, tests = split.encoder(pretrained, "head"), split.test
    examples = [*split.train, *split.dev]
    labels, truth = labels_of(examples), labels_of(tests)
    texts = {"train": list(map(encoder.encode, examples)), "test": list(map(encoder.encode, tests))}
    classes = len(split.task.labels)
    head = (
        Probe(texts["train"], labels.tolist(), classes)
        if kind == "fitted"
        else drawn(pretrained, kind, classes)
    )
    model = logit_model(pretrained, encoder, classes == 2, head=head)
    work = KernelWork(
        model,
        texts,
        [("train", "train"), ("train", "test")],
        ["sgd"],
        ParameterFilter().select(model),
        pretrained.pad_id,
    )
    kernels = stream_kernels(work, Settings()).kernels
    train = kernels["train", "train"]["sgd"]["all"].numpy()
    test = kernels["train", "test"]["sgd"]["all"].numpy()
    candidates = RidgeCandidates(train, labels)
    rounds = deal_folds(labels, rounds=5)
    estimate = held_out(candidates, labels, rounds).accuracy
    number = choose(candidates, labels, rounds)
    setting = candidates.settings[number]
    alpha = candidates.path.solve(candidates.targets[:, :, 0], setting["regularization"])
    decisions = (flatten(test).T @ alpha.reshape(-1)).reshape(len(tests), -1)
    return {
        "task": name,
        "seed": seed,
        "head": kind,
        "texts": len(labels),
        "held_out": f"{estimate:.4f}",
        "test": f"{np.mean(predict_labels(decisions) == truth):.4f}",
        "test_texts": len(tests),
        "setting": setting["regularization"],
        "seconds": f"{time.time() - start:.0f}",
    }


def drawn(pretrained, kind: str, classes: int) -> nn.Linear:
    """Return a head of zeros, or of normal numbers whose deviation the kind names."""
    width = pretrained.network.config.hidden_size
    head = nn.Linear(width, classes)
    deviation = float(kind.split()[1]) if kind != "zero" else 0.0
    with torch.no_grad():
        head.bias.zero_()
        head.weight.copy_(deviation * torch.randn(classes, width, generator=torch.Generator().manual_seed(0)))
    return head


if __name__ == "__main__":
    main()
