"""LoRA's kernels of every rank and five seeds, beside one more kernel of all of the adapted weights.

    python benchmarks/subspace_kernels.py                      # one layer of RoBERTa-base and of a 384 wide encoder, 32 x 256 texts
    python benchmarks/subspace_kernels.py --quick --json f.json

Factors are random. Both go through `lmntk.kernels.gram.gram`, in turn. Medians of the repeats in processor time, which other work on the
machine hardly touches, and two ratios: of contraction alone, and to a `sgd` kernel from texts, whose passes through the layer
(2 operations a weight and token forward, 4 backward, as three matrix products) are timed too. LoRA's kernels need no passes of their own.
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
from lmntk.tangents.factors import OuterFactors

RANKS = (1, 2, 4, 8, 16, 64)
WIDTHS = {"RoBERTa-base": (768, 3072), "384 wide": (384, 1536)}
FORMULAS = ("sgd", "signgd", "asigngd")


def block(width: int, inner: int) -> list[tuple[int, int]]:
    """Returns one layer's linear maps: query, key, value, output; up, down."""
    return [(width, width)] * 4 + [(width, inner), (inner, width)]


def low_rank(rows: Panel, columns: Panel, formula: str, subspaces: Subspaces) -> Any:
    """Returns LoRA's kernels alone."""
    return subspaces.split(gram(rows, columns, [formula], lambda _: None, subspaces=subspaces))


def passes(*panels: Panel) -> None:
    """Multiplies as a forward and a backward pass do: the outputs, and the gradients of the inputs and of the weights."""
    for batch in (batch for part in panels for batch in part.batches):
        for factors in batch.factors.values():
            assert isinstance(factors, OuterFactors)
            inputs, gradients = factors.inputs.flatten(0, 1), factors.output_gradients[0].flatten(0, 1)
            weight = torch.empty(gradients.shape[1], inputs.shape[1])
            inputs @ weight.T, gradients @ weight, gradients.T @ inputs


def compare(arguments: argparse.Namespace, name: str, formula: str, tokens: int) -> dict[str, Any]:
    """Returns the median times of the plain kernel and of all ranks and seeds."""
    layers = block(*WIDTHS[name])
    rows = panel(arguments.rows, arguments.batch_size, tokens, layers, 1)
    columns = panel(arguments.columns, arguments.batch_size, tokens, layers, 1)
    names = tuple(rows.batches[0].factors)
    candidates = [Candidate(f"{r} {s}", names, r, s) for r in RANKS for s in range(arguments.seeds)]
    subspaces = Subspaces(tuple(candidates))
    taken: dict[str, list[float]] = {"sgd": [], "plain": [], "low rank": [], "passes": []}
    for repeat in range(arguments.repeats + 1):
        times = {
            way: seconds(body, time.process_time)[0]
            for way, body in (
                ("sgd", lambda: gram(rows, columns, ["sgd"])),
                ("plain", lambda: gram(rows, columns, [formula])),
                ("passes", lambda: passes(rows, columns)),
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
        "tokens": tokens,
        "seconds": medians,
        "ratio": medians["low rank"] / medians["plain"],
        "ratio_to_sgd": medians["low rank"] / medians["sgd"],
        "ratio_to_sgd_from_texts": medians["low rank"] / (medians["sgd"] + medians["passes"]),
    }


def main() -> None:
    """Times, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--columns", type=int, default=256)
    parser.add_argument("--tokens", type=int, nargs="+", default=[27, 64, 128])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--formulas", nargs="+", default=["sgd"], choices=FORMULAS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--quick", action="store_true", help="few texts, once")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rows, arguments.columns, arguments.repeats, arguments.tokens = 4, 16, 1, [8]
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    found = machine()
    print(describe_machine(found))
    names = list(WIDTHS)[1:] if arguments.quick else list(WIDTHS)
    ways = [
        compare(arguments, name, formula, tokens)
        for name in names
        for formula in arguments.formulas
        for tokens in arguments.tokens
    ]
    print_table(
        (
            "one layer",
            "tokens",
            "formula",
            "plain ms",
            "30 of LoRA ms",
            "ratio",
            "to sgd",
            "to sgd from texts",
        ),
        [
            (
                way["layers"],
                str(way["tokens"]),
                way["formula"],
                f"{1e3 * way['seconds']['plain']:.0f}",
                f"{1e3 * way['seconds']['low rank']:.0f}",
                f"{way['ratio']:.2f}",
                f"{way['ratio_to_sgd']:.2f}",
                f"{way['ratio_to_sgd_from_texts']:.2f}",
            )
            for way in ways
        ],
    )
    write_json(arguments.json, {"machine": found, "ways": ways})


if __name__ == "__main__":
    main()
