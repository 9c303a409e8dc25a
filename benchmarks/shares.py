"""Whether `predict` sees that test texts have other shares of classes, and `fit` says from which share on a rival is better.

On MRPC the test texts have other shares than the labelled ones, on SST-2 they have not.

    python benchmarks/shares.py --model MODEL --data DATA --kernels build/fit-bench/kernels

The splits and the classifier are those of ``fit.py``, of which the kernels are kept. Prints p of each split, whose level was fixed before,
and the share from which on a rival is better.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from few_shot import FewShot

from lmntk.engine.settings import Settings
from lmntk.estimator.choice import choose_way
from lmntk.estimator.predictors import predictor_of
from lmntk.estimator.texts import LabelledTexts
from lmntk.estimator.ways import measure, way_of
from lmntk.models.build import text_features
from lmntk.models.loading import load_pretrained
from lmntk.prediction.shares import compare_shares
from lmntk.solvers.selection import predict_labels

TASKS, SEEDS = ("mrpc", "sst-2"), (13, 21, 42, 87, 100)


def main() -> None:
    """Print a line for each split."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--kernels", type=Path, required=True)
    parser.add_argument("--test-limit", type=int, default=300)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    options = parser.parse_args()
    pretrained = load_pretrained(options.model)
    for task in options.tasks:
        for seed in SEEDS:
            print(task, seed, shares_of(pretrained, options, task, seed), flush=True)


def shares_of(pretrained: Any, options: Any, name: str, seed: int) -> str:
    """Return the shares of a split: true and predicted of the test texts, decided of the labelled ones, p, and what ``fit`` says."""
    split = FewShot.read(options.data, name, seed, options.test_limit)
    labels, settings = split.task.labels, Settings()
    texts = LabelledTexts((*split.train, *split.dev), labels)
    encoders = {mode: split.encoder(pretrained, mode) for mode in ("prompt", "head")}
    ways = [way_of(pretrained, mode, encoder, labels) for mode, encoder in encoders.items()]
    encoded = [encoders["head"].encode(example) for example in texts.examples]
    features = text_features(pretrained, encoded).double().cpu().numpy()
    measured = [measure(way, texts.examples, settings, options.kernels) for way in ways]
    choice = choose_way(measured, texts, features)
    way = choice.measured.way
    decisions, _ = predictor_of(choice, settings).evaluate(way.encoded(split.test))
    assert choice.held_out is not None
    rounds = choice.held_out.decided
    decided = predict_labels(rounds[0])
    counts = [
        np.bincount(each, minlength=len(labels)).tolist()
        for each in (predict_labels(decisions), texts.numbers, decided)
    ]
    compared = compare_shares([str(label) for label in labels], *counts)
    truth = np.mean([example.label == 1 for example in split.test])
    predicted, held_out = (100 * each[1] / sum(each) for each in (counts[0], counts[2]))
    shares = f"true {100 * truth:.0f} %, predicted {predicted:.0f}, decided held out {held_out:.0f}"
    assert choice.standing is not None
    return f"{shares}, p = {compared['p']:.2g}, said: {compared['differ']}; {choice.standing.condition}"


if __name__ == "__main__":
    main()
