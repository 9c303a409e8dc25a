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
from pathlib import Path
from typing import Any

import torch
import transformers
from tiny_architectures import BEGIN, END, MASK, PAD, VOCABULARY, tiny_config
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from lmntk import Example, PromptEncoder, UserError, compute_kernels, load_pretrained
from lmntk.errors import ModelError
from lmntk.models.kinds import KINDS, auto_class, kinds_of
from lmntk.prompts import Limits

SECONDS, MEMORY = 90, 8 * 2**30
TOLERANCE = 1e-5  # relative, of the whole kernel; libraries compute norms and angles in float32
WORDS = ("bad", "fine", "great")
TEXTS = {
    "train": ("a b c d e", "f g", "c c a h i j k l m b"),
    "eval": ("m a", "e d c b a f g h", "l"),
}
LANGUAGE = [kind for kind in KINDS if kind != "classifier"]


def architectures() -> list[tuple[str, str, type[Any]]]:
    """Return kind, type of model and class of configuration of every architecture with a language model's class."""
    found = {}
    for kind in LANGUAGE:
        for config in auto_class(kind)._model_mapping:
            found.setdefault((config.model_type, config.__name__), {"config": config, "kinds": []})["kinds"].append(kind)
    return [(kind, name[0], entry["config"]) for name, entry in sorted(found.items()) for kind in entry["kinds"]]


def write_tokenizer(folder: Path, kind: str) -> None:
    """Write a tokenizer of whole words: single letters, the label words and the prompt's."""
    specials = ["<pad>", "<s>", "</s>", "<unk>", "<mask>"]
    words = [*specials, "it", "was", ".", *WORDS, *"abcdefghijklm"]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    around = {"masked": "<s> $A </s>", "seq2seq": "$A </s>"}.get(kind, "<s> $A")
    backend.post_processor = TemplateProcessing(single=around, pair=f"{around} $B:1", special_tokens=[("<s>", BEGIN), ("</s>", END)])
    PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>", mask_token="<mask>",
        cls_token="<s>", sep_token="</s>", model_max_length=64, model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)  # fmt: skip


def build(kind: str, config: type[Any], folder: Path) -> None:
    """Write a tiny model with every parameter, biases and norms too, moved away from 0 and 1."""
    torch.manual_seed(0)
    network = auto_class(kind).from_config(tiny_config(config))
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.is_floating_point():
                parameter.copy_(0.5 * parameter.nan_to_num() + 0.1 * torch.randn_like(parameter))
    network.float().save_pretrained(folder)
    write_tokenizer(folder, kind)


def plain_network(kind: str, folder: Path) -> Any:
    """Return the network as transformers loads it, in float64."""
    config = transformers.AutoConfig.from_pretrained(folder)
    config._experts_implementation = "eager"  # the other one has no float64
    return auto_class(kind).from_pretrained(folder, config=config, dtype=torch.float64).eval()


def plain_jacobian(network: Any, texts: Any, labels: list[int]) -> torch.Tensor:
    """Return the Jacobian [n, c, p] of the label words' logits, one text and logit at a time."""
    parameters = [parameter for parameter in network.parameters() if parameter.is_floating_point()]
    rows = []
    for text in texts:
        inputs = {"input_ids": torch.tensor([text.ids]), "attention_mask": torch.ones(1, len(text.ids), dtype=torch.long)}
        if text.decoder_ids is not None:
            inputs["decoder_input_ids"] = torch.tensor([text.decoder_ids])
        logits = network(**inputs).logits[0, text.read_position][labels]
        if not bool(torch.isfinite(logits).all()):
            raise ValueError("the logits of plain transformers are not finite")
        gradients = [torch.autograd.grad(each, parameters, retain_graph=True, allow_unused=True) for each in logits]
        rows.append(torch.stack([torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(of_logit, parameters, strict=True)]) for of_logit in gradients]))
    return torch.stack(rows)


def trial(kind: str, config: type[Any]) -> dict[str, Any]:
    """Return how one architecture fares."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            build(kind, config, folder)
        except Exception as error:
            return {"status": "not built", "reason": _reason(error)}
        template = "{a} it was {mask} ." if kind == "masked" else "{a} it was"
        examples = {side: [Example(text, None, None) for text in texts] for side, texts in TEXTS.items()}
        expected: Any = None
        try:
            network = plain_network(kind, folder)
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
            reading = {"masked": "mask", "causal": "last", "seq2seq": "decoder"}[kind]
            start = getattr(network.config, "decoder_start_token_id", None)
            encoder = PromptEncoder(tokenizer, template, WORDS, Limits(40), reading=reading, decoder_start=END if start is None else start)  # type: ignore[arg-type]
            encoded = {side: [encoder.encode(example) for example in part] for side, part in examples.items()}
            left, right = (plain_jacobian(network, encoded[side], list(encoder.label_ids)) for side in TEXTS)
            expected = torch.einsum("ncp,mdp->ncmd", left, right)
            del network, left, right
        except Exception as error:
            return {"status": "not run", "reason": _reason(error)}
        try:
            pretrained = load_pretrained(str(folder), "float64", kind=kind if kind in kinds_of(transformers.AutoConfig.from_pretrained(folder)) else "auto")
            encoder = PromptEncoder(pretrained.tokenizer, template, WORDS, Limits(40), reading=pretrained.reading("prompt"), decoder_start=pretrained.decoder_start)  # type: ignore[arg-type]
            computed = compute_kernels(pretrained, encoder, examples["train"], examples["eval"], ("sgd",), all_logits=True)
        except (UserError, ModelError) as error:
            return {"status": "refused", "reason": _reason(error).replace(str(folder), "MODEL")}
        except Exception as error:
            return {"status": "failed", "reason": _reason(error), "trace": traceback.format_exc()[-2500:]}
        got = torch.from_numpy(computed.kernels["sgd"].values)
        distance = float((got - expected).norm() / expected.norm())
        return {
            "status": "exact" if distance < TOLERANCE else "wrong",
            "error": distance,
            "batched": computed.coverage.batched,
            "fallback": len([name for name in computed.coverage.fallback if name not in computed.coverage.unused]),
            "reason": computed.coverage.describe(),
        }


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
            outcome = {"status": "failed", "reason": _reason(error), "trace": traceback.format_exc()[-2500:]}
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
    return {"status": "failed", "reason": f"no answer within {SECONDS} s" if not ready else "the process died"}


def main() -> None:
    """Try what is asked for and is not in the file yet, and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="types of models; all by default")
    parser.add_argument("--out", type=Path, default=Path("build/architectures.jsonl"), help="the trials' file, a line a trial")
    parser.add_argument("--again", nargs="*", default=[], help="outcomes to try once more")
    parser.add_argument("--trace", action="store_true", help="print tracebacks")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    kept = {}
    if args.out.exists():
        kept = {(row["type"], row["config"], row["kind"]): row for row in map(json.loads, args.out.read_text().splitlines())}
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
        print(f"{row['status']:9s} {kind:7s} {name:24s} {row['seconds']:5.1f} s  {row.get('error', 0):.1e}  {row['reason'][:160]}", flush=True)
        if args.trace and "trace" in row:
            print(row["trace"], flush=True)
    print(Counter(row["status"] for row in kept.values()))


if __name__ == "__main__":
    sys.exit(main())
