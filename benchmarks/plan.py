"""What `lmntk plan` says beside what it comes to: time and peak memory of the same work, each in a process of its own.

    python benchmarks/plan.py                        # RoBERTa-base's shape and smaller ones, several memories, minutes
    python benchmarks/plan.py --memories             # one piece of work at 1 to 16 GiB of allowed memory
    python benchmarks/plan.py --quick                # tiny networks: does it run?

Every row is a process that makes a network with random weights, plans the kernels of N x M random texts (as long as SST-2's),
computes them, and says what was predicted and measured: the time of `stream_kernels`, and the highest memory the process held (the
system's count, model and libraries included). The claim: time within a factor of 1.5, memory within 15 %.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import describe_machine, machine, print_table, write_json

# name -> hidden, layers, vocabulary, train, evaluation, logits, formulas, memory
ROWS: dict[str, tuple[int, int, int, int, int, int, str, str]] = {
    "base, 32 x 200": (768, 12, 50265, 32, 200, 1, "sgd", "12GiB"),
    "base, 32 x 200, three formulas": (768, 12, 50265, 32, 200, 1, "sgd,signgd,asigngd", "12GiB"),
    "base, 128 x 200": (768, 12, 50265, 128, 200, 1, "sgd", "6GiB"),
    "base, 128 x 200, little memory": (768, 12, 50265, 128, 200, 1, "sgd", "3GiB"),
    "small, 64 x 1000": (384, 6, 30522, 64, 1000, 1, "sgd,signgd,asigngd", "4GiB"),
    "small, 64 x 1000, little memory": (384, 6, 30522, 64, 1000, 1, "sgd", "1500MiB"),
    "small, six logits, 48 x 200": (384, 6, 30522, 48, 200, 6, "sgd", "6GiB"),
}
# RoBERTa-base's shape, 96 x 96 texts; the least that works is not known beforehand
MEMORIES = {
    f"at {memory}": (768, 12, 50265, 96, 96, 1, "sgd", memory)
    for memory in ("1GiB", "2GiB", "4GiB", "8GiB", "16GiB")
}
QUICK = {"tiny": (32, 2, 100, 8, 40, 1, "sgd,signgd,asigngd", "2GiB")}
# tokens of SST-2's prompted test texts: its tenths
LENGTHS = (8, 11, 14, 17, 20, 23, 26, 30, 35, 45, 60)


def measured(name: str, quick: bool) -> dict[str, Any]:
    """Plans and computes one row in this process."""
    import torch
    from transformers import RobertaConfig, RobertaForMaskedLM

    from lmntk.engine.estimate import Estimate
    from lmntk.engine.kernel_work import KernelWork
    from lmntk.engine.progress import Listener
    from lmntk.engine.settings import Settings
    from lmntk.engine.stream import stream_kernels
    from lmntk.errors import UserError
    from lmntk.models.filters import ParameterFilter
    from lmntk.models.logit_model import PromptModel
    from lmntk.prompts.encoding import EncodedText
    from lmntk.system.memory import parse_bytes, peak

    hidden, layers, vocabulary, n, m, c, formulas, memory = (QUICK if quick else ROWS | MEMORIES)[name]
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=max(2, hidden // 64),
        intermediate_size=4 * hidden,
        max_position_embeddings=130,
        pad_token_id=1,
        type_vocab_size=1,
    )
    model = PromptModel(RobertaForMaskedLM(config).eval(), list(range(10, 10 + max(c, 2))), c == 1)
    chance = random.Random(0)

    def texts(count: int) -> list[EncodedText]:
        found = []
        for _ in range(count):
            place = chance.randrange(len(LENGTHS) - 1)
            length = chance.randint(LENGTHS[place], LENGTHS[place + 1])
            found.append(
                EncodedText(tuple(chance.randrange(20, vocabulary) for _ in range(length)), length - 2, None)
            )
        return found

    groups = {"train": texts(n), "eval": texts(m)}
    said: list[Estimate] = []
    announced: list[float] = []

    def announce(estimate: Estimate) -> None:
        said.append(estimate)
        announced.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(memory=parse_bytes(memory), scratch=Path(folder) / "scratch")
        trainable, pairs = ParameterFilter().select(model), [("train", "eval")]
        try:
            stream_kernels(
                KernelWork(model, groups, pairs, formulas.split(","), trainable, 1),
                settings,
                Listener(announce=announce),
                key="k" * 32,
            )
        except UserError as error:
            return {"refused": str(error)}
        seconds = time.perf_counter() - announced[0]
    status = Path("/proc/self/status")
    highest = peak() if status.exists() else 0
    return {
        "predicted": said[0].as_dict(),
        "seconds": seconds,
        "peak": highest,
        "memory": parse_bytes(memory),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a tiny network; the figures mean nothing")
    parser.add_argument("--memories", action="store_true", help="one piece of work at several memories")
    parser.add_argument("--rows", metavar="A;B", help=f"of {'; '.join(ROWS)}")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    arguments = parser.parse_args()
    if arguments.row:
        print(json.dumps(measured(arguments.row, arguments.quick)))
        return 0
    rows = QUICK if arguments.quick else MEMORIES if arguments.memories else ROWS
    names = [name.strip() for name in arguments.rows.split(";")] if arguments.rows else list(rows)
    unknown = [name for name in names if name not in rows]
    if unknown:
        parser.error(f"--rows: no row {unknown[0]!r}")
    found: dict[str, Any] = {}
    for name in names:
        command = [sys.executable, __file__, "--row", name, *(["--quick"] if arguments.quick else [])]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
        if done.returncode:
            print(f"FAILED: {name}: {done.stderr[-500:]}", file=sys.stderr)
            return 1
        found[name] = json.loads(done.stdout.splitlines()[-1])
        print(f"{name}: {found[name].get('refused') or round(found[name]['seconds'], 1)}", file=sys.stderr)
    about = machine()
    print(f"{describe_machine(about)}\n")
    lines = []
    for name, figures in found.items():
        if "refused" in figures:
            print(f"{name}: {figures['refused']}\n")
            continue
        predicted = figures["predicted"]
        lines.append(
            [
                name,
                f"{predicted['seconds']:.1f}",
                f"{figures['seconds']:.1f}",
                f"{predicted['seconds'] / figures['seconds']:.2f}",
                f"{figures['memory'] / 2**20:.0f}",
                f"{predicted['peak'] / 2**20:.0f}",
                f"{figures['peak'] / 2**20:.0f}",
                f"{predicted['peak'] / max(figures['peak'], 1):.2f}",
                f"{predicted['disk'] / 2**20:.0f}",
            ]
        )
    print_table(
        [
            "",
            "predicted s",
            "measured s",
            "ratio",
            "allowed MiB",
            "predicted MiB",
            "peak MiB",
            "ratio",
            "disk MiB",
        ],
        lines,
    )
    write_json(arguments.json, {"benchmark": "plan", "machine": about, "rows": found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
