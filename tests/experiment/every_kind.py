"""The command line on a model of every kind, and the oracle that its kernels are compared with.

The oracle knows nothing of this package: a Hugging Face network's ordinary forward on one text at a time, as its own tokenizer
encodes it, and ``torch.autograd.grad`` of every logit, in float64.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers as hf
from torch import Tensor

from lmntk.cli.app import main

SPLIT = ["--k", "2", "--seeds", "13", "--formulas", "sgd", "--dtype", "float64"]
EXACT, LOOSE = 1e-10, 1e-6  # loose where the library computes norms in float32, and where a probe is fitted


@dataclass
class Command:
    """The command line, run in this process, and how often it computed kernels."""

    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]
    streams: int = 0

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        self.monkeypatch.setattr(sys, "argv", ["lmntk", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, errors = self.capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, out, errors

    def works(self, *arguments: object) -> str:
        code, out, errors = self(*arguments)
        assert code == 0, errors
        return out

    def refuses(self, words: str, *arguments: object) -> None:
        """The command ends with code 2 and one line, and has computed nothing."""
        before = self.streams
        code, out, errors = self(*arguments)
        lines = [line for line in errors.splitlines() if line.strip()]
        assert code == 2 and out == "" and len(lines) == 1, errors
        assert lines[0].startswith("lmntk: ") and words in lines[0], lines[0]
        assert self.streams == before


def kernel_flags(
    folder: Path, model: str, templates: Sequence[str], words: str, out: Path, *more: str
) -> list[object]:
    prompts = [part for template in templates for part in ("--template", template)]
    texts = ["--train", folder / "few.jsonl", "--eval", folder / "other.jsonl"]
    fixed = ["--label-words", words, "--formulas", "sgd", "--dtype", "float64", "--out", out]
    return ["kernel", "--model", folder / model, *texts, *prompts, *fixed, *more]


def run_flags(folder: Path, model: str, out: Path, *more: str) -> list[object]:
    texts = ["--train", folder / "train.jsonl", "--test", folder / "test.jsonl", "--text-column", "text_a"]
    return ["run", "--model", folder / model, *texts, *SPLIT, "--out", out, "--json", *more]


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- the oracle -------------------------------------------------------------------------------------------------------------------


def base_of(model: str) -> str:
    """Returns the folder of the model that an adapter is on."""
    return model if "lora" not in model else model.rsplit("-", 1)[-1]


def network_of(folder: Path, model: str) -> Any:
    """Returns a folder's network in float64, an adapter's as a ``PeftModel`` in which only the adapter is trained."""
    kinds = {
        "gpt2": hf.AutoModelForCausalLM,
        "chat": hf.AutoModelForCausalLM,
        "llama": hf.AutoModelForCausalLM,
        "bert": hf.AutoModelForMaskedLM,
    }
    kinds |= {"t5": hf.AutoModelForSeq2SeqLM, "bart": hf.AutoModelForSeq2SeqLM}
    kinds |= dict.fromkeys(("classifier", "gpt2-classifier"), hf.AutoModelForSequenceClassification)
    base = base_of(model)
    network = kinds[base].from_pretrained(folder / base, dtype=torch.float64)
    if base != model:
        network = peft.PeftModel.from_pretrained(network, folder / model, is_trainable=True).double()
        grown = [p for name, p in network.named_parameters() if "lora_B" in name]
        assert grown and all(p.abs().sum() > 0 for p in grown)
    return network.eval()


def autograd(network: torch.nn.Module, logits: Sequence[Tensor], extra: Sequence[Tensor] = ()) -> Tensor:
    """Returns the Jacobian [n, c, p] of every text's logits [c], over the parameters that are trained."""
    parameters = [p for p in network.parameters() if p.requires_grad] + list(extra)
    rows = []
    for of_text in logits:
        for value in of_text:
            found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
            rows.append(
                torch.cat(
                    [
                        torch.zeros(p.numel()) if g is None else g.flatten()
                        for g, p in zip(found, parameters, strict=True)
                    ]
                )
            )
    return torch.stack(rows).reshape(len(logits), len(logits[0]), -1)


def kernel_of(rows: Tensor, columns: Tensor) -> np.ndarray:
    return torch.einsum("ncp,mdp->ncmd", rows, columns).numpy()


def assert_close(found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()
