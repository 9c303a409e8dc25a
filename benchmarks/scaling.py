"""How far from the machine's floor, and how cost grows: the kernels of RoBERTa-base's shape, and five curves with their exponents.

    OMP_NUM_THREADS=2 python benchmarks/scaling.py --floor           # 32 x 1000 and 128 x 1000 texts, a quarter of an hour on two cores
    OMP_NUM_THREADS=2 python benchmarks/scaling.py --curves          # cost against N, M, T, C and P, minutes
    OMP_NUM_THREADS=2 python benchmarks/scaling.py --ways            # beside plain autograd and torch.func, a minute
    python benchmarks/scaling.py --floor --curves --ways --quick     # tiny networks: does it run? The times mean nothing
    OMP_NUM_THREADS=1 python benchmarks/scaling.py --curves --cpu-time      # where other work runs beside it: processor time, one thread

*floor*: what no exact way goes below at this matrix product's speed, for N and M texts of T tokens, P weights in linear maps and one
logit: 4 P T (N + M) operations forward and backward, 2 P T (N + M) to make the gradients, 2 P N M for the products, over the rate
that a plain product of two 2048 x 2048 float32 matrices reaches on this machine. Where the inner contraction is used, fewer operations
are done than that, so more than 100 % is possible.

*curves*: the time of `stream_kernels` on a small network, one size at a time doubled, the slope of a line through the logarithms of its
larger half beside the slope that the operations (`kernels/cost.py`, forward and backward passes counted) have there.

*ways*: the same kernel by a loop over texts of plain autograd, gradients flattened and multiplied, and by `torch.func.jacrev` text by text.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measuring import Clock, describe_machine, machine, peak_bytes, print_table, seconds, write_json
from torch import Tensor
from torch.func import functional_call, jacrev
from transformers import RobertaConfig, RobertaForMaskedLM

from lmntk.engine.kernel_work import KernelWork
from lmntk.engine.plan import plan_kernels
from lmntk.engine.settings import Settings
from lmntk.engine.stream import stream_kernels, whole
from lmntk.models.filters import ParameterFilter
from lmntk.models.logit_model import PromptModel
from lmntk.models.state import frozen
from lmntk.prompts.batching import collate
from lmntk.prompts.encoding import EncodedText
from lmntk.system.memory import parse_bytes

# tokens of SST-2's prompted test texts: its tenths
LENGTHS = (8, 11, 14, 17, 20, 23, 26, 30, 35, 45, 60)


@dataclass(frozen=True)
class Problem:
    """The sizes of a network and its texts; ``tokens`` 0: as long as SST-2's."""

    hidden: int
    layers: int
    vocabulary: int
    train: int
    evaluation: int
    tokens: int = 0
    outputs: int = 1
    formulas: tuple[str, ...] = ("sgd",)
    memory: str = "12GiB"


BASE = Problem(768, 12, 50265, 32, 1000)
SMALL = Problem(256, 4, 8192, 64, 64, 32)
FLOORS = {
    "32 x 1000, sgd": BASE,
    "32 x 1000, all three": replace(BASE, formulas=("sgd", "signgd", "asigngd")),
    "128 x 1000, sgd": replace(BASE, train=128),
    "32 x 250, sgd": replace(BASE, evaluation=250),
    "32 x 250, all three": replace(BASE, evaluation=250, formulas=("sgd", "signgd", "asigngd")),
}
CURVES: dict[str, tuple[str, tuple[int, ...]]] = {
    "N": ("train", (32, 64, 128, 256, 512)),
    "M": ("evaluation", (64, 128, 256, 512, 1024)),
    "T": ("tokens", (8, 16, 32, 64, 128)),
    "C": ("outputs", (1, 2, 4, 8)),
    "P": ("hidden", (128, 256, 512, 1024)),
}
QUICK = {"hidden": 32, "layers": 2, "vocabulary": 64, "train": 4, "evaluation": 8}


def network(problem: Problem) -> PromptModel:
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=problem.vocabulary,
        hidden_size=problem.hidden,
        num_hidden_layers=problem.layers,
        num_attention_heads=max(2, problem.hidden // 64),
        intermediate_size=4 * problem.hidden,
        max_position_embeddings=132,
        pad_token_id=1,
        type_vocab_size=1,
    )
    count = max(problem.outputs, 2)
    return PromptModel(RobertaForMaskedLM(config).eval(), list(range(5, 5 + count)), problem.outputs == 1)


def texts_of(problem: Problem) -> dict[str, list[EncodedText]]:
    chance = random.Random(0)

    def text() -> EncodedText:
        place = chance.randrange(len(LENGTHS) - 1)
        length = problem.tokens or chance.randint(LENGTHS[place], LENGTHS[place + 1])
        return EncodedText(
            tuple(chance.randrange(20, problem.vocabulary) for _ in range(length)), max(0, length - 2), None
        )

    return {
        "train": [text() for _ in range(problem.train)],
        "eval": [text() for _ in range(problem.evaluation)],
    }


def timed(
    problem: Problem, model: PromptModel | None = None, clock: Clock = time.perf_counter
) -> tuple[float, Tensor]:
    """Returns the time of ``stream_kernels``, and the `sgd` kernel."""
    model = model or network(problem)
    trainable, settings = ParameterFilter().select(model), Settings(memory=parse_bytes(problem.memory))
    texts, pairs = texts_of(problem), [("train", "eval")]
    taken, found = seconds(
        lambda: stream_kernels(KernelWork(model, texts, pairs, problem.formulas, trainable, 1), settings),
        clock,
    )
    return taken, whole(found.kernels["train", "eval"]["sgd"])


def linear_weights(model: PromptModel) -> int:
    """Returns P: the weights of the linear maps that tokens pass."""
    layers = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    decoder = model.network.get_output_embeddings()
    return sum(layer.weight.numel() for layer in layers if layer is not decoder)


def matmul_rate(clock: Clock) -> float:
    """Returns operations a second of a large matrix product, the best of five."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    return max(2 * 2048**3 / seconds(lambda: a @ b, clock)[0] for _ in range(5))


def floors(quick: bool, repeats: int, clock: Clock, only: Sequence[str] = ()) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in only or FLOORS:
        problem = replace(FLOORS[name], **QUICK) if quick else FLOORS[name]
        model = network(problem)
        rate = statistics.median(matmul_rate(clock) for _ in range(3))
        times = [timed(problem, model, clock)[0] for _ in range(repeats)]
        tokens = sum(text.length for part in texts_of(problem).values() for text in part)
        weights = linear_weights(model)
        operations = 6.0 * weights * tokens + 2.0 * weights * problem.train * problem.evaluation
        taken = statistics.median(times)
        found[name] = {
            "seconds": taken, "all_seconds": times, "matmul_rate": rate, "floor_operations": operations,
            "floor_seconds": operations / rate, "share": operations / rate / taken, "peak_bytes": peak_bytes(),
        }  # fmt: skip
        print(f"{name}: {taken:.1f} s", file=sys.stderr)
    rows = [
        [
            name,
            f"{one['seconds']:.1f}",
            f"{one['floor_seconds']:.1f}",
            f"{one['matmul_rate'] / 1e9:.0f}",
            f"{100 * one['share']:.0f} %",
        ]
        for name, one in found.items()
    ]
    print_table(["RoBERTa-base's shape", "seconds", "floor s", "matmul GF/s", "of the floor"], rows)
    return found


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Returns the exponent of the larger half: a line through the logarithms."""
    half = max(2, (len(sizes) + 1) // 2)
    x, y = ([math.log(value) for value in part[-half:]] for part in (sizes, values))
    mean_x, mean_y = sum(x) / half, sum(y) / half
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum(
        (a - mean_x) ** 2 for a in x
    )


def curves(quick: bool, repeats: int, clock: Clock) -> dict[str, Any]:
    found: dict[str, Any] = {}
    rows = []
    for name, (field, sizes) in CURVES.items():
        times, operations, weights = [], [], []
        for size in sizes[:3] if quick else sizes:
            problem = replace(SMALL, **QUICK) if quick else SMALL
            problem = replace(problem, **{field: size})
            model = network(problem)
            timed(replace(problem, train=4, evaluation=8), model)
            times.append(statistics.median(timed(problem, model, clock)[0] for _ in range(repeats)))
            trainable, pairs = ParameterFilter().select(model), [("train", "eval")]
            work = KernelWork(model, texts_of(problem), pairs, problem.formulas, trainable, 1)
            plan = plan_kernels(work, Settings(memory=parse_bytes(problem.memory)))
            operations.append(plan.capture_operations + plan.contraction_operations)
            weights.append(linear_weights(model))
        axis = weights if name == "P" else list(sizes[: len(times)])
        found[name] = {"sizes": axis, "seconds": times, "operations": operations}
        found[name] |= {"measured": slope(axis, times), "predicted": slope(axis, operations)}
        shown = ", ".join(f"{size:.3g}: {taken:.2f}" for size, taken in zip(axis, times, strict=True))
        rows.append([name, shown, f"{found[name]['measured']:.2f}", f"{found[name]['predicted']:.2f}"])
        print(f"{name}: {found[name]['measured']:.2f}", file=sys.stderr)
    print_table(["", "size: seconds", "exponent", "of the operations"], rows)
    return found


def ways(quick: bool, repeats: int, clock: Clock) -> dict[str, Any]:
    problem = Problem(384, 6, 30522, 16, 48, 24)
    problem = replace(problem, **QUICK, tokens=8) if quick else problem
    model = network(problem)
    texts = texts_of(problem)
    parameters = ParameterFilter().select(model)

    def product(kept: Tensor, gradient: Tensor) -> Tensor:
        """In pieces, summed in float64: one float32 sum over 23 million terms is 3e-3 off."""
        pieces = zip(kept.split(2**15, 1), gradient.split(2**15), strict=True)
        return torch.stack([(rows @ column).double() for rows, column in pieces]).sum(0)

    def by_autograd() -> Tensor:
        def gradient(text: EncodedText) -> Tensor:
            rows = torch.autograd.grad(
                model(collate([text], 1))[0, 0], list(parameters.values()), allow_unused=True
            )
            parts = [
                torch.zeros_like(p) if g is None else g
                for g, p in zip(rows, parameters.values(), strict=True)
            ]
            return torch.cat([part.flatten() for part in parts])

        with frozen(model, list(parameters.values())):
            kept = torch.stack([gradient(text) for text in texts["train"]])
            return torch.stack([product(kept, gradient(text)) for text in texts["eval"]], 1)

    def by_jacrev() -> Tensor:
        def jacobian(text: EncodedText) -> Tensor:
            batch = collate([text], 1)
            found = jacrev(lambda chosen: functional_call(model, chosen, (batch,), tie_weights=True)[0])(
                detached
            )
            return torch.cat([part.flatten() for part in found.values()])

        detached = {name: parameter.detach() for name, parameter in parameters.items()}
        kept = torch.stack([jacobian(text) for text in texts["train"]])
        return torch.stack([product(kept, jacobian(text)) for text in texts["eval"]], 1)

    expected: Tensor | None = None
    found: dict[str, Any] = {}
    timed(problem, model)
    for name, way in (
        ("plain autograd, text by text", by_autograd),
        ("torch.func.jacrev, text by text", by_jacrev),
        ("lmntk", None),
    ):
        times = []
        for _ in range(repeats):
            started = clock()
            kernel = timed(problem, model)[1][:, 0, :, 0] if way is None else way().double()
            times.append(clock() - started)
        expected = kernel if expected is None else expected
        error = float((kernel - expected).abs().max() / expected.abs().max())
        found[name] = {"seconds": statistics.median(times), "all_seconds": times, "difference": error}
    last = found["lmntk"]["seconds"]
    rows = [
        [name, f"{one['seconds']:.2f}", f"{one['seconds'] / last:.1f}", f"{one['difference']:.0e}"]
        for name, one in found.items()
    ]
    print_table(
        [
            f"{problem.train} x {problem.evaluation} texts of {problem.tokens} tokens",
            "seconds",
            "times lmntk's",
            "difference",
        ],
        rows,
    )
    if max(one["difference"] for one in found.values()) > 1e-4:
        print("FAILED: the ways differ by more than 1e-4; the timings mean nothing", file=sys.stderr)
        sys.exit(1)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("floor", "curves", "ways"):
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--only", metavar="A;B", help=f"of --floor: {'; '.join(FLOORS)}")
    parser.add_argument("--repeats", type=int, default=3, help="of each; the medians count (3)")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="processor time, not wall time: where other work runs beside it",
    )
    parser.add_argument("--quick", action="store_true", help="tiny networks; the times mean nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    arguments = parser.parse_args()
    if not (arguments.floor or arguments.curves or arguments.ways):
        parser.error("give --floor, --curves or --ways")
    only = [name.strip() for name in (arguments.only or "").split(";") if name.strip()]
    if set(only) - set(FLOORS):
        parser.error(f"--only: no {(set(only) - set(FLOORS)).pop()!r}")
    about = machine()
    print(f"{describe_machine(about)}; {'processor' if arguments.cpu_time else 'wall'} time", end="\n\n")
    found: dict[str, Any] = {"benchmark": "scaling", "machine": about, "cpu_time": arguments.cpu_time}
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    for name, body in (("floor", partial(floors, only=only)), ("curves", curves), ("ways", ways)):
        if getattr(arguments, name):
            found[name] = body(arguments.quick, arguments.repeats, clock)
            print()
    write_json(arguments.json, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
