"""lmntk against plain forward and backward of the same texts: no family of models is to cost more than 1.5 times that.

    OMP_NUM_THREADS=2 python benchmarks/models.py               # sixteen families, 32 x 128 texts of 40 tokens, minutes
    python benchmarks/models.py --families bert,llama-lora --json figures.json
    python benchmarks/models.py --cpu-time --threads 1          # where other work runs beside it
    python benchmarks/models.py --quick --families bert,t5      # seconds: tiny networks, 4 x 6 texts

The claim: at N = 32, M = 128 on the CPU the whole `sgd` kernel takes at most 1.5 times what a forward and backward pass of the same
160 texts takes. The networks have random weights, float32, width 256, 4 layers (2 + 2 with a decoder), an MLP of 1024, and a
vocabulary of 8192; the one output is the difference of two label words' logits. Every text has 40 tokens, so nothing pads; an encoder
is read at a random place, a decoder at its last token, a sequence-to-sequence network after one decoder token.

*plain*: 160 texts in batches of 32: collating, `logits.sum().backward()` with every parameter that counts asking for its gradient
(of an adapter: only what it trains), gradients set to None between batches. In eval mode. The logits are the same `PromptModel`'s, so
plain too scores two words at one place and not the vocabulary at all: it is as cheap as it can be.

*lmntk*: the whole `stream_kernels` call for one 32 x 128 kernel at default memory: the coverage check on two texts, capturing (collating,
forward, backward, factors), and the contraction. Model inspection and loading are in neither. Three parts of the call are clocked inside
it: *check*, *capture*, *gram*. The check is a constant that does not grow with the texts; *without check* is the ratio less it.

The two are timed in turn, the first of them changing, after one of each on a batch or two that is not counted; medians of the repeats
count. Wall time; with `--cpu-time` the processor time of this process, which other work on the machine hardly touches (with one thread:
several spin while they wait for one another, and are charged for it). What the rules do not cover (`coverage.describe()`) is said
below the table. A LoRA's B is random, not 0, for at 0 half of the gradients vanish and cost nothing.

Some entries are compared with plain autograd on the network as Hugging Face made it. Exit status 1: they differ by more than 1e-4 in some
family, and the timings are worthless. A ratio above 1.5 is marked and is no failure: the machine may be busy.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from measuring import describe_machine, machine, print_table, write_json
from model_families import FAMILIES, PAD_ID, QUICK, Family, Size
from torch import Tensor

from lmntk.engine import batches as engine_batches
from lmntk.engine import tile_maker
from lmntk.engine.kernel_work import KernelWork
from lmntk.engine.settings import Settings
from lmntk.engine.stream import Streamed, stream_kernels, whole
from lmntk.models.filters import ParameterFilter
from lmntk.models.logit_model import PromptModel
from lmntk.models.state import frozen
from lmntk.prompts.batching import collate
from lmntk.prompts.encoding import EncodedText
from lmntk.tangents.coverage import Coverage

CLAIM = 1.5
TOLERANCE = 1e-4
LABEL_IDS = (5, 9)
CHECKED = 3  # texts of either group whose entries are compared
PARTS = {
    "check": (engine_batches, "check_texts"),
    "capture": (Coverage, "capture"),
    "gram": (tile_maker, "gram"),
}


class Case:
    """One family's network and texts, and the two things that are timed."""

    def __init__(self, family: Family, size: Size) -> None:
        self.size = size
        self.texts = family.texts(size)
        self.model = PromptModel(family.build(size), LABEL_IDS, difference=True)
        self.trainable = ParameterFilter().select(self.model)

    @property
    def parameters(self) -> int:
        """The number of coordinates that count."""
        return sum(parameter.numel() for parameter in self.trainable.values())

    def plain(self, texts: Sequence[EncodedText]) -> None:
        """Runs forward and backward of the texts in batches, as a training step without the step."""
        with frozen(self.model, list(self.trainable.values())):
            for start in range(0, len(texts), self.size.batch_size):
                self.model(collate(texts[start : start + self.size.batch_size], PAD_ID)).sum().backward()
                for parameter in self.trainable.values():
                    parameter.grad = None

    def lmntk(self, texts: Mapping[str, Sequence[EncodedText]]) -> Streamed:
        """Returns the kernel [train, eval] and what comes with it: the whole call, as a user makes it."""
        settings = Settings(self.size.batch_size)
        return stream_kernels(
            KernelWork(self.model, texts, [("train", "eval")], ["sgd"], self.trainable, PAD_ID), settings
        )

    def gradient(self, text: EncodedText) -> list[Tensor]:
        """Returns the output's gradient of one text, from the network as it is: all its tokens, the whole vocabulary."""
        inputs: dict[str, Any] = {"input_ids": torch.tensor([text.ids])}
        if text.decoder_ids is not None:
            inputs["decoder_input_ids"] = torch.tensor([text.decoder_ids])
        parameters = list(self.trainable.values())
        with frozen(self.model, parameters):
            network: Any = self.model.network
            first, second = network(**inputs).logits[0, text.read_position, list(LABEL_IDS)]
            found = torch.autograd.grad(second - first, parameters, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]

    def difference(self, kernel: Tensor) -> float:
        """Returns how far some entries are from plain autograd's, of their root mean square: single ones may be nearly zero."""
        rows, columns = (
            [self.gradient(text) for text in self.texts[group][-CHECKED:]] for group in ("train", "eval")
        )

        def entry(row: list[Tensor], column: list[Tensor]) -> float:
            return sum(float((a.double() * b.double()).sum()) for a, b in zip(row, column, strict=True))

        expected = torch.tensor(
            [[entry(row, column) for column in columns] for row in rows], dtype=torch.float64
        )
        return float((kernel[-CHECKED:, -CHECKED:] - expected).abs().max() / expected.square().mean().sqrt())


Clock = Callable[[], float]


def seconds(clock: Clock, body: Callable[[], Any]) -> tuple[float, Any]:
    """Returns the time of one call, and what it returned."""
    start = clock()
    result = body()
    return clock() - start, result


def in_parts(clock: Clock, body: Callable[[], Streamed]) -> tuple[float, dict[str, float], Streamed]:
    """Returns the time of a ``stream_kernels`` call, that of its parts, and what it returned."""
    spent = dict.fromkeys(PARTS, 0.0)

    def clocked(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            taken, result = seconds(clock, lambda: function(*arguments, **keywords))
            spent[part] += taken
            return result

        return call

    with ExitStack() as stack:
        for part, (module, name) in PARTS.items():
            stack.enter_context(patch.object(module, name, clocked(part, getattr(module, name))))
        taken, streamed = seconds(clock, body)
    return taken, spent, streamed


def measure(name: str, size: Size, repeats: int, clock: Clock) -> dict[str, Any]:
    """Returns one family's times, taken in turn, their ratio, and how wrong its kernel is."""
    case = Case(FAMILIES[name], size)
    every = [*case.texts["train"], *case.texts["eval"]]
    case.plain(every[: size.batch_size])  # imports, thread pools, memory
    case.lmntk({group: texts[: size.batch_size // 2] for group, texts in case.texts.items()})
    plain_seconds, lmntk_seconds = [], []
    parts: dict[str, list[float]] = {part: [] for part in PARTS}
    streamed: Streamed | None = None
    for repeat in range(repeats):
        for is_plain in (True, False) if repeat % 2 == 0 else (False, True):
            if is_plain:
                plain_seconds.append(seconds(clock, lambda: case.plain(every))[0])
            else:
                taken, spent, streamed = in_parts(clock, lambda: case.lmntk(case.texts))
                lmntk_seconds.append(taken)
                for part in PARTS:
                    parts[part].append(spent[part])
    assert streamed is not None
    kernel = whole(streamed.kernels["train", "eval"]["sgd"])[:, 0, :, 0]
    plain, lmntk = statistics.median(plain_seconds), statistics.median(lmntk_seconds)
    check = statistics.median(parts["check"])
    return {
        "parameters": case.parameters,
        "plain": {"seconds": plain, "all_seconds": plain_seconds},
        "lmntk": {
            "seconds": lmntk,
            "all_seconds": lmntk_seconds,
            "parts": {p: statistics.median(times) for p, times in parts.items()},
        },
        "ratio": lmntk / plain,
        "ratio_without_check": (lmntk - check) / plain,
        "above": lmntk / plain > CLAIM,
        "batched": streamed.coverage.batched,
        "fallback": list(streamed.coverage.fallback),
        "coverage": streamed.coverage.describe(),
        "relative_difference": case.difference(kernel),
    }


def arguments_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--families", default=",".join(FAMILIES), metavar="A,B", help=f"of {', '.join(FAMILIES)} (all)"
    )
    parser.add_argument(
        "--width",
        type=int,
        help="of the hidden states, heads of 32, an MLP four times as wide (256; quick: 32)",
    )
    parser.add_argument("--repeats", type=int, default=3, help="of both; the medians count (3)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of both (all cores)")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="processor time, not wall time: where other work runs beside it",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=TOLERANCE,
        help=f"the largest relative difference allowed ({TOLERANCE:.0e})",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="2 layers of width 32, 4 x 6 texts: does it run? The times mean nothing",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    return parser


def print_report(found: Mapping[str, Mapping[str, Any]], repeats: int) -> None:
    """Prints the table, what is above the claim, and what no rule covers."""
    rows = []
    for name, figures in found.items():
        parts = figures["lmntk"]["parts"]
        rows.append(
            [
                name,
                f"{figures['parameters'] / 1e6:.2f}",
                f"{figures['plain']['seconds']:.3f}",
                f"{figures['lmntk']['seconds']:.3f}",
                f"{figures['ratio']:.2f}{' !' if figures['above'] else '  '}",
                f"{figures['ratio_without_check']:.2f}",
                *(f"{parts[part]:.3f}" for part in PARTS),
                f"{figures['relative_difference']:.0e}",
            ]
        )
    header = [
        "",
        "parameters M",
        "plain s",
        "lmntk s",
        "ratio  ",
        "without check",
        *(f"{part} s" for part in PARTS),
        "difference",
    ]
    print_table(header, rows)
    above = [name for name, figures in found.items() if figures["above"]]
    print(
        f"\n!: above {CLAIM:g} times plain forward and backward: {', '.join(above) or 'none'}; medians of {repeats}, taken in turn"
    )
    print("difference: the largest of nine entries from plain autograd's, of their root mean square")
    for name, figures in found.items():
        if figures["fallback"] or not figures["batched"]:
            print(f"{name}: {figures['coverage']}")


def main() -> int:
    parser = arguments_parser()
    arguments = parser.parse_args()
    names = [name for name in arguments.families.split(",") if name]
    unknown = [name for name in names if name not in FAMILIES]
    if unknown or not names:
        parser.error(
            f"--families: no family {', '.join(unknown) or 'given'}; there are {', '.join(FAMILIES)}"
        )
    if arguments.repeats < 1:
        parser.error("--repeats: at least 1")
    size = QUICK if arguments.quick else Size()
    if arguments.width is not None:
        if arguments.width < 64 or arguments.width % 64:
            parser.error("--width: a multiple of 64")
        size = replace(size, hidden=arguments.width, heads=arguments.width // 32, mlp=4 * arguments.width)
    torch.set_num_threads(arguments.threads)
    about = machine()
    found = {}
    for name in names:
        found[name] = measure(
            name, size, arguments.repeats, time.process_time if arguments.cpu_time else time.perf_counter
        )
        print(f"{name}: {found[name]['ratio']:.2f}", file=sys.stderr)
    worst = max(figures["relative_difference"] for figures in found.values())

    print(
        f"sgd kernel of {size.train} x {size.evaluation} texts of {size.tokens} tokens, one output, ", end=""
    )
    print(
        "tiny networks: the times mean nothing"
        if arguments.quick
        else f"width {size.hidden}, {size.layers} layers, random weights"
    )
    print(f"{describe_machine(about)}; {'processor' if arguments.cpu_time else 'wall'} time", end="\n\n")
    print_report(found, arguments.repeats)
    write_json(
        arguments.json,
        {
            "benchmark": "models",
            "machine": about,
            "problem": asdict(size)
            | {"quick": arguments.quick, "repeats": arguments.repeats, "cpu_time": arguments.cpu_time},
            "claim": CLAIM,
            "families": found,
            "above": [name for name, figures in found.items() if figures["above"]],
            "relative_difference": worst,
            "tolerance": arguments.tolerance,
        },
    )
    wrong = [
        name for name, figures in found.items() if not figures["relative_difference"] <= arguments.tolerance
    ]
    if wrong:
        limit = f"{arguments.tolerance:.0e}; the timings mean nothing"
        print(
            f"FAILED: {', '.join(wrong)} differ from plain autograd by up to {worst:.1e}, more than {limit}",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
