"""Precision policies on a GPU or a processor: time, memory, and how far kernels and solutions are from float32's.

    python benchmarks/gpu.py                                   # every GPU: RoBERTa-base's shape, 32 x 1000, all three policies
    python benchmarks/gpu.py --device-memory 8GiB              # the same, bounded: is the bound kept to?
    python benchmarks/gpu.py --device cpu --model FOLDER --texts FILE.jsonl --rows 32 --columns 64     # a real model and real texts
    python benchmarks/gpu.py --quick --device cpu              # a tiny network: does it run?

Without ``--model`` weights are random and texts as long as SST-2's prompted test texts. Every policy is a whole ``stream_kernels`` call,
its start-up check and its planning included. Errors are of the whole kernels beside the float32 row of the same run: Frobenius norms,
and the relative error of (K + 0.01 ||K|| I)^-1 y, y the texts' labels, or alternating. "said" is what lmntk itself measured on 16 texts.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from measuring import describe_machine, machine, print_table, seconds, write_json

from lmntk.engine.kernel_work import KernelWork
from lmntk.engine.settings import Settings
from lmntk.engine.stream import Streamed, stream_kernels, whole
from lmntk.errors import UserError
from lmntk.models.filters import ParameterFilter
from lmntk.models.logit_model import LogitModel, PromptModel
from lmntk.prompts.encoding import EncodedText
from lmntk.system.devices import chosen_devices, move_to
from lmntk.system.executors.choose import chosen_executor
from lmntk.system.memory import parse_bytes, shown_bytes
from lmntk.system.precision import AMPERE, PRECISIONS, check_precision

LENGTHS = (8, 11, 14, 17, 20, 23, 26, 30, 35, 45, 60)  # tokens of SST-2's prompted test texts: its tenths
TEMPLATE, WORDS = "{a} It was {mask}.", "terrible,great"


@dataclass(frozen=True)
class Work:
    """A model on its device, the row and column texts, labels of the row texts."""

    model: LogitModel
    pad_id: int
    texts: dict[str, list[EncodedText]]
    labels: list[float]


def random_work(rows: int, columns: int, quick: bool, device: torch.device) -> Work:
    from transformers import RobertaConfig, RobertaForMaskedLM

    hidden, layers, vocabulary = (32, 2, 100) if quick else (768, 12, 50265)
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
    model = PromptModel(RobertaForMaskedLM(config).eval(), [10, 11], True).to(device)
    chance = random.Random(0)

    def texts(count: int) -> list[EncodedText]:
        found = []
        for _ in range(count):
            tenth = chance.randrange(len(LENGTHS) - 1)
            length = chance.randint(LENGTHS[tenth], LENGTHS[tenth + 1])
            found.append(
                EncodedText(tuple(chance.randrange(20, vocabulary) for _ in range(length)), length - 2, None)
            )
        return found

    return Work(
        model, 1, {"train": texts(rows), "eval": texts(columns)}, [1.0 - 2.0 * (n % 2) for n in range(rows)]
    )


def real_work(
    folder: str, path: Path, rows: int, columns: int, template: str, words: str, device: str
) -> Work:
    from lmntk.models.build import prompt_model
    from lmntk.models.loading import load_pretrained
    from lmntk.prompts.encoding import PromptEncoder
    from lmntk.tasks import read_jsonl

    pretrained = load_pretrained(folder)
    move_to(pretrained, device)
    reading: Any = pretrained.reading("prompt")
    encoder = PromptEncoder(
        pretrained.tokenizer,
        template,
        words.split(","),
        128,
        reading=reading,
        decoder_start=pretrained.decoder_start,
    )
    examples = read_jsonl(path)[: rows + columns]
    if len(examples) < rows + columns:
        raise UserError(f"texts: {path} has {len(examples)}; --rows and --columns ask for {rows + columns}")
    encoded = [encoder.encode(example) for example in examples]
    labels = [2.0 * (example.label or 0) - 1.0 for example in examples[:rows]]
    return Work(
        prompt_model(pretrained, encoder, True),
        pretrained.pad_id,
        {"train": encoded[:rows], "eval": encoded[rows:]},
        labels,
    )


def peak_on(devices: tuple[torch.device, ...], reset: bool = False) -> int:
    """Returns the most bytes that tensors took of one GPU, since the last reset."""
    gpus = [device for device in devices if device.type == "cuda"]
    for device in gpus if reset else ():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    return max((torch.cuda.max_memory_allocated(device) for device in gpus), default=0)


def solved(found: Streamed, formula: str, labels: list[float]) -> torch.Tensor:
    kernel = whole(found.kernels["train", "train"][formula])[:, 0, :, 0]
    ridge = 0.01 * torch.linalg.matrix_norm(kernel, 2) * torch.eye(len(kernel), dtype=kernel.dtype)
    return torch.linalg.solve(kernel + ridge, torch.tensor(labels, dtype=kernel.dtype))


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def errors(
    found: Streamed, exact: Streamed, formulas: list[str], labels: list[float]
) -> dict[str, dict[str, float]]:
    pair = ("train", "eval")
    kernels = {f: relative(whole(found.kernels[pair][f]), whole(exact.kernels[pair][f])) for f in formulas}
    symmetric = [f for f in formulas if f != "asigngd"]
    return {
        "kernels": kernels,
        "coefficients": {f: relative(solved(found, f, labels), solved(exact, f, labels)) for f in symmetric},
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="as lmntk's: cpu, cuda, cuda:0,cuda:1",
    )
    parser.add_argument("--device-memory", metavar="SIZE", help="of each GPU")
    parser.add_argument(
        "--precisions",
        help="of float32, tf32, bfloat16; float32 is always there  [default: what the device has]",
    )
    parser.add_argument("--formulas", default="sgd,signgd,asigngd")
    parser.add_argument("--rows", type=int, help="training texts  [default: 32]")
    parser.add_argument("--columns", type=int, help="evaluation texts  [default: 1000]")
    parser.add_argument("--model", help="a model folder, in place of random weights")
    parser.add_argument("--texts", type=Path, help="JSONL with text_a and label, for --model")
    parser.add_argument("--template", default=TEMPLATE)
    parser.add_argument("--label-words", default=WORDS)
    parser.add_argument(
        "--repeats", type=int, default=3, help="of which the median time is shown; one more warms up"
    )
    parser.add_argument("--threads", type=int, help="of the processor")
    parser.add_argument("--quick", action="store_true", help="a tiny network; the times mean nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    given = parser.parse_args()
    if (given.model is None) != (given.texts is None):
        parser.error("--model and --texts go together")
    if given.threads:
        torch.set_num_threads(given.threads)
    try:
        return measured(given)
    except UserError as error:
        print(f"gpu.py: {error}", file=sys.stderr)
        return 2


def measured(given: argparse.Namespace) -> int:
    devices = chosen_devices(given.device)
    is_gpu = devices[0].type == "cuda"
    recent = is_gpu and torch.cuda.get_device_capability(devices[0])[0] >= AMPERE
    able = PRECISIONS if recent else ("float32",) if is_gpu else ("float32", "bfloat16")
    precisions = list(
        dict.fromkeys(["float32", *(given.precisions.split(",") if given.precisions else able)])
    )
    for precision in precisions:
        check_precision(precision, "float32", devices)
    formulas = given.formulas.split(",")
    rows, columns = given.rows or (8 if given.quick else 32), given.columns or (24 if given.quick else 1000)
    if given.model:
        work = real_work(
            given.model, given.texts, rows, columns, given.template, given.label_words, given.device
        )
    else:
        work = random_work(rows, columns, given.quick, devices[0])
    budget = None if given.device_memory is None else parse_bytes(given.device_memory)
    trainable, about = ParameterFilter().select(work.model), machine()
    gpus = [torch.cuda.get_device_name(device) for device in devices if device.type == "cuda"]
    found: dict[str, dict[str, Any]] = {}
    exact: Streamed | None = None
    for precision in precisions:
        settings = Settings(
            executor=chosen_executor("local", devices=devices), device_memory=budget, precision=precision
        )

        def body(settings: Settings = settings) -> Streamed:
            pairs = [("train", "train"), ("train", "eval")]
            return stream_kernels(
                KernelWork(work.model, work.texts, pairs, formulas, trainable, work.pad_id), settings
            )

        repeats = 1 if given.quick else given.repeats
        if not given.quick and is_gpu:
            body()
        peak_on(devices, reset=True)
        times, streamed = [], None
        for _ in range(repeats):
            took, streamed = seconds(body)
            times.append(took)
        assert streamed is not None
        exact = exact or streamed
        found[precision] = {
            "seconds": statistics.median(times),
            "all_seconds": times,
            "gpu_peak": peak_on(devices),
            "planned_gpu_peak": streamed.schedule.gpu_peak,
            **errors(streamed, exact, formulas, work.labels),
            "said": None if streamed.precision_loss is None else streamed.precision_loss.as_dict(),
        }
        print(f"{precision}: {found[precision]['seconds']:.1f} s", file=sys.stderr)
    print(
        f"{describe_machine(about)}\n{', '.join(gpus) or 'no GPU: the processor'}; {rows} x {columns} texts\n"
    )
    lines = []
    for precision, figures in found.items():
        said = figures["said"]
        lines.append(
            [
                precision,
                f"{figures['seconds']:.1f}",
                f"{found['float32']['seconds'] / figures['seconds']:.2f}",
                *(f"{figures['kernels'][f]:.1e}" for f in formulas),
                *(f"{error:.1e}" for error in figures["coefficients"].values()),
                "" if said is None else ", ".join(f"{error:.1e}" for error in said["kernels"].values()),
                "" if said is None else f"{said['logits']:.1e}",
                shown_bytes(figures["gpu_peak"]) if figures["gpu_peak"] else "-",
                shown_bytes(figures["planned_gpu_peak"]) if figures["planned_gpu_peak"] else "-",
            ]
        )
    ridge = [f"{formula} ridge" for formula in formulas if formula != "asigngd"]
    print_table(["", "s", "x float32", *formulas, *ridge, "said", "logits", "GPU", "planned"], lines)
    kept_to = budget is None or all(figures["gpu_peak"] <= budget for figures in found.values())
    if not kept_to:
        print(f"FAILED: a GPU held more than {given.device_memory}", file=sys.stderr)
    write_json(
        given.json,
        {
            "benchmark": "gpu",
            "machine": about,
            "gpus": gpus,
            "rows": rows,
            "columns": columns,
            "device_memory": budget,
            "precisions": found,
        },
    )
    return 0 if kept_to else 1


if __name__ == "__main__":
    sys.exit(main())
