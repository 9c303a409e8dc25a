"""Measure the bundled model and write its card: masked-token loss, and zero-shot accuracy of "It was {mask}.".

    python tools/model_card.py --pretraining build/pretrain --data DATA --model src/lmntk/bundled/model

The loss is on the chunks that training never saw (15 % of the tokens masked, as is usual for this figure). Zero-shot
accuracy is that of the sign of f = logit(great) - logit(terrible), and, since a prompt's threshold is biased, also with the
median of f over the test texts as the threshold (which uses the test texts, but none of their labels).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from pretrain import LENGTHS, held_out_loss

from lmntk.models.loading import load_pretrained
from lmntk.models.logit_model import PromptModel
from lmntk.prompts import Limits, PromptEncoder, collate, length_sorted_batches
from lmntk.tasks import get_task, read_data

EXAMPLES = (
    "The movie was<mask>.",
    "What a waste of time, it was<mask>.",
    "The<mask> said on Monday that profits fell.",
)


def zero_shot(pretrained, task: str, data: Path) -> dict[str, float]:
    """Return the accuracy of f > 0 and of f > median(f) on a task's test texts, and their number."""
    known = get_task(task)
    examples = read_data(data, known).test
    encoder = PromptEncoder(
        pretrained.tokenizer,
        known.template,
        known.label_words,
        Limits(known.max_length, known.text_a_limit),
    )
    model = PromptModel(pretrained.network, encoder.label_ids, difference=True)
    texts = [encoder.encode(example) for example in examples]
    logits = torch.empty(len(texts))
    with torch.no_grad():
        for chosen in length_sorted_batches([len(text.ids) for text in texts], 64):
            logits[chosen] = model(collate([texts[i] for i in chosen], pretrained.tokenizer.pad_token_id))[
                :, 0
            ]
    labels = torch.tensor([example.label for example in examples])
    right = {"sign": logits > 0, "median": logits > logits.median()}
    return {name: float((found == (labels == 1)).float().mean()) for name, found in right.items()} | {
        "texts": len(texts)
    }


def fill(pretrained, text: str) -> str:
    """Return the five likeliest tokens at the mask."""
    encoded = pretrained.tokenizer(text, return_tensors="pt")
    place = (encoded["input_ids"][0] == pretrained.tokenizer.mask_token_id).nonzero().item()
    with torch.no_grad():
        likely = pretrained.network(**encoded).logits[0, place].softmax(-1).topk(5)
    words = [pretrained.tokenizer.decode([index]).strip() for index in likely.indices.tolist()]
    return ", ".join(f"{word} {value:.2f}" for word, value in zip(words, likely.values.tolist(), strict=True))


def main() -> None:
    """Measure, print and write the card."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--pretraining", type=Path, required=True, help="the working folder of tools/pretrain.py"
    )
    parser.add_argument("--history", default="", help="how the training went, in words")
    parser.add_argument("--data", type=Path, required=True, help="folder of the tasks' texts")
    parser.add_argument(
        "--model", type=Path, required=True, help="the exported model; the card is written beside it"
    )
    args = parser.parse_args()
    pretrained = load_pretrained(str(args.model))
    arrays = {length: np.load(args.pretraining / f"chunks-{length}.npy", mmap_mode="r") for length in LENGTHS}
    loss = held_out_loss(pretrained.network, arrays)
    pretrained.network.eval()
    tokens = {
        length: counts["tokens"]
        for length, counts in json.loads((args.pretraining / "prepared.json").read_text()).items()
    }
    steps = json.loads((args.pretraining / "log.jsonl").read_text().splitlines()[-1])["step"]
    lines = [
        "# The bundled masked language model",
        "",
        "A RoBERTa of 4 layers, 256 wide, 4 heads, with a byte-level BPE of 8,192 tokens and a tied decoder:",
        f"{sum(p.numel() for p in pretrained.network.parameters()):,} parameters, stored in float16, computed with in float32.",
        "Trained from nothing by `tools/pretrain.py` on public English text, mostly film reviews and old books:",
        f"{steps:,} steps of 4,096 tokens, out of {sum(tokens.values()) / 1e6:.0f} M tokens prepared.",
        args.history,
        "",
        f"Masked-token loss on held-out text: **{loss:.2f} nats** (ln 8192 = 9.01 is knowing nothing).",
        "",
        '| zero-shot, "{a} It was {mask}.", terrible / great | texts | accuracy | with the median over these same texts as threshold |',
        "|---|---|---|---|",
    ]
    for task in ("sst-2", "mr"):
        found = zero_shot(pretrained, task, args.data)
        lines.append(
            f"| {get_task(task).title} | {found['texts']} | {found['sign']:.3f} | {found['median']:.3f} |"
        )
    lines += [
        "",
        "What it fills in:",
        "",
        *(f'* "{text}" -> {fill(pretrained, text)}' for text in EXAMPLES),
        "",
    ]
    lines += [
        "It knows film reviews and little else; it is here so that the demonstration and the tests need no network.",
        "",
    ]
    card = "\n".join(lines)
    print(card)
    (args.model / "README.md").write_text(card, encoding="utf8")


if __name__ == "__main__":
    main()
