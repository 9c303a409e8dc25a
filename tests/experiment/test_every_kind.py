"""Whole commands on every kind of model: kernels beside plain autograd, baselines beside the plain network."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from every_kind import (
    EXACT,
    LOOSE,
    Command,
    assert_close,
    autograd,
    base_of,
    kernel_flags,
    kernel_of,
    network_of,
    read,
    run_flags,
)
from kept import kept_at
from tiny import BASELINES
from torch import Tensor

from lmntk.kernels.kernel import Kernel
from lmntk.system.kept import load_arrays


@dataclass(frozen=True)
class Case:
    """A model, its prompt as flags, and the same prompt as the oracle writes it.

    ``written`` are the prompts with %s for the text; ``classes`` the tokens and weights of each class.
    """

    model: str
    templates: tuple[str, ...]
    words: str
    written: tuple[str, ...]
    classes: tuple[dict[str, float], ...]
    flags: tuple[str, ...] = ()
    decoder: tuple[str, ...] | None = None
    tolerance: float = EXACT

    def logits(self, network: Any, tokenizer: Any, text: str) -> Tensor:
        """Returns the classes' logits [c], or with two classes their difference [1]."""
        whole = torch.stack([self._one(network, tokenizer, written % text) for written in self.written]).mean(
            0
        )
        ids = {token: tokenizer.convert_tokens_to_ids(token) for row in self.classes for token in row}
        assert tokenizer.unk_token is None or tokenizer.unk_token_id not in ids.values()
        classes = torch.stack(
            [sum(weight * whole[ids[token]] for token, weight in row.items()) for row in self.classes]
        )
        return classes if "--all-logits" in self.flags or len(classes) > 2 else classes[1:] - classes[:1]

    def _one(self, network: Any, tokenizer: Any, text: str) -> Tensor:
        encoded = tokenizer(text, return_tensors="pt")
        if self.decoder is not None:
            start = network.config.decoder_start_token_id
            ids = [start, *map(tokenizer.convert_tokens_to_ids, self.decoder)]
            return network(**encoded, decoder_input_ids=torch.tensor([ids])).logits[0, -1]
        places = (
            (encoded["input_ids"][0] == tokenizer.mask_token_id).nonzero()
            if tokenizer.mask_token_id is not None
            else []
        )
        return network(**encoded).logits[0, int(places[0]) if len(places) else -1]


PLAIN = ({"terrible": 1.0}, {"great": 1.0})
BYTES = ({"Ġterrible": 1.0}, {"Ġgreat": 1.0})
SPACED = ({"▁terrible": 1.0}, {"▁great": 1.0})
BERT = Case("bert", ("{a} it was {mask}.",), "terrible,great", ("%s it was [MASK] .",), PLAIN)
GPT2 = Case("gpt2", ("{a} it was",), "terrible,great", ("%s it was",), BYTES)
LLAMA = Case("llama", ("{a} it was",), "terrible,great", ("%s it was",), PLAIN, tolerance=LOOSE)
T5 = Case("t5", ("{a} it was",), "terrible,great", ("%s it was",), SPACED, decoder=(), tolerance=LOOSE)
BART = Case("bart", ("{a} it was",), "terrible,great", ("%s it was",), BYTES, decoder=())
CHAT = Case(
    "chat",
    ("{a} it was",),
    "terrible,great",
    ("<|endoftext|>user:%s it was<|endoftext|>it:",),
    PLAIN,
    flags=("--chat",),
)

CASES = {
    "gpt2": GPT2,
    "chat": CHAT,
    "chat cut at its mask": replace(CHAT, templates=("{a} it was {mask}.",)),
    "chat several templates": replace(
        CHAT,
        templates=("{a} it was", "the film , {a}"),
        written=(*CHAT.written, "<|endoftext|>user:the film , %s<|endoftext|>it:"),
    ),
    "gpt2 cut at its mask": replace(GPT2, templates=("{a} it was {mask}.",)),
    "gpt2 all logits": replace(GPT2, flags=("--all-logits",)),
    "gpt2 several templates": replace(
        GPT2, templates=("{a} it was", "the film , {a} is"), written=("%s it was", "the film , %s is")
    ),
    "gpt2 tokens' mean": replace(
        GPT2,
        words="terrible,superb",
        classes=({"Ġterrible": 1.0}, {"Ġsuper": 0.5, "b": 0.5}),
        flags=("--label-words-reduce", "mean"),
    ),
    "llama": LLAMA,
    "t5 decoder's first": T5,
    "t5 sentinel": replace(
        T5, templates=("{a} it was {mask}",), written=("%s it was<extra_id_0>",), decoder=("<extra_id_0>",)
    ),
    "t5 several templates": replace(
        T5,
        templates=("{a} it was {mask}", "is it {mask} , {a}"),
        written=("%s it was<extra_id_0>", "is it<extra_id_0> , %s"),
        decoder=("<extra_id_0>",),
    ),
    "bart decoder's first": BART,
    "bart mask": replace(BART, templates=("{a} it was {mask}.",), written=("%s it was<mask>.",)),
    "bert several templates": replace(
        BERT,
        templates=("{a} it was {mask}.", "a {mask} film, {a}"),
        written=("%s it was [MASK] .", "a [MASK] film, %s"),
    ),
    "bert several words": replace(
        BERT,
        words="terrible|bad,great|good|fun",
        classes=({"terrible": 1 / 2, "bad": 1 / 2}, dict.fromkeys(("great", "good", "fun"), 1 / 3)),
    ),
    "bert first token": replace(
        BERT,
        words="terrible,superb",
        classes=({"terrible": 1.0}, {"super": 1.0}),
        flags=("--label-words-reduce", "first"),
    ),
    "bert tokens' mean": replace(
        BERT,
        words="terrible,superb|good",
        classes=({"terrible": 1.0}, {"super": 0.25, "##b": 0.25, "good": 0.5}),
        flags=("--label-words-reduce", "mean"),
    ),
    "bert three classes": replace(
        BERT, words="bad,maybe,good", classes=({"bad": 1.0}, {"maybe": 1.0}, {"good": 1.0})
    ),
    "lora on bert": replace(BERT, model="lora-bert"),
    "lora on bert, several templates and words": replace(
        BERT,
        model="lora-bert",
        templates=("{a} it was {mask}.", "a {mask} film, {a}"),
        written=("%s it was [MASK] .", "a [MASK] film, %s"),
        words="terrible|bad,great",
        classes=({"terrible": 0.5, "bad": 0.5}, {"great": 1.0}),
    ),
    "lora on gpt2": replace(GPT2, model="lora-gpt2"),
    "lora on bert's tied head": replace(BERT, model="lora-head-bert"),
    "lora on gpt2, its head trained": replace(GPT2, model="lora-saved-gpt2"),
}
EVERY_PROMPT = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


# --- prompt mode ------------------------------------------------------------------------------------------------------------------


@EVERY_PROMPT
def test_the_kernel_of_a_prompt_is_that_of_plain_autograd(
    folder: Path, tmp_path: Path, lmntk: Command, case: Case
) -> None:
    lmntk.works(*kernel_flags(folder, case.model, case.templates, case.words, tmp_path / "k", *case.flags))
    network, tokenizer = (
        network_of(folder, case.model),
        hf.AutoTokenizer.from_pretrained(folder / base_of(case.model)),
    )
    logits = {
        side: [case.logits(network, tokenizer, row["text_a"]) for row in read(folder / f"{name}.jsonl")]
        for side, name in (("train", "few"), ("eval", "other"))
    }
    kept, _ = load_arrays(tmp_path / "k" / "logits.safetensors")
    for side, expected in logits.items():
        assert_close(kept[side], torch.stack(expected).detach().numpy(), case.tolerance)
    found = Kernel.load(tmp_path / "k" / "sgd.safetensors").values
    assert_close(
        found,
        kernel_of(autograd(network, logits["train"]), autograd(network, logits["eval"])),
        case.tolerance,
    )


RUNS = {
    "gpt2": GPT2,
    "chat": CHAT,
    "llama": LLAMA,
    "t5": T5,
    "bart": CASES["bart mask"],
    "lora on bert": CASES["lora on bert"],
    "several templates and words": replace(
        CASES["bert several templates"],
        words="terrible|bad,great",
        classes=({"terrible": 0.5, "bad": 0.5}, {"great": 1.0}),
    ),
}


@pytest.mark.parametrize("case", RUNS.values(), ids=RUNS)
def test_a_run_of_a_prompt_starts_at_zero_shot_and_is_found_again(
    folder: Path, tmp_path: Path, lmntk: Command, case: Case
) -> None:
    prompts = [part for template in case.templates for part in ("--template", template)]
    prompts += ["--ensemble"] * (len(case.templates) > 1)
    flags = run_flags(folder, case.model, tmp_path, *prompts, "--label-words", case.words, *case.flags)
    rows = json.loads(lmntk.works(*flags))
    assert [row["method"] for row in rows] == [*BASELINES, "sgd ridge"]
    network, tokenizer = (
        network_of(folder, case.model),
        hf.AutoTokenizer.from_pretrained(folder / base_of(case.model)),
    )
    texts = read(folder / "test.jsonl")
    with torch.no_grad():
        expected = torch.stack([case.logits(network, tokenizer, row["text_a"]) for row in texts]).numpy()
    logits, _ = load_arrays(kept_at(tmp_path / "kernels" / "own-k2-seed13-prompt") / "logits.safetensors")
    assert_close(logits["test"], expected, case.tolerance)
    assert rows[0]["test"] == pytest.approx(np.mean((expected[:, 0] > 0) == [row["label"] for row in texts]))
    streams = lmntk.streams
    assert json.loads(lmntk.works(*flags)) == rows
    assert lmntk.streams == streams == 1


def test_a_causal_prompt_with_a_mask_at_its_end_is_the_one_without(
    folder: Path, tmp_path: Path, lmntk: Command
) -> None:
    outcomes = []
    for name, template in (("plain", "{a} it was"), ("mask", "{a} it was {mask}")):
        lmntk.works(*kernel_flags(folder, "gpt2", [template], "terrible,great", tmp_path / name))
        flags = run_flags(
            folder, "gpt2", tmp_path / "run", "--template", template, "--label-words", "terrible,great"
        )
        outcomes.append((Kernel.load(tmp_path / name / "sgd.safetensors"), json.loads(lmntk.works(*flags))))
    (first, rows), (second, again) = outcomes
    np.testing.assert_array_equal(first.values, second.values)
    assert rows == again and lmntk.streams == 3  # the run knows that the two prompts are one
    assert first.provenance["prompt"] == second.provenance["prompt"]


def test_an_adapter_alone_counts(folder: Path, tmp_path: Path, lmntk: Command) -> None:
    """Also where the head is untied, which makes a parameter of it that nobody trains."""
    words = ["{a} it was {mask}."], "terrible,great"
    for name, flags in (("plain", []), ("untied", ["--untie-head"])):
        lmntk.works(*kernel_flags(folder, "lora-bert", *words, tmp_path / name, *flags))
    plain, untied = (Kernel.load(tmp_path / name / "sgd.safetensors").values for name in ("plain", "untied"))
    np.testing.assert_allclose(untied, plain, rtol=1e-12)
    lmntk.works(*kernel_flags(folder, "bert", *words, tmp_path / "base"))
    assert not np.allclose(Kernel.load(tmp_path / "base" / "sgd.safetensors").values, plain, rtol=0.5)
