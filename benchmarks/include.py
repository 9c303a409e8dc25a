"""What a text costs when only some layers count: forward passes a text, of all layers, the top half, the last block.

    OMP_NUM_THREADS=2 python benchmarks/include.py                                # SmolLM2-135M-Instruct, after `make smollm2`
    python benchmarks/include.py --cpu-time --threads 1 --repeats 3               # where other work runs beside it
    python benchmarks/include.py --quick                                          # seconds: a random Llama

The claim: with `--include` of the last block a text's gradients cost at most 1.5 forward passes; of all layers about 3.

*counted*: floating-point operations of one batch's capture (forward, backward, factors), as `torch.utils.flop_counter` counts
them, over those of a plain forward pass of the same batch. *timed*: the same of seconds; the plain pass and every choice are
timed in turn, and medians of the ratios count. *with products*: the Gram matrix of the batch with itself too, for `sgd`, over the
plain pass. Texts have random tokens, lengths are spread over half of the longest; the one output is a difference of two logits.
Exit status 1: the last block is counted above 1.5.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from measuring import Clock, describe_machine, machine, print_table, seconds, write_json
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lmntk.kernels.gram import Panel, gram
from lmntk.models.filters import ParameterFilter
from lmntk.models.loading import load_pretrained
from lmntk.models.logit_model import PromptModel
from lmntk.prompts.batching import collate
from lmntk.prompts.encoding import EncodedText
from lmntk.tangents.capture import capture

CLAIM = 1.5
MODEL = Path(__file__).resolve().parents[1] / "build/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
KEYS = ("counted", "timed", "with_products")
LABEL_IDS = (5, 9)
SMALL = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 12, "num_attention_heads": 4}


def choices_of(model: PromptModel) -> dict[str, ParameterFilter]:
    """Return the choices by name: blocks are told by the first number in a parameter's name."""
    names = [name for name, _ in model.named_parameters()]
    stems = {match[0]: int(match[1]) for name in names if (match := re.match(r".*?\.(\d+)\.", name))}
    ordered = sorted(stems, key=lambda stem: stems[stem])

    def only(blocks: Sequence[str]) -> ParameterFilter:
        return ParameterFilter(include=tuple(f"{stem}*" for stem in blocks))

    return {
        "all layers": ParameterFilter(),
        "top half": only(ordered[len(ordered) // 2 :]),
        "last block": only(ordered[-1:]),
    }


def operations(body: Callable[[], object]) -> int:
    """Return the floating-point operations that are counted while the body runs."""
    with FlopCounterMode(display=False) as counter:
        body()
    return counter.get_total_flops()


def measure(
    model: PromptModel, batch: dict[str, torch.Tensor], repeats: int, clock: Clock
) -> tuple[float, dict[str, Any]]:
    """Return the seconds of a plain forward pass, and each choice's figures."""

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return model(batch)

    chosen: dict[str, dict[str, nn.Parameter]] = {
        name: choice.select(model) for name, choice in choices_of(model).items()
    }
    model.prepare(batch)
    plain = operations(forward)
    counted = {
        name: operations(lambda part=part: capture(model, batch, part)) / plain
        for name, part in chosen.items()
    }
    times: list[float] = []
    timed: dict[str, list[tuple[float, float]]] = {name: [] for name in chosen}
    for repeat in range(repeats + 1):
        for name, part in chosen.items():
            passing, _ = seconds(forward, clock)
            capturing, tangents = seconds(lambda part=part: capture(model, batch, part), clock)
            panel = Panel([tangents])
            multiplying, _ = seconds(lambda panel=panel: gram(panel, panel, ["sgd"]), clock)
            if repeat:  # the first of each is not counted
                times.append(passing)
                timed[name].append((capturing / passing, (capturing + multiplying) / passing))
    return statistics.median(times), {
        name: {
            "parameters": sum(parameter.numel() for parameter in part.values()),
            "counted": counted[name],
            "timed": statistics.median(ratio for ratio, _ in timed[name]),
            "with_products": statistics.median(ratio for _, ratio in timed[name]),
            "all_timed": [ratio for ratio, _ in timed[name]],
        }
        for name, part in chosen.items()
    }


def main() -> int:
    """Print the table; return 1 if the claim does not hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=MODEL, help="a folder or a GGUF file")
    parser.add_argument("--quick", action="store_true", help="a random Llama of 12 layers of 256")
    parser.add_argument("--texts", type=int, default=8, help="in the batch")
    parser.add_argument("--tokens", type=int, default=40, help="of the longest text")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument(
        "--cpu-time", action="store_true", help="processor time of this process, not wall time"
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    if not given.quick and not given.model.exists():
        sys.exit(f"{given.model} is not there: run `make smollm2` first, or give --quick or --model")
    found = machine()
    print(describe_machine(found))
    torch.manual_seed(0)
    if given.quick:
        network: Any = hf.LlamaForCausalLM(hf.LlamaConfig(vocab_size=2048, **SMALL)).eval()
    else:
        network = load_pretrained(str(given.model)).network
    model = PromptModel(network, LABEL_IDS, True)
    lengths = torch.linspace(max(1, given.tokens // 2), given.tokens, given.texts).long().tolist()
    ids = [torch.randint(10, network.config.vocab_size, (length,)).tolist() for length in lengths]
    batch = collate([EncodedText(tuple(each), len(each) - 1, None) for each in ids], 0)
    passing, figures = measure(
        model, batch, given.repeats, time.process_time if given.cpu_time else time.perf_counter
    )
    print(
        f"{given.texts} texts of {lengths[0]} to {lengths[-1]} tokens, a forward pass {passing:.2f} s;",
        end=" ",
    )
    print("forward passes a text:")
    print_table(
        ["parameters that count", "millions", "counted", "timed", "with products"],
        [
            [name, f"{each['parameters'] / 1e6:.1f}", *(f"{each[key]:.2f}" for key in KEYS)]
            for name, each in figures.items()
        ],
    )
    write_json(given.json, {"machine": found, "claim": CLAIM, "forward": passing, "choices": figures})
    return int(figures["last block"]["counted"] > CLAIM)


if __name__ == "__main__":
    raise SystemExit(main())
