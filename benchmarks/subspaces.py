"""LoRA's kernels of every rank and five seeds, beside one more kernel of all of the adapted weights.

    python benchmarks/subspaces.py                      # blocks of RoBERTa-base and of a 384 wide encoder, 32 x 256 texts of 27 tokens
    python benchmarks/subspaces.py --quick --json f.json

Factors are random. Both go through `lmntk.kernels.gram.gram`, in turn; what is timed is the contraction alone, without the passes
that both need once. Medians of the repeats, in
processor time, which other work on the machine hardly touches, and their ratio to the plain kernel of the same formula, and to `sgd`'s.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from contraction import panel
from measuring import describe_machine, machine, print_table, seconds, write_json

from lmntk.kernels.gram import Panel, gram
from lmntk.kernels.subspaces import Candidate, Subspaces

RANKS = (1, 2, 4, 8, 16, 64)
WIDTHS = {"RoBERTa-base": (768, 3072), "384 wide": (384, 1536)}
FORMULAS = ("sgd", "signgd", "asigngd")


def block(width: int, inner: int) -> list[tuple[int, int]]:
    """Returns one layer's linear maps: query, key, value, output; up, down."""
    return [(width, width)] * 4 + [(width, inner), (inner, width)]


def low_rank(rows: Panel, columns: Panel, formula: str, subspaces: Subspaces) -> Any:
    """Returns LoRA's kernels alone."""
    return subspaces.split(gram(rows, columns, [formula], lambda _: None, subspaces=subspaces))


def compare(arguments: argparse.Namespace, name: str, formula: str) -> dict[str, Any]:
    """Returns the median times of the plain kernel and of all ranks and seeds."""
    layers = block(*WIDTHS[name])
    rows = panel(arguments.rows, arguments.batch_size, arguments.tokens, layers, 1)
    columns = panel(arguments.columns, arguments.batch_size, arguments.tokens, layers, 1)
    names = tuple(rows.batches[0].factors)
    candidates = [Candidate(f"{r} {s}", names, r, s) for r in RANKS for s in range(arguments.seeds)]
    subspaces = Subspaces(tuple(candidates))
    taken: dict[str, list[float]] = {"sgd": [], "plain": [], "low rank": []}
    for repeat in range(arguments.repeats + 1):
        times = {
            way: seconds(body, time.process_time)[0]
            for way, body in (
                ("sgd", lambda: gram(rows, columns, ["sgd"])),
                ("plain", lambda: gram(rows, columns, [formula])),
                ("low rank", lambda: low_rank(rows, columns, formula, subspaces)),
            )
        }
        if repeat:  # the first warms up
            for way, taken_now in times.items():
                taken[way].append(taken_now)
    medians = {way: statistics.median(times) for way, times in taken.items()}
    return {
        "layers": name,
        "formula": formula,
        "ranks": list(RANKS),
        "seeds": arguments.seeds,
        "seconds": medians,
        "ratio": medians["low rank"] / medians["plain"],
        "ratio_to_sgd": medians["low rank"] / medians["sgd"],
    }


def main() -> None:
    """Times, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--columns", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=27)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--quick", action="store_true", help="few texts, once")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rows, arguments.columns, arguments.repeats = 4, 16, 1
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    found = machine()
    print(describe_machine(found))
    names = list(WIDTHS)[1:] if arguments.quick else list(WIDTHS)
    ways = [compare(arguments, name, formula) for name in names for formula in FORMULAS]
    print_table(
        ("one block's maps", "formula", "plain ms", "30 of LoRA ms", "ratio", "to sgd"),
        [
            (
                way["layers"],
                way["formula"],
                f"{1e3 * way['seconds']['plain']:.0f}",
                f"{1e3 * way['seconds']['low rank']:.0f}",
                f"{way['ratio']:.2f}",
                f"{way['ratio_to_sgd']:.2f}",
            )
            for way in ways
        ],
    )
    write_json(arguments.json, {"machine": found, "ways": ways})


if __name__ == "__main__":
    main()
