"""A calculation, nothing measured: the `sgd` kernel of 100,000 texts and a 7-billion-parameter decoder on 64 GPUs.

    python benchmarks/scale.py                         # the table of docs/scale.md
    python benchmarks/scale.py --texts 10000 --gpus 8 --tokens 256

The network: 32 layers, width 4096, gated MLP of 11008 (Llama 2 7B's shape), one logit. A GPU: 80 GB, 50 T operations a second in TF32 that
are really reached (a third of an A100's 156), 25 GB/s to its neighbours, 5 GB/s to its own disk. Both are assumptions, and options.
"""

from __future__ import annotations

import argparse

from measuring import print_table


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, value, words in (
        ("texts", 100_000, "N, all against all"),
        ("tokens", 128, "T"),
        ("layers", 32, "of the network"),
        ("width", 4096, "of its hidden states"),
        ("mlp", 11008, "of its gated MLP"),
        ("gpus", 64, "how many"),
        ("sketch", 2**14, "numbers a text that a random projection keeps"),
    ):
        parser.add_argument(f"--{name}", type=int, default=value, help=f"{words} ({value:,})")
    for name, number, words in (
        ("rate", 50e12, "operations a second a GPU"),
        ("network", 25e9, "bytes a second"),
        ("disk", 5e9, "bytes a second"),
    ):
        parser.add_argument(f"--{name}", type=float, default=number, help=f"{words} ({number:.0e})")
    a = parser.parse_args()
    weights = a.layers * (4 * a.width**2 + 3 * a.width * a.mlp)
    # inputs that several matrices share (query, key, value; gate, up) are kept once
    numbers = a.layers * a.tokens * ((1 + 3 + 2) * a.width + (a.width + 2 * a.mlp) + (a.mlp + a.width))
    pairs = a.texts * (a.texts + 1) / 2
    capture = 4.0 * weights * a.tokens * a.texts
    block = 4096
    making = 2.0 * weights * a.tokens * a.texts * max(1.0, a.texts / (2 * block))
    products = 2.0 * weights * pairs
    factors = 4.0 * numbers * a.texts
    rate = a.rate * a.gpus

    def hours(operations: float) -> str:
        return f"{operations / rate / 3600:.2f} h"

    rows = [
        ["weights in linear maps", f"{weights / 1e9:.2f} G", ""],
        ["forward and backward passes", f"{capture:.1e} operations", hours(capture)],
        [f"gradients made, in blocks of {block} texts", f"{making:.1e} operations", hours(making)],
        [f"products of {pairs:.1e} pairs", f"{products:.1e} operations", hours(products)],
        ["factors of a text", f"{4 * numbers / 1e9:.2f} GB", ""],
        ["factors of all", f"{factors / 1e12:.0f} TB", f"{factors / a.gpus / 1e12:.1f} TB a GPU"],
        [
            "each text's factors sent to the GPUs that own their parameters",
            f"{factors / 1e12:.0f} TB",
            f"{factors / a.gpus / a.network / 3600:.2f} h",
        ],
        [
            "or: parameters stay with texts, blocks travel",
            f"{factors * a.texts / (2 * block) / 1e15:.1f} PB",
            f"{factors * a.texts / (2 * block) / a.gpus / a.network / 3600:.1f} h",
        ],
        [
            "factors written to and read from the GPUs' disks",
            f"{2 * factors / 1e12:.0f} TB",
            f"{2 * factors / a.gpus / a.disk / 3600:.2f} h",
        ],
        [
            "the kernel, float64",
            f"{8 * a.texts**2 / 1e9:.0f} GB",
            f"{8 * a.texts**2 / 1e9:.0f} GB a GPU before the sum",
        ],
        [
            "one eigendecomposition, 9 N^3",
            f"{9.0 * a.texts**3:.1e} operations",
            f"{9.0 * a.texts**3 / 10e12 / 3600:.2f} h of one GPU at 10 T/s",
        ],
        [
            f"a sketch of {a.sketch:,} numbers a text: all",
            f"{4.0 * a.sketch * a.texts / 1e9:.1f} GB",
            f"{factors / (4.0 * a.sketch * a.texts):,.0f} times less",
        ],
        [
            "its products",
            f"{2.0 * a.sketch * pairs:.1e} operations",
            f"{products / (2.0 * a.sketch * pairs):,.0f} times fewer",
        ],
        ["its error of an entry, of |g||g'|", f"{a.sketch**-0.5:.4f}", ""],
    ]
    print_table([f"{a.texts:,} x {a.texts:,} texts of {a.tokens} tokens, {a.gpus} GPUs", "", ""], rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
