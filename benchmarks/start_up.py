"""What the start-up checks cost at RoBERTa-base's shape, beside gradients alone and beside a 32 x 1000 run.

    OMP_NUM_THREADS=2 python benchmarks/start_up.py                # minutes, 3 GB
    python benchmarks/start_up.py --cpu-time --json figures.json   # where other work runs beside it
    python benchmarks/start_up.py --quick                          # seconds: a tiny network

The claim: they take at most 10 % of the run. The network has random weights; texts are of 16 to 128 tokens.

*gradients alone*: the two extreme texts' captured gradients beside plain autograd's in one padded batch; no comparison with texts
alone, of logits or of a kernel entry. That is all that was checked at the start before there was a list of invariants.
*all checks*: ``check_texts``, as every command has it. Each is timed once, after one pass that is not.
*run*: of 32 x 1000 texts, from the time that capturing a batch of 8 takes a token and contracting 8 x 8 texts takes a pair.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import torch
import transformers as hf
from measuring import describe_machine, machine, print_table, seconds, write_json

from lmntk.engine.start_up import check_texts
from lmntk.kernels.gram import Panel, gram
from lmntk.models.logit_model import PromptModel
from lmntk.prompts.batching import collate
from lmntk.prompts.encoding import EncodedText
from lmntk.tangents.coverage import check_coverage

CLAIM = 0.1
TRAIN, EVALUATION = 32, 1000
BATCH = 8
PAD_ID = 1
LABEL_IDS = (6587, 372)
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def texts_of(count: int, chance: random.Random) -> list[EncodedText]:
    """Returns random texts of 16 to 128 tokens, the extremes among them."""
    lengths = [16, 128, *(chance.randint(16, 128) for _ in range(count - 2))]
    return [
        EncodedText(tuple(chance.randrange(10, 40000) for _ in range(length)), length // 2, None)
        for length in lengths
    ]


def main() -> int:
    """Prints the figures; returns 1 if the claim does not hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a tiny network")
    parser.add_argument(
        "--cpu-time", action="store_true", help="processor time of this process, not wall time"
    )
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    clock = time.process_time if given.cpu_time else time.perf_counter
    found = machine()
    print(describe_machine(found))
    torch.manual_seed(0)
    shape = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1}
    network = hf.RobertaForMaskedLM(hf.RobertaConfig(**shape, **(SMALL if given.quick else {})))
    model = PromptModel(network.eval(), LABEL_IDS, True)
    trainable = dict(model.named_parameters())
    texts = texts_of(TRAIN, random.Random(0))
    extremes = collate([texts[0], texts[1]], PAD_ID)

    def collated(some: list[EncodedText]) -> dict[str, torch.Tensor]:
        return collate(some, PAD_ID)

    model(extremes)
    before, earlier = seconds(lambda: check_coverage(model, extremes, trainable), clock)
    after, coverage = seconds(lambda: check_texts(model, trainable, texts, collated), clock)
    few = collate(texts[:BATCH], PAD_ID)
    capturing, tangents = seconds(lambda: coverage.capture(model, few, trainable), clock)
    panel = Panel([tangents])
    contracting, _ = seconds(lambda: gram(panel, Panel([tangents]), ["sgd"]), clock)
    padded = few["input_ids"].numel()
    mean = sum(text.length for text in texts) / len(texts)
    run = capturing / padded * mean * (TRAIN + EVALUATION) + contracting / BATCH**2 * TRAIN * EVALUATION
    rows = [
        ["gradients alone", f"{before:.1f}", f"{100 * before / run:.1f} %"],
        ["all checks", f"{after:.1f}", f"{100 * after / run:.1f} %"],
        [f"run of {TRAIN} x {EVALUATION}, estimated", f"{run:.0f}", "100 %"],
    ]
    print_table(["", "seconds", "of the run"], rows)
    print(coverage.describe())
    assert earlier.batched == coverage.batched
    figures = {
        "machine": found,
        "gradients_alone": before,
        "all_checks": after,
        "run": run,
        "share": after / run,
    }
    write_json(given.json, figures)
    return int(after > CLAIM * run)


if __name__ == "__main__":
    raise SystemExit(main())
