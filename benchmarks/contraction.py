"""One layer's part of the Gram matrix, by the inner and by the materialising contraction.

    python benchmarks/contraction.py                      # 32 x 128 texts, 1 to 128 tokens, RoBERTa-base's two layer shapes
    python benchmarks/contraction.py --tiles              # and tiles of 4 to 64 MiB, over one block of RoBERTa-base's layers
    python benchmarks/contraction.py --quick --json f.json

Which is faster, and is it the one that `inner_columns` picks? Factors are random. Both ways go through
`lmntk.kernels.gram.gram` with its choice overruled, so what is timed is what runs. Ways are timed in turn, and the smallest of
the repeats counts, the one least disturbed by whatever else the machine does. Nothing here checks speed: a choice is "wrong" in
the table when the other way took less time, and the last column says how much was lost.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from measuring import describe_machine, machine, print_table, seconds, write_json
from torch import Tensor

from lmntk.kernels import contraction
from lmntk.kernels.contraction import MEMORY_BOUND_FACTOR, inner_columns
from lmntk.kernels.gram import TILE_BYTES, Panel, gram
from lmntk.tangents.factors import OuterFactors, Tangents

MEBIBYTE = 2**20
LAYERS = ((768, 768), (768, 3072))
BLOCK = ((768, 768),) * 4 + ((768, 3072), (3072, 768))  # query, key, value, output; up, down


def panel(count: int, batch_size: int, tokens: int, layers: Sequence[tuple[int, int]], outputs: int) -> Panel:
    """Returns random factors of layers (inputs, outputs) for ``count`` texts."""
    batches = []
    for start in range(0, count, batch_size):
        size = min(batch_size, count - start)
        factors = {
            f"layer{index}": OuterFactors(torch.randn(size, tokens, i), torch.randn(outputs, size, tokens, o))
            for index, (i, o) in enumerate(layers)
        }
        batches.append(Tangents(torch.zeros(size, outputs), dict(factors)))
    return Panel(batches)


def timed_gram(
    rows: Panel, columns: Panel, by_inner: bool, tile_bytes: int = TILE_BYTES
) -> tuple[float, Tensor]:
    """Returns the seconds of one contraction in the given way, and its result."""
    with patch.object(
        contraction, "inner_columns", lambda rows, columns, *sizes, **how: [by_inner] * len(columns)
    ):
        time, found = seconds(lambda: gram(rows, columns, ["sgd"], tile_bytes=tile_bytes))
    return time, found["sgd"]["all"]


def compare_ways(arguments: argparse.Namespace, tokens: int, layer: tuple[int, int]) -> dict[str, Any]:
    """Returns the times of both ways for one layer and text length."""
    rows = panel(arguments.rows, arguments.batch_size, tokens, [layer], arguments.outputs)
    columns = panel(arguments.columns, arguments.batch_size, tokens, [layer], arguments.outputs)
    left, right = (part.batches[0].factors["layer0"] for part in (rows, columns))
    sides = ([(len(panel), part.inputs.shape[1])] for panel, part in ((rows, left), (columns, right)))
    (chosen,) = inner_columns(
        *sides, left.inputs.shape[-1], left.output_gradients.shape[-1], arguments.outputs
    )
    taken: dict[bool, list[float]] = {True: [], False: []}
    results = {}
    for repeat in range(arguments.repeats + 1):
        for by_inner in (True, False):
            time, results[by_inner] = timed_gram(rows, columns, by_inner)
            if repeat:  # the first warms up
                taken[by_inner].append(time)
    inner_ms, materialise_ms = 1e3 * min(taken[True]), 1e3 * min(taken[False])
    best, picked = min(inner_ms, materialise_ms), inner_ms if chosen else materialise_ms
    return {
        "tokens": tokens,
        "inputs": layer[0],
        "outputs": layer[1],
        "inner_ms": inner_ms,
        "materialise_ms": materialise_ms,
        "picked": "inner" if chosen else "materialise",
        "faster": "inner" if inner_ms < materialise_ms else "materialise",
        "right": picked == best,
        "lost": picked / best - 1,
        "relative_difference": float(
            (results[True] - results[False]).abs().max() / results[False].abs().max()
        ),
    }


def compare_tiles(arguments: argparse.Namespace, layers: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    """Returns, for every tile size, the time to materialise and contract one block of layers."""
    rows = panel(arguments.rows, arguments.batch_size, arguments.tile_tokens, layers, arguments.outputs)
    columns = panel(arguments.columns, arguments.batch_size, arguments.tile_tokens, layers, arguments.outputs)
    taken: dict[int, list[float]] = {size: [] for size in arguments.tiles}
    for repeat in range(arguments.repeats + 1):
        for size in arguments.tiles:
            time, _ = timed_gram(rows, columns, by_inner=False, tile_bytes=int(size * MEBIBYTE))
            if repeat:
                taken[size].append(time)
    pairs, texts, weights = len(rows) * len(columns), len(rows) + len(columns), sum(i * o for i, o in layers)
    operations = 2 * weights * arguments.outputs * (texts * arguments.tile_tokens + pairs * arguments.outputs)
    return [
        {
            "tile_mib": size,
            "ms": 1e3 * min(times),
            "gigaflops": operations / min(times) / 1e9,
            "is_default": size * MEBIBYTE == TILE_BYTES,
        }
        for size, times in taken.items()
    ]


def arguments_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=32, help="training texts (32)")
    parser.add_argument("--columns", type=int, default=128, help="evaluation texts (128)")
    parser.add_argument("--outputs", type=int, default=1, help="logits (1)")
    parser.add_argument("--batch-size", type=int, default=32, help="texts in one batch of factors (32)")
    parser.add_argument(
        "--tokens",
        type=int,
        nargs="+",
        default=[1, 8, 16, 32, 64, 128],
        help="text lengths (1 8 16 32 64 128)",
    )
    parser.add_argument(
        "--tiles", type=float, nargs="*", metavar="MIB", help="also tile sizes; without numbers: 4 8 16 32 64"
    )
    parser.add_argument("--tile-tokens", type=int, default=40, help="text length for --tiles (40)")
    parser.add_argument(
        "--repeats", type=int, default=5, help="after one that warms up; the smallest counts (5)"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads (all cores)")
    parser.add_argument("--seed", type=int, default=0, help="of the random factors (0)")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="layers of width 16, 4 x 6 texts: does it run? The times mean nothing",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    return parser


def main() -> int:
    arguments = arguments_parser().parse_args()
    layers, block = LAYERS, BLOCK
    if arguments.quick:
        arguments.rows, arguments.columns, arguments.tokens, arguments.repeats, arguments.batch_size = (
            4,
            6,
            [1, 8],
            1,
            4,
        )
        layers, block = ((16, 16), (16, 64)), ((16, 16), (16, 64), (64, 16))
    if arguments.tiles is not None and not arguments.tiles:
        arguments.tiles = [4.0, 8.0, 16.0, 32.0, 64.0]
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    found = machine()

    print(
        f"sgd, {arguments.rows} x {arguments.columns} texts in batches of {arguments.batch_size}, {arguments.outputs} outputs, one layer"
    )
    print(
        f"{describe_machine(found)}; memory-bound factor {MEMORY_BOUND_FACTOR}, tiles {TILE_BYTES / MEBIBYTE:g} MiB",
        end="\n\n",
    )
    ways = [compare_ways(arguments, tokens, layer) for layer in layers for tokens in arguments.tokens]
    rows = [
        [
            f"{way['inputs']} x {way['outputs']}",
            f"{way['tokens']}",
            f"{way['inner_ms']:.2f}",
            f"{way['materialise_ms']:.2f}",
            way["picked"],
            "right" if way["right"] else "wrong",
            f"{100 * way['lost']:.0f} %",
        ]
        for way in ways
    ]
    print_table(["layer", "tokens", "inner ms", "materialise ms", "picked", "that is", "lost"], rows)
    worst = max(way["relative_difference"] for way in ways)
    print(f"\nthe two ways differ by {worst:.1e} of the largest entry at most")

    tiles = None
    if arguments.tiles is not None:
        tiles = compare_tiles(arguments, block)
        print(f"\nmaterialising one block of {len(block)} layers, {arguments.tile_tokens} tokens")
        print_table(
            ["tile", "ms", "GF/s"],
            [
                [
                    f"{t['tile_mib']:g} MiB{' (default)' if t['is_default'] else ''}",
                    f"{t['ms']:.1f}",
                    f"{t['gigaflops']:.0f}",
                ]
                for t in tiles
            ],
        )
    write_json(
        arguments.json,
        {
            "benchmark": "contraction",
            "machine": found,
            "rows": arguments.rows,
            "columns": arguments.columns,
            "memory_bound_factor": MEMORY_BOUND_FACTOR,
            "tile_bytes": TILE_BYTES,
            "ways": ways,
            "tiles": tiles,
            "relative_difference": worst,
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
