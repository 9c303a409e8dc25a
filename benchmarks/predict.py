"""Prediction in one pass: texts a second beside plain forward passes, and the memory of a long stream.

    OMP_NUM_THREADS=2 python benchmarks/predict.py                     # 20,000 texts through a small network, minutes
    python benchmarks/predict.py --quick                               # tiny: does it run?

A RoBERTa with random weights (six layers, width 384) and a random direction v for every parameter. *plain*: forward passes of texts in
batches of 32, sorted by length. *lmntk*: `Predictor.evaluate` of the same texts. In turn, medians. Then the stream: `--texts` texts in
windows as `lmntk predict` has them; the process's memory after the first tenth, and at its highest after that.
The claims: at most 3.5 times as long as plain forward passes; memory that does not grow.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import replace
from pathlib import Path

import torch
from measuring import describe_machine, machine, print_table, seconds, write_json
from scaling import QUICK, Problem, network, texts_of

from lmntk.models.filters import ParameterFilter
from lmntk.models.state import frozen
from lmntk.prediction.limits import PassLimits
from lmntk.prediction.predictor import Predictor
from lmntk.prediction.stream import WINDOW
from lmntk.prompts.batching import collate, length_sorted_batches
from lmntk.system.memory import resident

BATCH = 32


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=int, default=20_000, help="of the stream (20,000)")
    parser.add_argument("--repeats", type=int, default=5, help="of the comparison; the medians count (5)")
    parser.add_argument("--outputs", type=int, default=1, help="logits (1: a difference)")
    parser.add_argument("--quick", action="store_true", help="a tiny network and 600 texts")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    arguments = parser.parse_args()
    problem = Problem(384, 6, 30522, 512, 4096, outputs=arguments.outputs)
    if arguments.quick:
        problem, arguments.texts = replace(problem, **QUICK), 600
    model, texts = network(problem), texts_of(problem)
    torch.manual_seed(1)
    direction = {name: 1e-3 * torch.randn_like(p) for name, p in ParameterFilter().select(model).items()}
    predictor = Predictor(model, [direction], 1, limits=PassLimits(BATCH))
    few = texts["train"]

    def plain() -> None:
        with frozen(model), torch.no_grad():
            for chosen in length_sorted_batches([text.length for text in few], BATCH):
                model(collate([few[i] for i in chosen], 1))

    plain()
    predictor.evaluate(few[:BATCH])
    times: dict[str, list[float]] = {"plain": [], "lmntk": []}
    for _ in range(arguments.repeats):
        times["plain"].append(seconds(plain)[0])
        times["lmntk"].append(seconds(lambda: predictor.evaluate(few))[0])
    medians = {name: statistics.median(part) for name, part in times.items()}
    about = machine()
    print(describe_machine(about), end="\n\n")
    rows = [
        [name, f"{len(few) / taken:.1f}", f"{taken / medians['plain']:.2f}"]
        for name, taken in medians.items()
    ]
    print_table(["", "texts a second", "times plain's time"], rows)

    window, held, done = WINDOW * BATCH, [], 0
    while done < arguments.texts:
        part = [
            texts["eval"][(done + i) % len(texts["eval"])] for i in range(min(window, arguments.texts - done))
        ]
        predictor.evaluate(part)
        done += len(part)
        held.append(resident())
        print(f"{done} texts, {held[-1] / 2**20:.0f} MiB", file=sys.stderr)
    print(
        f"\n{done:,} texts in one stream: {held[0] / 2**20:.0f} MiB after the first window, {max(held) / 2**20:.0f} MiB at most"
    )
    write_json(
        arguments.json,
        {"benchmark": "predict", "machine": about, "times": times, "medians": medians, "resident": held},
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
