"""Try every architecture of the installed transformers once: lmntk's kernel of a tiny random model against plain autograd.

    python tools/architectures.py --out build/architectures.jsonl [MODEL_TYPE ...] [--again failed]

Each is built tiny (``tiny_architectures.py``), written to a folder with a tokenizer, and read back twice: by transformers
alone, whose logits are differentiated one text and one logit at a time in float64; and by lmntk on the way of
``lmntk kernel``. A model's trial runs in a process of its own, with limits of time and memory; trials that are in the
file are not repeated. What comes out: *exact*; *refused*, by lmntk in one line; *failed*, with a traceback; *wrong*,
with another kernel; or *not run*, since plain transformers itself cannot.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tiny_architectures import BEGIN, END, tiny_config
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from lmntk import Example, PromptEncoder, UserError, compute_kernels, load_pretrained
from lmntk.errors import ModelError
from lmntk.models.kinds import auto_class
from lmntk.prompts import EncodedText, Limits

SECONDS, MEMORY = 90, 8 * 2**30
# relative, of the whole kernel; libraries compute norms and angles in float32
TOLERANCE = {"float64": 1e-5, "float32": 1e-3}
LENGTH = 40
EXACT = "exact"
WORDS = ("x", "y", "z")  # single letters, which every tokenizer keeps whole
TEXTS = {
    "train": ("a b c d e", "f g", "c c a h i j k l m b"),
    "eval": ("m a", "e d c b a f g h", "l"),
}


def architectures() -> list[tuple[str, str, type[Any]]]:
    """Return kind, type of model and class of configuration of every language model's class, each once.

    An encoder-decoder's class is filed under several kinds, and read as a sequence-to-sequence model.
    """
    found: dict[tuple[str, str], tuple[str, str, type[Any]]] = {}
    for kind in ("seq2seq", "masked", "causal"):
        for config, network in auto_class(kind)._model_mapping.items():
            networks = network if isinstance(network, tuple) else (network,)
            found.setdefault((config.__name__, networks[0].__name__), (kind, config.model_type, config))
    return sorted(found.values(), key=lambda each: (each[1], each[0], each[2].__name__))


def write_tokenizer(folder: Path, kind: str) -> None:
    """Write a tokenizer of whole words: single letters, the label words and the prompt's."""
    specials = ["<pad>", "<s>", "</s>", "<unk>", "<mask>"]
    words = [*specials, "it", "was", ".", *WORDS, *"abcdefghijklm"]
    backend = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    around = {"masked": "<s> $A </s>", "seq2seq": "$A </s>"}.get(kind, "<s> $A")
    backend.post_processor = TemplateProcessing(
        single=around, pair=f"{around} $B:1", special_tokens=[("<s>", BEGIN), ("</s>", END)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>", mask_token="<mask>",
        cls_token="<s>", sep_token="</s>", model_max_length=64, model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)  # fmt: skip


def build(kind: str, config: type[Any], folder: Path) -> None:
    """Write a tiny model with every parameter, biases and norms too, moved away from 0 and 1."""
    torch.manual_seed(0)
    # an encoder's causal twin is one only as a decoder
    as_decoder = kind == "causal" and config in auto_class("masked")._model_mapping
    network = auto_class(kind).from_config(
        tiny_config(config, **({"is_decoder": True} if as_decoder else {}))
    )
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.is_floating_point():
                parameter.copy_(0.5 * parameter.nan_to_num() + 0.1 * torch.randn_like(parameter))
    network.float().save_pretrained(folder)
    write_tokenizer(folder, kind)


def plain_network(kind: str, folder: Path, dtype: torch.dtype) -> Any:
    """Return the network as transformers loads it."""
    config = transformers.AutoConfig.from_pretrained(folder)
    if dtype == torch.float64:
        config._experts_implementation = "eager"  # the other one has no float64
    return auto_class(kind).from_pretrained(folder, config=config, dtype=dtype).eval()


def plain_jacobian(network: Any, texts: Sequence[EncodedText], labels: Sequence[int]) -> torch.Tensor:
    """Return the Jacobian [n, c, p] of the label words' logits, one text and logit at a time."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    rows = []
    for text in texts:
        ids = torch.tensor([text.ids])
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if text.decoder_ids is not None:
            inputs["decoder_input_ids"] = torch.tensor([text.decoder_ids])
        logits = network(**inputs).logits[0, text.read_position][list(labels)]
        gradients = [
            torch.autograd.grad(each, parameters, retain_graph=True, allow_unused=True) for each in logits
        ]
        for of_logit in gradients:
            parts = [
                torch.zeros_like(p) if g is None else g for g, p in zip(of_logit, parameters, strict=True)
            ]
            rows.append(torch.cat([part.flatten() for part in parts]))
        if not bool(torch.isfinite(torch.stack(rows[-len(labels) :])).all() and torch.isfinite(logits).all()):
            raise ArithmeticError("logits or gradients are not finite")
    return torch.stack(rows).reshape(len(texts), len(labels), -1)


def trial(kind: str, config: type[Any]) -> dict[str, Any]:
    """Return how one architecture fares; in float32 where transformers has no float64 for it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            build(kind, config, folder)
        except Exception as error:
            return {"status": "not built", "reason": _reason(error)}
        prompt = Prompt("{a} it was {mask} ." if kind == "masked" else "{a} it was", kind)
        reason = ""
        for dtype in ("float64", "float32"):
            try:
                expected = plain_kernel(kind, folder, prompt, getattr(torch, dtype))
            except Exception as error:
                reason = reason or _reason(error)
                continue
            return compared(folder, prompt, dtype, expected)
        return {"status": "not run", "reason": reason}


@dataclass(frozen=True)
class Prompt:
    """The prompt of a kind of model, and its texts."""

    template: str
    kind: str

    def encoder(self, tokenizer: Any, reading: Any, start: int | None) -> PromptEncoder:
        """Return the encoder of the texts."""
        return PromptEncoder(
            tokenizer, self.template, WORDS, Limits(LENGTH), reading=reading, decoder_start=start
        )

    def examples(self, side: str) -> list[Example]:
        """Return the texts of a side."""
        return [Example(text) for text in TEXTS[side]]


def plain_kernel(kind: str, folder: Path, prompt: Prompt, dtype: torch.dtype) -> torch.Tensor:
    """Return the kernel [n, c, m, c] by plain autograd on what transformers loads."""
    network = plain_network(kind, folder, dtype)
    decodes = network.config.is_encoder_decoder
    reading = "mask" if kind == "masked" else "decoder" if decodes else "last"
    start = network.config.decoder_start_token_id if decodes else None
    encoder = prompt.encoder(transformers.AutoTokenizer.from_pretrained(folder), reading, start)
    left, right = (
        plain_jacobian(
            network, [encoder.encode(example) for example in prompt.examples(side)], encoder.label_ids
        )
        for side in TEXTS
    )
    return torch.einsum("ncp,mdp->ncmd", left.double(), right.double())


def compared(folder: Path, prompt: Prompt, dtype: str, expected: torch.Tensor) -> dict[str, Any]:
    """Return how lmntk's kernel, on the way of ``lmntk kernel``, compares with the expected one."""
    try:
        pretrained = load_pretrained(str(folder), dtype)
        encoder = prompt.encoder(pretrained.tokenizer, pretrained.reading("prompt"), pretrained.decoder_start)
        sides = (prompt.examples(side) for side in TEXTS)
        computed = compute_kernels(pretrained, encoder, *sides, ("sgd",), all_logits=True)
    except (UserError, ModelError) as error:
        # plain transformers runs it, so this is no refusal
        status = (
            "failed" if isinstance(error.__cause__, Exception) and "cannot run" in str(error) else "refused"
        )
        return {"status": status, "reason": _reason(error).replace(str(folder), "MODEL"), "trace": _trace()}
    except Exception as error:
        return {"status": "failed", "reason": _reason(error), "trace": _trace()}
    distance = float((torch.from_numpy(computed.kernels["sgd"].values) - expected).norm() / expected.norm())
    coverage = computed.coverage
    return {
        "status": "exact" if distance < TOLERANCE[dtype] else "wrong",
        "error": distance,
        "dtype": dtype,
        "batched": coverage.batched,
        "autograd": len([name for name in coverage.fallback if name not in coverage.unused]),
        "reason": coverage.describe(),
    }


def _trace() -> str:
    return traceback.format_exc()[-3000:]


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def in_a_process(kind: str, config: type[Any]) -> dict[str, Any]:
    """Return a trial's outcome; its process is ended when it takes too long."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1), os.dup2(null, 2)
        try:
            outcome = trial(kind, config)
        except BaseException as error:
            outcome = {"status": "failed", "reason": _reason(error), "trace": _trace()}
        with os.fdopen(writer, "w") as stream:
            json.dump(outcome, stream)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        ready, _, _ = select.select([stream], [], [], SECONDS)
        if not ready:
            os.kill(child, signal.SIGKILL)
        text = stream.read()
    os.waitpid(child, 0)
    if text:
        return dict(json.loads(text))
    return {
        "status": "failed",
        "reason": f"no answer within {SECONDS} s" if not ready else "the process died",
    }


def table(rows: Iterable[dict[str, Any]]) -> str:
    """Return the outcomes as a table of Markdown, refusals and what was not run by their reasons."""
    groups: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        groups.setdefault(described(row), {}).setdefault(row["kind"], []).append(row["type"])
    order = sorted(
        groups, key=lambda name: (not name.startswith("exact"), -sum(map(len, groups[name].values())))
    )
    lines = ["| outcome | masked | causal | seq2seq | which |", "|---|---|---|---|---|"]
    for name in order:
        by_kind = {kind: sorted(set(names)) for kind, names in groups[name].items()}
        counts = " | ".join(str(len(groups[name].get(kind, []))) for kind in ("masked", "causal", "seq2seq"))
        which = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in sorted(by_kind.items()))
        lines.append(f"| {name} | {counts} | {'all others' if name == EXACT else which} |")
    return "\n".join(lines)


def described(row: dict[str, Any]) -> str:
    """Return an outcome in words, under which others like it are counted."""
    if row["status"] != "exact":
        plainly = {"not built": "not built", "not run": "plain transformers does not run it"}
        return f"{plainly.get(row['status'], row['status'])}: {row['reason'][:90].replace('|', '/')}"
    how = [] if row["batched"] else ["one text at a time"]
    how += ["some parameters by plain autograd"] if row["autograd"] else []
    how += ["in float32"] if row["dtype"] == "float32" else []
    return EXACT + "".join(f", {each}" for each in how)


def main() -> None:
    """Try what is asked for and is not in the file yet, and print the counts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="types of models; all by default")
    parser.add_argument(
        "--out", type=Path, default=Path("build/architectures.jsonl"), help="the trials' file, a line a trial"
    )
    parser.add_argument("--again", nargs="*", default=[], help="outcomes to try once more")
    parser.add_argument("--trace", action="store_true", help="print tracebacks")
    parser.add_argument("--table", action="store_true", help="print the outcomes as a table of Markdown")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    kept = {}
    if args.out.exists():
        kept = {
            (row["type"], row["config"], row["kind"]): row
            for row in map(json.loads, args.out.read_text().splitlines())
        }
    chosen = [each for each in architectures() if not args.names or each[1] in args.names]
    for kind, name, config in chosen:
        key = (name, config.__name__, kind)
        if key in kept and not args.names and kept[key]["status"] not in args.again:
            continue
        started = time.perf_counter()
        row = {"type": name, "config": config.__name__, "kind": kind, **in_a_process(kind, config)}
        row["seconds"] = round(time.perf_counter() - started, 1)
        kept[key] = row
        with args.out.open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        print(
            f"{row['status']:9s} {kind:7s} {name:24s} {row['seconds']:5.1f} s  {row.get('error', 0):.1e}  {row['reason'][:160]}",
            flush=True,
        )
        if args.trace and "trace" in row:
            print(row["trace"], flush=True)
    counts = Counter(row["status"] for row in kept.values())
    run = sum(count for status, count in counts.items() if status not in ("not built", "not run"))
    print(table(kept.values()) if args.table else dict(counts))
    print(f"{counts['exact']} of {run} that plain transformers runs are exact, {len(kept)} classes in all")


if __name__ == "__main__":
    sys.exit(main())
