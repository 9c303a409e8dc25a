"""lmntk against the pairwise forward-mode algorithm, on one machine, in one run.

    python benchmarks/pairwise.py                              # RoBERTa-base's shape, 32 x 128 texts of 40 tokens
    python benchmarks/pairwise.py --quick --json figures.json  # seconds: a tiny network, 4 x 6 texts
    python benchmarks/pairwise.py --speed-only --train 1024 --eval 1000 --tokens 0 --repeats 1   # texts as long as SST-2's

The task: the `sgd` kernel (eNTK) between training and evaluation texts, of a RoBERTa with random weights whose one output is the
difference of two label words' logits at the mask. Every text has the same length, so neither side pads; or, with `--tokens 0`, texts
are as long as SST-2's prompted ones, and then only lmntk pads.

*lmntk*: the wall time of the whole `stream_kernels` call: the coverage check, capturing every text once, and the Gram matrix.
Measured with the default memory setting and with `--memory`; with `--speed-only` with the default alone, and no peak memory. What
memory does not hold lies on disk, in a temporary folder.

*pairwise*: what the reference code does: the Jacobian of a training text as a parameter-shaped tangent, then one
`torch.func.jvp` of the network in that direction for every evaluation text, at batch 1. Written here with torch.func alone, no
line of lmntk in it. It is spared what is not the algorithm's fault: like lmntk it scores two words, not the vocabulary, at the mask
only. Its attention is eager, for the fused one has no forward-mode rule. It is timed on a sample of pairs and **extrapolated**
to all of them.

The two results are compared on the sampled pairs. Exit status 1: they differ by more than 1e-4, and the timings are worthless.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from measuring import describe_machine, machine, peak_bytes, print_table, seconds, write_json
from torch import Tensor
from torch.func import functional_call, jvp, vjp
from transformers import RobertaConfig, RobertaForMaskedLM

from lmntk.engine.kernel_work import KernelWork
from lmntk.engine.settings import Settings
from lmntk.engine.stream import stream_kernels, whole
from lmntk.models.filters import ParameterFilter
from lmntk.models.logit_model import PromptModel
from lmntk.prompts.encoding import EncodedText
from lmntk.system.memory import default_memory, parse_bytes

TOLERANCE = 1e-4
LENGTHS = (8, 11, 14, 17, 20, 23, 26, 30, 35, 45, 60)  # tokens of SST-2's prompted test texts: its tenths
LABEL_IDS = (6587, 372)
GIBIBYTE = 2**30


@dataclass(frozen=True)
class Problem:
    """The sizes of the comparison; everything random follows from the seed."""

    train: int
    evaluation: int
    tokens: int
    quick: bool
    seed: int

    @property
    def pairs(self) -> int:
        return self.train * self.evaluation

    def network(self, attention: str) -> RobertaForMaskedLM:
        """Returns the same random network whatever its attention; decoder and embedding are tied, as RoBERTa's are."""
        torch.manual_seed(self.seed)
        small = (
            {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 256}
            if self.quick
            else {}
        )
        network = RobertaForMaskedLM(RobertaConfig(**small)).eval()
        network.set_attn_implementation(attention)
        return network

    def texts(self) -> dict[str, list[EncodedText]]:
        """Returns random texts `<s> ... <mask> ... </s>` by group."""
        chance = random.Random(self.seed)

        def text() -> EncodedText:
            place = chance.randrange(len(LENGTHS) - 1)
            length = self.tokens or chance.randint(LENGTHS[place], LENGTHS[place + 1])
            ids = [0, *(chance.randrange(4, 50000) for _ in range(length - 2)), 2]
            position = chance.randrange(1, length - 1)
            ids[position] = 50264
            return EncodedText(tuple(ids), position, None)

        return {
            "train": [text() for _ in range(self.train)],
            "eval": [text() for _ in range(self.evaluation)],
        }


def run_lmntk(model: PromptModel, texts: dict[str, list[EncodedText]], settings: Settings) -> Tensor:
    """Returns the kernel [train, eval]: the whole call, as a user makes it."""
    with tempfile.TemporaryDirectory() as folder:
        settings = replace(settings, scratch=Path(folder) / "scratch")
        trainable = ParameterFilter().select(model)
        streamed = stream_kernels(
            KernelWork(model, texts, [("train", "eval")], ["sgd"], trainable, 1), settings, key="pairwise"
        )
    return whole(streamed.kernels["train", "eval"]["sgd"])[:, 0, :, 0]


class Pairwise:
    """The reference's algorithm: every pair of texts goes through the network."""

    def __init__(self, network: RobertaForMaskedLM) -> None:
        self.network = network
        self.parameters = {
            name: parameter.detach() for name, parameter in network.named_parameters()
        }  # a tied one once
        self.words = torch.tensor(LABEL_IDS)

    def output(self, parameters: dict[str, Tensor], text: EncodedText) -> Tensor:
        """Returns f_1 - f_0 [] of one text, as a function of the parameters."""
        return functional_call(
            _Difference(self.network, self.words), {f"network.{k}": v for k, v in parameters.items()}, (text,)
        )

    def tangent(self, text: EncodedText) -> dict[str, Tensor]:
        """Returns a training text's Jacobian, parameter by parameter."""
        value, pull = vjp(lambda parameters: self.output(parameters, text), self.parameters)
        return pull(torch.ones_like(value))[0]

    def entry(self, tangent: dict[str, Tensor], text: EncodedText) -> float:
        """Returns one entry of the kernel: the derivative of an evaluation text's output along a training text's Jacobian."""
        return float(jvp(lambda parameters: self.output(parameters, text), (self.parameters,), (tangent,))[1])


class _Difference(torch.nn.Module):
    """The difference of two words' logits at the mask, from the network's parts."""

    def __init__(self, network: RobertaForMaskedLM, words: Tensor) -> None:
        super().__init__()
        self.network = network
        self.words = words

    def forward(self, text: EncodedText) -> Tensor:
        hidden = self.network.roberta(torch.tensor([text.ids])).last_hidden_state[0, text.read_position]
        head = self.network.lm_head
        features = head.layer_norm(torch.nn.functional.gelu(head.dense(hidden)))
        logits = head.decoder.weight[self.words] @ features + head.decoder.bias[self.words]
        return logits[1] - logits[0]


def time_pairwise(problem: Problem, sample: int, warm_ups: int) -> dict[str, Any]:
    """Returns the times and values of a random sample of pairs, the warm-ups left out."""
    texts = problem.texts()
    algorithm = Pairwise(problem.network("eager"))
    chance = random.Random(problem.seed + 1)
    everything = [(i, j) for i in range(problem.train) for j in range(problem.evaluation)]
    chosen = chance.sample(everything, min(sample, len(everything)))
    warming = [chance.choice(everything) for _ in range(warm_ups)]
    pair_seconds, tangent_seconds, values = [], [], []
    for count, (i, j) in enumerate(warming + chosen):
        tangent_time, tangent = seconds(lambda i=i: algorithm.tangent(texts["train"][i]))
        pair_time, value = seconds(lambda tangent=tangent, j=j: algorithm.entry(tangent, texts["eval"][j]))
        del tangent
        if count >= len(warming):
            tangent_seconds.append(tangent_time)
            pair_seconds.append(pair_time)
            values.append(value)
    pair, tangent_time = statistics.median(pair_seconds), statistics.median(tangent_seconds)
    return {
        "extrapolated": True,
        "sampled_pairs": chosen,
        "pair_seconds": pair_seconds,
        "jacobian_seconds": tangent_seconds,
        "median_pair_seconds": pair,
        "median_jacobian_seconds": tangent_time,
        "seconds": problem.pairs * pair + problem.train * tangent_time,
        "values": values,
    }


def time_lmntk(
    problem: Problem, batch_size: int, memory: dict[str, int], repeats: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Returns every memory setting's times, taken in turn, and its kernel."""
    texts = problem.texts()
    model = PromptModel(problem.network("sdpa"), LABEL_IDS, difference=True)
    run_lmntk(
        model, {name: group[:2] for name, group in texts.items()}, Settings(batch_size)
    )  # imports, thread pools
    taken: dict[str, list[float]] = {name: [] for name in memory}
    kernels = {}
    for _ in range(repeats):
        for name, size in memory.items():
            time, kernels[name] = seconds(
                lambda size=size: run_lmntk(model, texts, Settings(batch_size, size))
            )
            taken[name].append(time)
    return {
        name: {"memory": memory[name], "all_seconds": times, "seconds": statistics.median(times)}
        for name, times in taken.items()
    }, kernels


def measure_memory(arguments: argparse.Namespace, memory: int) -> dict[str, int]:
    """Returns the peak memory of one lmntk call in a process of its own.

    To be called before this process grows: Linux hands a parent's peak on to its children.
    """
    command = [
        sys.executable,
        str(Path(__file__).resolve()),
        "--memory-of-one-call",
        str(memory),
        "--batch-size",
        str(arguments.batch_size),
    ]
    for name in ("train", "eval", "tokens", "seed", "threads"):
        command += [f"--{name}", str(getattr(arguments, name))]
    if arguments.quick:
        command.append("--quick")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the memory measurement failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def one_call(problem: Problem, batch_size: int, memory: int) -> dict[str, int]:
    """Returns this process's peak resident set after imports, with the model, and after one lmntk call."""
    imports = peak_bytes()
    model = PromptModel(problem.network("sdpa"), LABEL_IDS, difference=True)
    with_model = peak_bytes()
    run_lmntk(model, problem.texts(), Settings(batch_size, memory))
    return {"rss_after_imports": imports, "rss_with_model": with_model, "peak_rss": peak_bytes()}


def arguments_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", type=int, help="training texts (32; quick: 4)")
    parser.add_argument("--eval", type=int, help="evaluation texts (128; quick: 6)")
    parser.add_argument(
        "--tokens", type=int, help="tokens in every text (40; quick: 12); 0: as long as SST-2's"
    )
    parser.add_argument(
        "--pairs", type=int, default=12, help="pairs on which the pairwise algorithm is timed (12)"
    )
    parser.add_argument("--warm-ups", type=int, default=2, help="pairs before those (2)")
    parser.add_argument(
        "--repeats", type=int, default=3, help="lmntk calls with each memory setting; the median counts (3)"
    )
    parser.add_argument("--batch-size", type=int, default=32, help="lmntk's texts in one forward pass (32)")
    parser.add_argument(
        "--memory",
        default="2GiB",
        help="the second memory setting, beside lmntk's default of half the machine's (2GiB)",
    )
    parser.add_argument(
        "--speed-only", action="store_true", help="the default memory setting alone, and no peak memory"
    )
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="threads of both algorithms (all cores)"
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=TOLERANCE,
        help=f"the largest relative difference allowed ({TOLERANCE:.0e})",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the weights, the texts and the sampled pairs (0)"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="2 layers of width 64, 4 x 6 texts: does it run? The times mean nothing",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--memory-of-one-call", type=int, metavar="BYTES", help=argparse.SUPPRESS)
    return parser


def main() -> int:
    arguments = arguments_parser().parse_args()
    small = arguments.quick
    for name, usual, quick in (("train", 32, 4), ("eval", 128, 6), ("tokens", 40, 12)):
        if getattr(arguments, name) is None:
            setattr(arguments, name, quick if small else usual)
    torch.set_num_threads(arguments.threads)
    problem = Problem(arguments.train, arguments.eval, arguments.tokens, small, arguments.seed)
    if arguments.memory_of_one_call is not None:
        print(json.dumps(one_call(problem, arguments.batch_size, arguments.memory_of_one_call)))
        return 0

    found = machine()
    memory = {"default": default_memory()} | (
        {} if arguments.speed_only else {arguments.memory: parse_bytes(arguments.memory)}
    )
    peaks = (
        {}
        if arguments.speed_only
        else {name: measure_memory(arguments, size) for name, size in memory.items()}
    )
    lmntk, kernels = time_lmntk(problem, arguments.batch_size, memory, arguments.repeats)
    pairwise = time_pairwise(problem, arguments.pairs, arguments.warm_ups)

    expected = torch.tensor(pairwise["values"], dtype=torch.float64)
    for name, kernel in kernels.items():
        values = torch.stack([kernel[i, j] for i, j in pairwise["sampled_pairs"]])
        lmntk[name] |= peaks.get(name, {})
        lmntk[name]["values"] = values.tolist()
        lmntk[name]["ratio"] = pairwise["seconds"] / lmntk[name]["seconds"]
        # of the sampled entries' root mean square: single entries may be nearly zero
        lmntk[name]["relative_difference"] = float(
            (values - expected).abs().max() / expected.square().mean().sqrt()
        )
    worst = max(part["relative_difference"] for part in lmntk.values())

    lengths = f"of {problem.tokens} tokens" if problem.tokens else "as long as SST-2's"
    print(f"sgd kernel of {problem.train} x {problem.evaluation} texts {lengths}, one output, ", end="")
    print("a tiny network: the times mean nothing" if small else "RoBERTa-base's shape, random weights")
    print(describe_machine(found), end="\n\n")
    rows = [
        [
            f"lmntk, memory {name} ({part['memory'] / GIBIBYTE:.1f} GiB)",
            f"{part['seconds']:.2f}",
            f"{1e3 * part['seconds'] / problem.pairs:.3f}",
            f"{part['ratio']:.1f}",
            f"{part['relative_difference']:.1e}",
            f"{part['peak_rss'] / GIBIBYTE:.2f}" if "peak_rss" in part else "",
        ]
        for name, part in lmntk.items()
    ]
    rows.append(
        [
            "pairwise, extrapolated",
            f"{pairwise['seconds']:.1f}",
            f"{1e3 * pairwise['seconds'] / problem.pairs:.1f}",
            "1.0",
            "",
            "",
        ]
    )
    print_table(["", "seconds", "ms per pair", "times faster", "difference", "peak GiB"], rows)
    spread = ", ".join(f"{min(p['all_seconds']):.2f}-{max(p['all_seconds']):.2f}" for p in lmntk.values())
    print(
        f"\nlmntk: medians of {arguments.repeats} whole calls ({spread} s)",
        end="\n" if arguments.speed_only else "; ",
    )
    if peaks:
        imports = next(iter(peaks.values()))["rss_after_imports"] / GIBIBYTE
        print(f"peaks of a process each, of which imports {imports:.2f} GiB")
    print(
        f"pairwise: NOT run in full. Extrapolated from {len(pairwise['values'])} sampled pairs to all {problem.pairs}: medians of "
        f"{1e3 * pairwise['median_pair_seconds']:.0f} ms a pair\n(from {1e3 * min(pairwise['pair_seconds']):.0f} to "
        f"{1e3 * max(pairwise['pair_seconds']):.0f}) and {1e3 * pairwise['median_jacobian_seconds']:.0f} ms a training text's Jacobian"
    )
    print("difference: the largest on the sampled pairs, of their root mean square")
    write_json(
        arguments.json,
        {
            "benchmark": "pairwise",
            "machine": found,
            "problem": {
                "train": problem.train,
                "eval": problem.evaluation,
                "tokens": problem.tokens,
                "quick": small,
                "seed": problem.seed,
            },
            "lmntk": lmntk,
            "pairwise": pairwise,
            "relative_difference": worst,
            "tolerance": arguments.tolerance,
        },
    )
    if not worst <= arguments.tolerance:
        print(
            f"FAILED: the results differ by {worst:.1e}, more than {arguments.tolerance:.0e}; the timings mean nothing",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
