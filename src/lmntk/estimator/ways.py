"""The ways in which labelled texts are put to a model: with a prompt, or by a linear head; each with its kernel."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from lmntk.engine.estimate import Estimate
from lmntk.engine.kernel_work import KernelWork
from lmntk.engine.progress import Listener
from lmntk.engine.settings import Settings
from lmntk.engine.stream import Streamed, stream_kernels
from lmntk.errors import UserError
from lmntk.estimator.encoders import Prompt
from lmntk.finetuning.logits import logits_of
from lmntk.kernels.gram import EVERYTHING
from lmntk.kernels.kernel import KERNEL_VERSION, Kernel
from lmntk.kernels.low_rank import LowRank, Part, TrainedPart, names_in, subspaces_of
from lmntk.models.build import logit_model
from lmntk.models.filters import ParameterFilter
from lmntk.models.loading import Pretrained
from lmntk.models.logit_model import LogitModel, combined
from lmntk.models.vocabulary import is_tied
from lmntk.prompts.encoding import EncodedText, TextEncoder, encode_whole
from lmntk.solvers.inputs import Array
from lmntk.solvers.shared import DRAWN, SIGNS, contrasts, is_contrasted, is_shared, sign_combinations
from lmntk.system.hashing import Key, versions
from lmntk.system.kept import is_whole, load_arrays, or_none, save_tensors
from lmntk.tangents.factors import Tangents
from lmntk.tasks.example import Example, digest_examples

Classes = Literal["auto", "full", "contrasts", "shared"]
# Deviation of the head's first weights. A head that was fitted to the labels would have seen those that are held out.
HEAD_DEVIATION = 0.1


@dataclass(frozen=True, eq=False)
class Way:
    """A way in which texts are put to a model.

    Attributes:
        mode: ``prompt`` or ``head``.
        encoder: from a text to tokens.
        model: from tokens to logits [n, c], or to contrasts of them.
        parameters: those that count.
        pad_id: the padding token.
        key: all that its kernels depend on but the texts.
        combinations: of the logits [C, S], where the classes share a kernel.
        basis: the contrasts [C, C - 1] of the logits, where these are the model's outputs.
        trained: what trains, by its options.
        part: the same on the model: names of the parameters that count, or LoRA on some; None: all of them.
        prompt: what is put around the texts, in prompt mode.
    """

    mode: str
    encoder: TextEncoder
    model: LogitModel
    parameters: ParameterFilter
    pad_id: int
    key: Key
    combinations: Array | None = None
    basis: Array | None = None
    trained: TrainedPart = field(default_factory=TrainedPart)
    part: Part = None
    prompt: Prompt | None = None
    _encoded: dict[Example, EncodedText] = field(default_factory=dict, repr=False)

    @property
    def singles(self) -> list[LogitModel]:
        """The models whose kernels are added up: the one, or one for each combination of its logits."""
        if self.combinations is None:
            return [self.model]
        return [
            combined(self.model, torch.from_numpy(weights.copy())[:, None]) for weights in self.combinations.T
        ]

    @property
    def deciding(self) -> LogitModel:
        """The model with an output for each class: of contrasts the logits less their mean, which are all that a softmax sees."""
        if self.basis is None:
            return self.model
        return combined(self.model, torch.from_numpy(self.basis @ self.basis.T))

    def of_classes(self, outputs: Array) -> Array:
        """Return what the model's outputs [..., k] are for each class [..., C]."""
        return outputs if self.basis is None else np.asarray(outputs @ self.basis.T)

    @property
    def divisor(self) -> float:
        """The number by which their sum is divided."""
        return 1.0 if self.combinations is None else self.model.outputs - 1.0

    @property
    def has_logits(self) -> bool:
        """Return whether the pre-trained logits mean something: those of a head that was drawn do not."""
        return self.mode == "prompt" or self.key["head"] is None

    @property
    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters whose gradients count, by name."""
        return names_in(self.part, self.parameters.select(self.model))

    def work(
        self, model: LogitModel, texts: Mapping[str, Sequence[EncodedText]], pair: tuple[str, str]
    ) -> KernelWork:
        """Return the engine's work on one pair of groups; the model is one of ``singles``."""
        return KernelWork(model, texts, [pair], ["sgd"], self.trainable, self.pad_id, subspaces_of(self.part))

    def kernel_in(self, streamed: Streamed, pair: tuple[str, str]) -> Array:
        """Return the kernel [n, c, m, c] of what trains, from what the engine computed of ``work``."""
        if isinstance(self.part, LowRank):
            return np.asarray(self.part.summed(streamed.subspaces[pair]).cpu().numpy())
        return np.asarray(streamed.kernels[pair]["sgd"][EVERYTHING].cpu().numpy())

    def own(self, tangents: Tangents) -> Tangents:
        """Return the gradients of what trains, from those of ``trainable``."""
        return self.part.projected(tangents) if isinstance(self.part, LowRank) else tangents

    def motion(self, direction: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return how the model's own weights move in a direction of a solution, summed over the gradients of ``trainable``."""
        return self.part.moved(direction, self.model) if isinstance(self.part, LowRank) else direction

    def encoded(self, examples: Sequence[Example]) -> list[EncodedText]:
        """Return the tokens of examples; each is encoded once.

        Raises:
            UserError: one of them cannot be encoded.
        """
        for example in examples:
            if example not in self._encoded:
                self._encoded[example] = encode_whole(self.encoder, example)
        return [self._encoded[example] for example in examples]


@dataclass(frozen=True, eq=False)
class Measured:
    """A way with what was computed of it.

    Attributes:
        way: which.
        texts: the N labelled texts, encoded.
        kernel: of these texts, [N, C, N, C]; of contrasts C - 1 in place of C, of a shared one 1.
        logits: their pre-trained logits [N, C].
    """

    way: Way
    texts: list[EncodedText]
    kernel: Array
    logits: Array


def way_of(
    pretrained: Pretrained,
    mode: str,
    encoder: TextEncoder,
    labels: Sequence[str],
    parameters: ParameterFilter | None = None,
    *,
    seed: int = 0,
    sharing: Classes = "auto",
    trained: TrainedPart | None = None,
) -> Way:
    """Return the way of a mode; two classes are folded into one logit, their difference.

    More than six classes share a kernel, unless ``sharing`` says otherwise (two never do); it is that of two random sign combinations of
    the logits.
    Contrasts are C - 1 orthonormal combinations of the logits that leave out what all have in common; of two classes the difference.

    In head mode a checkpoint's own head is kept; another network gets a head of normal numbers, by the seed.

    Where LoRA or a target trains, a head that was drawn trains beside it. Of LoRA classes share no kernel: more than six are contrasts.

    Raises:
        UserError: a checkpoint's head of other classes, or a choice of what trains that does not fit the model.
    """
    classes, head, drawn = len(labels), None, None
    if mode == "head" and pretrained.kind != "classifier":
        head, drawn = drawn_head(pretrained, classes, seed), {"deviation": HEAD_DEVIATION, "seed": seed}
    model = logit_model(pretrained, encoder, classes == 2, labels=labels, head=head)
    chosen = parameters or ParameterFilter()
    key = Key(
        weights=pretrained.fingerprint,
        tied=is_tied(pretrained.network),
        encoder=encoder.fingerprint(),
        mode=mode,
        head=drawn,
        classes=classes,
        parameters=chosen.as_dict(),
        version=KERNEL_VERSION,
    )
    trained = trained or TrainedPart()
    part: Part = None
    if not trained.is_all:
        part = trained.on(model, tuple(chosen.select(model)), trains_head=drawn is not None)
        key = key.also(trained=trained.as_dict())
    if isinstance(part, LowRank) and is_shared(sharing, classes):
        if sharing == "shared":
            raise UserError(
                "classes: LoRA's kernels are not shared; give --classes contrasts, or no --lora-rank"
            )
        sharing = "contrasts"
    combinations, basis = None, None
    if is_contrasted(sharing, classes):
        basis = contrasts(classes)
        model, key = combined(model, torch.from_numpy(basis)), key.also(contrasts=True)
    if is_shared(sharing, classes):
        combinations = sign_combinations(classes, SIGNS, seed)
        key = key.also(shared=DRAWN | {"seed": seed})
    return Way(mode, encoder, model, chosen, pretrained.pad_id, key, combinations, basis, trained, part)


def can_be_shared(way: Way) -> bool:
    """Return whether a way has a full kernel that its classes could share: not of a single logit, nor of LoRA."""
    is_full = way.combinations is None and way.basis is None
    return is_full and way.model.outputs > 1 and not isinstance(way.part, LowRank)


def drawn_head(pretrained: Pretrained, classes: int, seed: int) -> nn.Linear:
    """Return a linear head [c, i] of normal numbers that has seen no label; its biases are zero."""
    table = pretrained.network.get_input_embeddings().weight
    head = nn.Linear(int(pretrained.network.config.get_text_config().hidden_size), classes)
    with torch.no_grad():
        random = torch.Generator().manual_seed(seed)
        head.weight.copy_(HEAD_DEVIATION * torch.randn(head.weight.shape, generator=random))
        head.bias.zero_()
    return head.to(device=table.device, dtype=table.dtype)


def key_of(way: Way, examples: Sequence[Example]) -> Key:
    """Return all that the kernel of these texts depends on; their labels are no part of it."""
    return way.key.also(examples=digest_examples(dataclasses.replace(each, label=None) for each in examples))


def measure(
    way: Way,
    examples: Sequence[Example],
    settings: Settings,
    folder: Path | None = None,
    announce: Callable[[Estimate], None] | None = None,
    report: Callable[[int, int], None] = lambda captured, contracted: None,
) -> Measured:
    """Return a way's kernel and logits; those that a folder has of an earlier fit are read.

    Args:
        way: the way.
        examples: the N labelled texts.
        settings: of the engine.
        folder: where they are kept.
        announce: told what it will take, before it starts.
        report: told how far it is.

    Cost: a forward and C backward passes a text, and N^2 C^2 products, of contrasts C - 1 in place of C; of a shared kernel two of each,
    and N^2 two products.
    """
    paths, key, texts = None, key_of(way, examples), way.encoded(examples)
    if folder is not None:
        name = f"{way.mode}-{key.short}"
        paths = folder / f"{name}.safetensors", folder / f"{name}-logits.safetensors"
        known = _kept(key, *paths)
        if known is not None:
            return Measured(way, texts, *known)
    values, logits = np.zeros(0), np.zeros(0)
    for number, model in enumerate(way.singles):
        pair = ("train", "train")
        work = way.work(model, {"train": texts}, pair)
        piece = key.also(single=number).digest
        streamed = stream_kernels(work, settings, Listener(report, announce if number == 0 else None), piece)
        part = way.kernel_in(streamed, pair) / way.divisor
        values, logits = (
            (values + part if number else part),
            way.of_classes(streamed.logits["train"].cpu().numpy()),
        )
    if way.combinations is not None:
        logits = logits_of(way.model, texts, way.pad_id, settings.batch_size).numpy()
    if paths is not None:
        provenance: dict[str, Any] = {"key": key.digest, "versions": versions()}
        save_tensors(paths[1], {"train": logits}, {"key": key.digest})
        Kernel("sgd", values, provenance=provenance).save(paths[0])
    return Measured(way, texts, values, logits)


def _kept(key: Key, kernel_path: Path, logits_path: Path) -> tuple[Array, Array] | None:
    if not (kernel_path.is_file() and is_whole(logits_path)):
        return None
    kernel = or_none(lambda: Kernel.load(kernel_path, {"key": key.digest}))
    return None if kernel is None else (kernel.values, np.asarray(load_arrays(logits_path)[0]["train"]))


def pieces_of(way: Way, examples: Sequence[Example]) -> list[str]:
    """Return the keys of the engine's work on the kernel of these texts."""
    key = key_of(way, examples)
    return [key.also(single=number).digest for number in range(len(way.singles))]
