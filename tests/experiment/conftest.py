"""A folder with a model of every kind, and the command line; other files of this folder have a ``folder`` of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers as hf
from every_kind import Command
from tiny import (
    write_adapter,
    write_bart,
    write_chat,
    write_classifier,
    write_gpt2,
    write_llama,
    write_model,
    write_rows,
    write_t5,
)

from lmntk.engine import compute
from lmntk.experiment.steps import kernels as kernel_steps


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("kinds")
    write_model(base / "bert")
    write_gpt2(base / "gpt2")
    write_chat(base / "chat")
    write_llama(base / "llama")
    write_t5(base / "t5")
    write_bart(base / "bart")
    write_classifier(base / "classifier", ("0", "1"))
    write_gpt2(base / "gpt2-classifier", network=hf.GPT2ForSequenceClassification)
    write_adapter(base / "lora-bert", base / "bert")
    write_adapter(base / "lora-gpt2", base / "gpt2", "CAUSAL_LM")
    write_adapter(base / "lora-head-bert", base / "bert", target_modules=["query", "decoder"])
    write_adapter(base / "lora-saved-gpt2", base / "gpt2", "CAUSAL_LM", modules_to_save=["lm_head"])
    write_adapter(base / "lora-classifier", base / "classifier", "SEQ_CLS")
    write_rows(base / "few.jsonl", 4)
    write_rows(base / "other.jsonl", 3, offset=1)
    write_rows(base / "train.jsonl", 12)
    write_rows(base / "test.jsonl", 7, offset=1)
    return base


@pytest.fixture
def lmntk(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    made = Command(monkeypatch, capsys)
    for module in (kernel_steps, compute):

        def counted(
            *arguments: Any, wrapped: Callable[..., Any] = module.stream_kernels, **named: Any
        ) -> Any:
            made.streams += 1
            return wrapped(*arguments, **named)

        monkeypatch.setattr(module, "stream_kernels", counted)
    return made


@pytest.fixture(autouse=True)
def quick_plots(empty_plots: None) -> None:
    """Leave plots undrawn, which take a quarter of these tests' time."""
