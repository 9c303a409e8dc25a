"""Pairwise scores of kronfluence with strategy `identity`: inner products of the linear layers' gradients.

Run by `peers.py` with the peers' own python; imports nothing of lmntk. Prints one line of JSON, and writes the scores [n, m].

    PYTHON peers_kronfluence.py FOLDER SCORES.pt QUERY_BATCH TRAIN_BATCH
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.task import Task
from kronfluence.utils.dataset import DataLoaderKwargs
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM


class Difference(nn.Module):
    """The difference of two words' logits at the position that is read; the tied table counts for nothing."""

    def __init__(self, network: Any, words: list[int]) -> None:
        super().__init__()
        table = network.get_output_embeddings().weight
        self.register_buffer("row", (table[words[1]] - table[words[0]]).detach())
        self.base = network.base_model
        self.dense = getattr(getattr(network, "lm_head", None), "dense", None)
        self.norm = network.lm_head.layer_norm if self.dense is not None else None

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Return f(x) [n]."""
        hidden = self.base(batch["input_ids"], attention_mask=batch["attention_mask"])[0]
        hidden = hidden[torch.arange(len(hidden)), batch["read"]]
        if self.dense is not None:
            hidden = self.norm(nn.functional.gelu(self.dense(hidden)))
        return hidden @ self.row


class Texts(Dataset):  # type: ignore[type-arg]
    """Token ids, padded to the longest text: kronfluence stacks what it is given."""

    def __init__(self, texts: list[dict[str, Any]], pad_id: int) -> None:
        longest = max(len(text["ids"]) for text in texts)
        self.texts = [
            {
                "input_ids": torch.tensor(text["ids"] + [pad_id] * (longest - len(text["ids"]))),
                "attention_mask": torch.tensor([1] * len(text["ids"]) + [0] * (longest - len(text["ids"]))),
                "read": torch.tensor(text["read"]),
            }
            for text in texts
        ]

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.texts[index]


class Output(Task):
    """The model's output itself, in place of a loss."""

    def __init__(self, tracked: list[str]) -> None:
        self.tracked = tracked

    def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
        """Return the sum of the outputs."""
        return model(batch).sum()

    def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
        """Return the sum of the outputs."""
        return model(batch).sum()

    def get_influence_tracked_modules(self) -> list[str]:
        """Return the linear layers."""
        return self.tracked

    def get_attention_mask(self, batch: Any) -> Tensor:
        """Return the mask."""
        return batch["attention_mask"]


def main() -> None:
    """Time the scores, factors of the identity included."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    folder, out, query_batch, train_batch = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    told = json.loads((folder / "texts.json").read_text())
    auto = AutoModelForMaskedLM if told["kind"] == "masked" else AutoModelForCausalLM
    network = auto.from_pretrained(folder / "model", dtype=torch.float32).eval()
    model = Difference(network, told["label_ids"])
    task = Output([name for name, module in model.named_modules() if isinstance(module, nn.Linear)])
    rows, columns = (Texts(told[side], told["pad_id"]) for side in ("train", "eval"))
    analyzer = Analyzer(
        "peers",
        model=prepare_model(model, task),
        task=task,
        cpu=True,
        output_dir=tempfile.mkdtemp(),
        disable_tqdm=True,
    )
    analyzer.set_dataloader_kwargs(DataLoaderKwargs(num_workers=0))
    start = time.perf_counter()
    analyzer.fit_all_factors(
        "identity",
        dataset=rows,
        per_device_batch_size=train_batch,
        factor_args=FactorArguments(strategy="identity"),
    )
    analyzer.compute_pairwise_scores(
        "scores",
        factors_name="identity",
        query_dataset=rows,
        train_dataset=columns,
        per_device_query_batch_size=query_batch,
        per_device_train_batch_size=train_batch,
        score_args=ScoreArguments(damping_factor=None),
    )
    seconds = time.perf_counter() - start
    torch.save(analyzer.load_pairwise_scores("scores")["all_modules"], out)
    print(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    main()
