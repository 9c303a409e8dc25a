"""Kernels of new texts with those that a kept classifier was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lmntk.engine.kernel_work import KernelWork
from lmntk.engine.settings import Settings
from lmntk.engine.stream import stream_kernels
from lmntk.errors import UserError
from lmntk.estimator.solved import Solved
from lmntk.finetuning.logits import logits_of
from lmntk.kernels.gram import EVERYTHING
from lmntk.kernels.low_rank import LowRank, Part, subspaces_of
from lmntk.models.logit_model import LogitModel, combined
from lmntk.prediction.files import LoadedPredictor, trainable_in
from lmntk.prompts.encoding import EncodedText, encode_whole
from lmntk.solvers.inputs import Array
from lmntk.system.notices import say
from lmntk.tasks.example import Example


@dataclass(frozen=True, eq=False)
class NewTexts:
    """Kernels and logits of new texts.

    Attributes:
        cross: with the training texts [N, k, M, k].
        logits: pre-trained ones [M, C].
        groups: by parameter group, the part of ``cross`` that it contributes; empty where none was asked for.
    """

    cross: Array
    logits: Array
    groups: Mapping[str, Array]


@dataclass(frozen=True, eq=False)
class Differentiable:
    """A kept classifier's network, as its kernel was computed.

    Attributes:
        singles: the models whose kernels are added up.
        divisor: the number that the sum is divided by.
        trainable: the parameters whose gradients count, by name.
        part: what trains of them; LoRA has no groups.
        pad_id: the padding token.
    """

    singles: Sequence[LogitModel]
    divisor: float
    trainable: Mapping[str, nn.Parameter]
    part: Part
    pad_id: int

    @classmethod
    def of(cls, loaded: LoadedPredictor, solved: Solved) -> Differentiable:
        """Return the network of a predictor and its solution, which are of one fit.

        Raises:
            UserError: they are not.
        """
        model = loaded.predictor.model
        trainable, part = trainable_in(loaded.description, model)
        singles, divisor = [model], 1.0
        if solved.basis is not None:
            singles = [combined(model, torch.from_numpy(solved.basis))]
        elif solved.is_shared:
            solution = getattr(loaded.predictor, "solution", None)
            if solution is None:
                raise UserError(
                    "explain: the folder's predictor and its training.json are of two fits; fit again"
                )
            singles = [
                combined(model, torch.from_numpy(weights.copy())[:, None])
                for weights in solution.combinations.T
            ]
            divisor = len(loaded.labels) - 1.0
        return cls(singles, divisor, trainable, part, loaded.predictor.pad_id)

    def kernel(
        self, texts: Mapping[str, Sequence[EncodedText]], pair: tuple[str, str], settings: Settings
    ) -> dict[str, Array]:
        """Return the kernel between two groups of texts, by group of parameters."""
        groups: dict[str, Array] = {}
        for single in self.singles:
            work = KernelWork(
                single, texts, [pair], ["sgd"], self.trainable, self.pad_id, subspaces_of(self.part)
            )
            streamed = stream_kernels(work, settings)
            of_groups = streamed.kernels[pair]["sgd"]
            if isinstance(self.part, LowRank):
                of_groups = {EVERYTHING: self.part.summed(streamed.subspaces[pair])}
            for name, values in of_groups.items():
                groups[name] = groups.get(name, 0.0) + values.cpu().numpy() / self.divisor
        return groups


def with_training_texts(
    loaded: LoadedPredictor, solved: Solved, examples: Sequence[Example], settings: Settings
) -> NewTexts:
    """Return kernels and logits of new texts.

    Cost: a forward and k backward passes a text, of the training texts too, and N M k^2 products.

    Args:
        loaded: the predictor of the fit.
        solved: its solution.
        examples: the new texts.
        settings: of the engine; with a grouping the parts by group are kept.

    Raises:
        UserError: a text cannot be encoded, or the memory is too small.
    """
    network, model = Differentiable.of(loaded, solved), loaded.predictor.model
    train, new = (
        [encode_whole(loaded.encoder, example) for example in texts] for texts in (solved.examples, examples)
    )
    texts, pair = {"train": train, "new": new}, ("train", "new")
    groups = network.kernel(texts, pair, settings)
    logits = logits_of(model, new, loaded.predictor.pad_id, settings.batch_size).numpy()
    cross = np.asarray(sum(groups.values()))
    return NewTexts(cross, logits, groups if settings.grouping is not None and len(groups) > 1 else {})


def among(loaded: LoadedPredictor, solved: Solved, examples: Sequence[Example], settings: Settings) -> Array:
    """Return the kernel of new texts among themselves [M, k, M, k]."""
    network = Differentiable.of(loaded, solved)
    texts = {"new": [encode_whole(loaded.encoder, example) for example in examples]}
    return np.asarray(sum(network.kernel(texts, ("new", "new"), settings).values()))


def say_lacking(folder: Path, description: Mapping[str, Any]) -> None:
    """Say which options of a fit in a folder are no parameters of an estimator, and are not as it has them."""
    model, chosen = description["model"], description["parameters"]
    found = {
        **{name: model[name] is not None for name in ("base", "revision", "gguf", "attention")},
        "untie_head": model["untied"],
        "label_words_reduce": description["prompt"]["reduce"] is not None,
        "without_embeddings": not chosen.get("embeddings", True),
        "without_head": not chosen.get("head", True),
        **{name: bool(chosen.get(name)) for name in ("biases_only", "include", "exclude")},
    }
    if lacking := [name for name, is_there in found.items() if is_there]:
        say(
            f"{str(folder)!r} was fitted with {', '.join(lacking)}, which TangentClassifier does not have: "
            "it predicts and explains with them, and goes without them if it is fitted again"
        )
