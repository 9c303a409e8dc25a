"""Train the small masked language model that lmntk ships, from raw English text.

    python tools/pretrain.py --corpus CORPUS --out build/pretrain --steps 6000
    python tools/pretrain.py --out build/pretrain --export src/lmntk/bundled/model

The corpus is any folder of ``*.txt.xz`` or ``*.txt`` files. The recipe: a byte-level BPE vocabulary, chunks of whole
sentences, 25 % of the tokens replaced by ``<mask>`` and the loss taken on those alone, Muon for the
hidden matrices (it reaches a given loss in about half of AdamW's steps at this size) and AdamW for everything else,
a linear warm-up and a linear decay. Step s draws its batch from (seed, s) only, so a run that is interrupted and
started again sees the same batches. From step ``--stress-from`` on, training dwells on words that judge: batches come
from chunks that have one of ``--stress-words``, and half of those words but few others are masked, so that a judgement must
be read off the rest of the text (SKEP, Tian et al. 2020, masks sentiment words for the same reason). Checkpoints are
safetensors, written to a temporary name and renamed.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import ByteLevelBPETokenizer
from transformers import AutoTokenizer, RobertaConfig, RobertaForMaskedLM, RobertaTokenizer

LENGTHS = (32, 64, 128)  # tokens a chunk, <s> and </s> included
CHARACTERS_PER_TOKEN = 4.2  # of an 8k byte-BPE on this corpus; only decides where chunks are cut
SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
HELD_OUT_CHUNKS = 512  # a length; never trained on
STRESSED_SHARE = 0.5
UNSTRESSED_SHARE = (
    0.06  # of the other words, while training dwells on the stressed ones: they are what is read
)
STRESS_WORDS = (
    "great good excellent wonderful brilliant amazing fantastic superb perfect beautiful best fun funny enjoyable loved love "
    "terrible bad awful horrible boring stupid poor dull worst ridiculous annoying lame waste disappointing hated weak"
)
SENTENCE_END = re.compile(r"(?<=[.!?]) +")


def read_documents(corpus: Path) -> Iterator[str]:
    """Yields the non-empty lines of every text file of the corpus, file by file."""
    for path in sorted([*corpus.glob("*.txt.xz"), *corpus.glob("*.txt")]):
        if path.name.endswith(".files.txt"):  # a list of sources, not text
            continue
        opener = lzma.open if path.suffix == ".xz" else open
        with opener(path, "rt", encoding="utf8") as lines:
            yield from (line.strip() for line in lines if line.strip())


def cut_into_chunks(document: str, length: int) -> Iterator[str]:
    """Yields runs of whole sentences of about ``length`` tokens."""
    limit = int(length * CHARACTERS_PER_TOKEN)
    chunk = ""
    for sentence in SENTENCE_END.split(document):
        if chunk and len(chunk) + len(sentence) > limit:
            yield chunk
            chunk = ""
        chunk = f"{chunk} {sentence}" if chunk else sentence
    if len(chunk) > 20:
        yield chunk


def prepare(corpus: Path, out: Path, vocabulary_size: int, seed: int) -> None:
    """Trains the tokenizer and writes one array of token chunks per length; does nothing if they exist."""
    if (out / "prepared.json").exists():
        return
    out.mkdir(parents=True, exist_ok=True)
    documents = list(read_documents(corpus))
    if not documents:
        raise SystemExit(f"pretrain: no *.txt or *.txt.xz in {corpus}")
    random = np.random.default_rng(seed)
    random.shuffle(documents)
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(
        documents[:40_000], vocabulary_size, min_frequency=2, special_tokens=SPECIAL_TOKENS
    )
    tokenizer.save_model(str(out))
    RobertaTokenizer(
        vocab=str(out / "vocab.json"), merges=str(out / "merges.txt"), model_max_length=max(LENGTHS)
    ).save_pretrained(out)
    fast = AutoTokenizer.from_pretrained(out)

    counts = {}
    targets = random.choice(LENGTHS, size=len(documents), p=(0.3, 0.4, 0.3))
    for length in LENGTHS:
        chunks = [
            c
            for d, t in zip(documents, targets, strict=True)
            if t == length
            for c in cut_into_chunks(d, length)
        ]
        random.shuffle(chunks)
        rows = np.full((len(chunks), length), fast.pad_token_id, dtype=np.uint16)
        for start in range(0, len(chunks), 10_000):
            encoded = fast(chunks[start : start + 10_000], truncation=True, max_length=length)["input_ids"]
            for offset, ids in enumerate(encoded):
                rows[start + offset, : len(ids)] = ids
        np.save(out / f"chunks-{length}.npy", rows)
        counts[length] = {"chunks": len(chunks), "tokens": int((rows != fast.pad_token_id).sum())}
        print(
            f"{length:4d} tokens: {counts[length]['chunks']:,} chunks, {counts[length]['tokens']:,} tokens",
            flush=True,
        )
    (out / "prepared.json").write_text(json.dumps(counts))


def build_model(vocabulary_size: int, layers: int, width: int) -> RobertaForMaskedLM:
    """Returns a RoBERTa of the given depth and width, with a tied decoder and no dropout."""
    config = RobertaConfig(
        vocab_size=vocabulary_size, hidden_size=width, num_hidden_layers=layers, num_attention_heads=max(1, width // 64),
        intermediate_size=4 * width, max_position_embeddings=max(LENGTHS) + 2, type_vocab_size=1,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, bos_token_id=0, pad_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return RobertaForMaskedLM(config)


def mask_tokens(
    ids: torch.Tensor, shares: torch.Tensor, mask_id: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the ids [b, t] with each token replaced by the mask at its own share, shares[id], and where [b, t]."""
    chosen = (torch.rand(ids.shape, generator=generator) < shares[ids.cpu()]).to(ids.device)
    return torch.where(chosen, mask_id, ids), chosen


def mask_shares(vocabulary_size: int, share: float, stressed: Sequence[int] = ()) -> torch.Tensor:
    """Returns the probability [v] that a token is masked: special tokens never, stressed ones every second time."""
    shares = torch.full((vocabulary_size,), share)
    shares[: len(SPECIAL_TOKENS)] = 0.0
    shares[list(stressed)] = STRESSED_SHARE
    return shares


def masked_loss(
    model: RobertaForMaskedLM, ids: torch.Tensor, shares: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Returns the mean cross-entropy, in nats, of the masked tokens of a batch [b, t]."""
    masked, chosen = mask_tokens(ids, shares, SPECIAL_TOKENS.index("<mask>"), generator)
    hidden = model.roberta(masked, attention_mask=(ids != model.config.pad_token_id).long()).last_hidden_state
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[chosen]).float(), ids[chosen])


def optimizers_of(model: RobertaForMaskedLM, rate: float) -> list[torch.optim.Optimizer]:
    """Returns Muon over the encoder's matrices and AdamW over all other parameters."""
    named = list(model.named_parameters())
    matrices = [p for n, p in named if p.ndim == 2 and ".layer." in n]
    tables = [p for n, p in named if p.ndim == 2 and ".layer." not in n]
    vectors = [p for _, p in named if p.ndim < 2]
    groups = [{"params": tables, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=0.05, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98)),
    ]


def save_checkpoint(
    path: Path, step: int, model: torch.nn.Module, optimizers: list[torch.optim.Optimizer]
) -> None:
    """Writes model and optimizer state as one safetensors file, atomically."""
    tensors = {f"model.{n}": p.detach().contiguous() for n, p in model.named_parameters()}
    for index, optimizer in enumerate(optimizers):
        for key, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}.{n}": torch.as_tensor(v).clone() for n, v in state.items()}
    temporary = path.with_suffix(".partial")
    save_file(tensors, temporary, metadata={"step": str(step)})
    os.replace(temporary, path)


def load_checkpoint(path: Path, model: torch.nn.Module, optimizers: list[torch.optim.Optimizer]) -> int:
    """Restores what ``save_checkpoint`` wrote and returns its step, or 0 when there is none."""
    if not path.exists():
        return 0
    with safe_open(path, "pt") as file:
        step = int(file.metadata()["step"])
    tensors = load_file(path)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"model.{name}"])
    for index, optimizer in enumerate(optimizers):
        content = optimizer.state_dict()
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith(f"optimizer.{index}."):
                _, _, key, field = name.split(".", 3)
                state.setdefault(int(key), {})[field] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": content["param_groups"]})
    return step


def learning_rate_factor(step: int, steps: int, warmup: int) -> float:
    """Returns the linear warm-up, linear decay factor of a step."""
    return min((step + 1) / warmup, max(0.02, (steps - step) / (steps - warmup)))


@torch.no_grad()
def held_out_loss(model: RobertaForMaskedLM, arrays: dict[int, np.ndarray], share: float = 0.15) -> float:
    """Returns the masked-token loss in nats at 15 % masking, averaged over the held-out chunks of every length."""
    model.eval()
    shares = mask_shares(model.config.vocab_size, share)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for rows in arrays.values():
        for start in range(0, HELD_OUT_CHUNKS, 128):
            ids = torch.from_numpy(rows[start : min(start + 128, HELD_OUT_CHUNKS)].astype(np.int64)).to(
                model.device
            )
            losses.append(masked_loss(model, ids, shares, generator).item())
    model.train()
    return float(np.mean(losses))


def train(args: argparse.Namespace) -> None:
    """Runs or continues the training that the arguments describe."""
    torch.set_num_threads(args.threads)
    prepare(args.corpus, args.out, args.vocabulary, args.seed)
    arrays = {length: np.load(args.out / f"chunks-{length}.npy", mmap_mode="r") for length in LENGTHS}
    torch.manual_seed(args.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build_model(args.vocabulary, args.layers, args.width).to(device)
    optimizers = optimizers_of(model, args.rate)
    checkpoint = args.out / "checkpoint.safetensors"
    first = load_checkpoint(checkpoint, model, optimizers)
    print(
        f"{sum(p.numel() for p in model.parameters()):,} parameters, from step {first} to {args.steps} on {device}",
        flush=True,
    )
    tokenizer = AutoTokenizer.from_pretrained(args.out)
    pieces = [
        tokenizer(f" {word}", add_special_tokens=False)["input_ids"] for word in args.stress_words.split()
    ]
    stressed = [ids[0] for ids in pieces if len(ids) == 1]
    with_stress = {length: np.flatnonzero(np.isin(rows, stressed).any(1)) for length, rows in arrays.items()}
    with_stress = {length: found[found >= HELD_OUT_CHUNKS] for length, found in with_stress.items()}
    plain, dwelling = (
        mask_shares(args.vocabulary, args.mask_share),
        mask_shares(args.vocabulary, UNSTRESSED_SHARE, stressed),
    )
    log = args.out / "log.jsonl"
    started, smooth = time.time(), None
    for step in range(first, args.steps):
        random = np.random.default_rng((args.seed, step))
        generator = torch.Generator().manual_seed(int(random.integers(2**62)))
        length = int(random.choice(LENGTHS, p=(0.3, 0.4, 0.3)))
        size = args.batch_tokens // length
        dwells = (
            args.stress_from is not None and step >= args.stress_from and random.random() < args.stress_share
        )
        rows = (
            random.choice(with_stress[length], size)
            if dwells
            else random.integers(HELD_OUT_CHUNKS, len(arrays[length]), size=size)
        )
        ids = torch.from_numpy(arrays[length][np.sort(rows)].astype(np.int64)).to(device)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = args.rate * learning_rate_factor(step, args.steps, args.warmup)
            optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16):
            loss = masked_loss(model, ids, dwelling if dwells else plain, generator)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
        last = step + 1 == args.steps
        saves = (step + 1) % args.save_every == 0 or last
        if saves:
            save_checkpoint(checkpoint, step + 1, model, optimizers)
        if saves or (step + 1) % args.log_every == 0:
            pace = (time.time() - started) / (step + 1 - first)
            entry = {"step": step + 1, "loss": round(smooth, 4), "seconds_per_step": round(pace, 3)}
            if saves:
                entry["held_out"] = round(held_out_loss(model, arrays), 4)
            print(json.dumps(entry), flush=True)
            with log.open("a") as file:
                file.write(json.dumps(entry) + "\n")


def export(args: argparse.Namespace) -> None:
    """Writes the trained model in half precision, with its tokenizer, as a Hugging Face folder."""
    model = build_model(args.vocabulary, args.layers, args.width)
    step = load_checkpoint(args.out / "checkpoint.safetensors", model, [])
    if step == 0:
        raise SystemExit(f"pretrain: no checkpoint in {args.out}; train first")
    model.half().save_pretrained(args.export)
    AutoTokenizer.from_pretrained(args.out).save_pretrained(args.export)
    size = sum(p.stat().st_size for p in args.export.iterdir())
    print(f"{args.export}: step {step}, {size / 2**20:.1f} MiB")


def main() -> None:
    """Parses the command line and trains, or exports."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, help="folder of *.txt or *.txt.xz; needed to train")
    parser.add_argument(
        "--out", type=Path, required=True, help="working folder: tokenizer, chunks, checkpoint, log"
    )
    parser.add_argument("--export", type=Path, help="write the trained model here and stop")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--warmup", type=int, default=200)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate, of Muon and of AdamW")
    parser.add_argument("--mask-share", type=float, default=0.25)
    parser.add_argument(
        "--stress-from", type=int, help="the step from which training dwells on the stressed words"
    )
    parser.add_argument(
        "--stress-share", type=float, default=1.0, help="of the batches from then on, the share that dwells"
    )
    parser.add_argument(
        "--stress-words", default=STRESS_WORDS, help="separated by spaces; those that are one token count"
    )
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log-every", type=int, default=50)
    parser.add_argument("--save-every", type=int, default=500)
    args = parser.parse_args()
    if args.corpus is None and not args.export:
        parser.error("--corpus is needed to train: a folder of *.txt or *.txt.xz")
    (export if args.export else train)(args)


if __name__ == "__main__":
    main()
