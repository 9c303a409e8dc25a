"""A split of ``lds.py``: its texts on the model, its kernels, and real retraining on parts of it."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from few_shot import FewShot, labels_of
from torch import nn

from lmntk.attribution.changes import TrainedTexts
from lmntk.engine.kernel_work import KernelWork
from lmntk.engine.settings import Settings
from lmntk.engine.stream import stream_kernels
from lmntk.estimator.texts import LabelledTexts
from lmntk.finetuning.logits import logits_of
from lmntk.finetuning.losses import mean_loss
from lmntk.finetuning.optimizers import make_optimizer
from lmntk.models.build import text_features
from lmntk.models.filters import ParameterFilter
from lmntk.models.logit_model import PromptModel
from lmntk.models.state import frozen
from lmntk.models.weights import at_weights
from lmntk.prompts.batching import collate, length_sorted_batches
from lmntk.system.files import replacing

Array = np.ndarray
SEED, TEST_TEXTS, BATCH = 13, 100, 32


@dataclass(frozen=True)
class Training:
    """A full-batch training: its optimizer, constant rate and number of steps."""

    optimizer: str
    rate: float
    steps: int


@dataclass(frozen=True, eq=False)
class Retrained:
    """What a real training came to.

    Attributes:
        test: logits of the test texts [M, C] after the last step.
        train: those of all training texts [N, C]; None where they were not asked for.
        seconds: of the training and of the test texts' logits.
    """

    test: Array
    train: Array | None
    seconds: float


class Split:
    """The texts of a task on a model, before and after trainings."""

    def __init__(self, pretrained: Any, data: str, task: str, out: Path) -> None:
        self.task, self.pretrained, self.out = task, pretrained, out
        split = FewShot.read(data, task, SEED, TEST_TEXTS)
        self.examples = {"train": split.train, "test": split.test}
        self.label_names = split.task.labels
        self.labels = {side: labels_of(examples) for side, examples in self.examples.items()}
        encoder = split.encoder(pretrained, "prompt")
        self.plain_encoder = split.encoder(pretrained, "head")
        self.classes = len(self.label_names)
        texts = {side: list(map(encoder.encode, examples)) for side, examples in self.examples.items()}
        words = {token for side in texts.values() for text in side for token in text.ids}
        kept = sorted({pretrained.pad_id, *words, *encoder.label_ids})
        place = {token: number for number, token in enumerate(kept)}
        self.pad_id = place[pretrained.pad_id]
        self.texts = {
            side: [replace(text, ids=tuple(place[token] for token in text.ids)) for text in of_side]
            for side, of_side in texts.items()
        }
        label_ids = [place[token] for token in encoder.label_ids]
        self.model = PromptModel(
            with_words(pretrained.network, kept), label_ids, self.classes == 2, encoder.label_weights
        )
        self.parameters = ParameterFilter().select(self.model)

    def kernels(self, name: str, weights: Mapping[str, torch.Tensor] | None = None) -> dict[str, Array]:
        """Return the ``train`` and ``cross`` kernels and the logits ``f0`` and ``cross_f0`` at some weights, kept under a name."""
        path = self.out / f"{self.task}-kernels-{name}.npz"
        if not path.exists():
            began = time.time()
            pairs = [("train", "train"), ("train", "test")]
            with at_weights(self.model, weights or {}):
                work = KernelWork(self.model, self.texts, pairs, ["sgd"], self.parameters, self.pad_id)
                streamed = stream_kernels(work, Settings())
            train, cross = (streamed.kernels[pair]["sgd"]["all"].cpu().numpy() for pair in pairs)
            save(
                path,
                train=train,
                cross=cross,
                f0=streamed.logits["train"].cpu().numpy(),
                cross_f0=streamed.logits["test"].cpu().numpy(),
                seconds=np.array(time.time() - began),
            )
        with np.load(path) as kept:
            return dict(kept)

    @cached_property
    def trained_texts(self) -> TrainedTexts:
        """The texts with the kernel at the pre-trained weights."""
        kept = self.kernels("before")
        return TrainedTexts.of(
            kept["train"], kept["cross"], self.labels["train"], kept["f0"], kept["cross_f0"]
        )

    def plain(self, side: str) -> list[str]:
        """Return a side's texts as strings."""
        return list(LabelledTexts(tuple(self.examples[side]), self.label_names).plain)

    def features(self) -> dict[str, Array]:
        """Return the mean hidden states of each side's texts, without a prompt [n, i]."""
        return {
            side: text_features(
                self.pretrained, list(map(self.plain_encoder.encode, examples)), "mean"
            ).numpy()
            for side, examples in self.examples.items()
        }

    def retrain(
        self, part: Sequence[int], training: Training, *, with_train: bool = False, weights: Any = None
    ) -> Retrained:
        """Train on a part of the texts from the pre-trained weights, and put these back.

        The part's gradient is summed over batches of about one length: padding costs, and the mean over the part is the same.

        Args:
            part: the numbers of the training texts.
            training: how.
            with_train: whether the training texts' logits are wanted too.
            weights: a dictionary that is filled with the weights after the last step.
        """
        began = time.time()
        texts = [self.texts["train"][number] for number in part]
        labels = torch.as_tensor(self.labels["train"][list(part)])
        chosen = length_sorted_batches([text.length for text in texts], BATCH)
        batches = [
            (collate([texts[i] for i in each], self.pad_id), labels[each], len(each) / len(texts))
            for each in chosen
        ]
        parameters = list(self.parameters.values())
        before = {name: parameter.detach() for name, parameter in self.parameters.items()}
        with at_weights(self.model, before), frozen(self.model, parameters):
            optimizer = make_optimizer(training.optimizer, parameters, training.rate)
            for _ in range(training.steps):
                optimizer.zero_grad()
                for batch, of_batch, share in batches:
                    (share * mean_loss("cross-entropy", self.model(batch), of_batch)).backward()
                optimizer.step()
            optimizer.zero_grad()
            if weights is not None:
                weights |= {name: p.detach().clone() for name, p in self.parameters.items()}
            test = self._logits("test")
            seconds = time.time() - began
            train = self._logits("train") if with_train else None
        return Retrained(test, train, seconds)

    def _logits(self, side: str) -> Array:
        return logits_of(self.model, self.texts[side], self.pad_id).numpy()


def with_words(network: Any, kept: Sequence[int]) -> Any:
    """Return a copy of a masked language model with some words' rows of its tied table alone.

    A row that no text reads and no label word asks for has no gradient, so all logits and trainings are the same; a step of this
    model of 23 million parameters, 12 of them in the table, is a fifth cheaper.
    """
    narrow = copy.deepcopy(network)
    table, decoder = narrow.get_input_embeddings(), narrow.get_output_embeddings()
    assert decoder.weight is table.weight, "the table is not tied"
    rows = nn.Parameter(table.weight.detach()[list(kept)].clone())
    table.weight = decoder.weight = rows
    table.num_embeddings = decoder.out_features = len(kept)
    table.padding_idx = None  # has no part in a text's logits
    bias = nn.Parameter(decoder.bias.detach()[list(kept)].clone())
    for module in narrow.modules():
        if getattr(module, "bias", None) is decoder.bias and module is not decoder:
            module.bias = bias
    decoder.bias = bias
    narrow.config.vocab_size = len(kept)
    return narrow


def save(path: Path, **arrays: Array) -> None:
    """Write arrays whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as unfinished, unfinished.open("wb") as file:
        np.savez(file, **arrays)
