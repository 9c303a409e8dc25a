"""Kernels between two lists of labelled texts, in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lmntk.engine.kernel_work import KernelWork
from lmntk.engine.precision_loss import PrecisionLoss
from lmntk.engine.progress import Listener
from lmntk.engine.settings import Settings
from lmntk.engine.start_up import check_model
from lmntk.engine.stream import stream_kernels, whole
from lmntk.errors import UserError
from lmntk.kernels.formulas import FORMULAS
from lmntk.kernels.gram import Panel, gram
from lmntk.kernels.grid import SubspaceGrid
from lmntk.kernels.kernel import KERNEL_VERSION, Kernel
from lmntk.models.build import logit_model
from lmntk.models.filters import ParameterFilter
from lmntk.models.fingerprint import fingerprint
from lmntk.models.loading import Pretrained
from lmntk.models.state import Batch
from lmntk.models.vocabulary import is_tied
from lmntk.prompts.encoding import EncodedText, PromptEncoder, encode_whole
from lmntk.prompts.ensemble import EnsembleEncoder
from lmntk.system.hashing import content_key, versions
from lmntk.system.precision import FULL, products
from lmntk.tangents.coverage import Coverage
from lmntk.tangents.factors import Tangents
from lmntk.tangents.noise import noise_coordinates, silence
from lmntk.tasks import Example
from lmntk.tasks.example import digest_examples, examples_of


@dataclass(frozen=True)
class Computed:
    """Kernels by formula, pre-trained logits [n, c] of ``train`` and ``eval``, and how they were computed.

    ``work`` is the key of the folder of work, if the settings have a scratch folder: ``WorkFolder.finish`` removes it once the kernels
    are kept. ``subspaces`` has the kernels of each candidate for what to train, by its name and by formula.
    """

    kernels: dict[str, Kernel]
    logits: dict[str, np.ndarray]
    coverage: Coverage
    work: str = ""
    precision_loss: PrecisionLoss | None = None
    subspaces: dict[str, dict[str, Kernel]] = field(default_factory=dict)


@dataclass(frozen=True)
class PromptedTexts:
    """Training and evaluation texts of a prompted language model, between which kernels are asked for.

    Attributes:
        pretrained: what ``load_pretrained`` returned.
        encoder: the prompt: template, label words, limits.
        train: n texts.
        evaluate: m texts.
        all_logits: keep both logits of a two-class prompt; by default they are folded into their difference, c = 1.
        parameters: which parameters count; all by default.
        subspaces: candidates for what to train, of these parameters, whose kernels come with them from the same pass.
    """

    pretrained: Pretrained
    encoder: PromptEncoder | EnsembleEncoder
    train: Sequence[Example]
    evaluate: Sequence[Example]
    all_logits: bool = False
    parameters: ParameterFilter = field(default_factory=ParameterFilter)
    subspaces: SubspaceGrid | None = None

    @property
    def folds(self) -> bool:
        """A flag: two logits are folded into their difference."""
        return self.encoder.classes == 2 and not self.all_logits

    @cached_property
    def encoded(self) -> dict[str, list[EncodedText]]:
        """The texts as token ids, by side: ``train`` and ``eval``."""
        sides = {"train": self.train, "eval": self.evaluate}
        return {side: [encode_whole(self.encoder, each) for each in part] for side, part in sides.items()}

    def origin(self, settings: Settings) -> dict[str, Any]:
        """Return all that a kernel's values depend on, hashed where it is long: two kernels of one origin are the same."""
        network = self.pretrained.network
        return {
            "model": self.pretrained.fingerprint,
            "prompt": self.encoder.fingerprint(),
            "templates": [str(template) for template in self.encoder.templates],
            "label_words": list(self.encoder.label_words),
            **({} if self.encoder.chat is None else {"chat": self.encoder.chat}),
            "difference": self.folds,
            "tied": is_tied(network),
            "parameters": self.parameters.as_dict(),
            "drop_noise": settings.drop_noise,
            "precision": settings.precision,
            "dtype": str(next(network.parameters()).dtype).removeprefix("torch."),
            "train": digest_examples(self.train),
            "eval": digest_examples(self.evaluate),
        }


def compute_kernels(
    pretrained: Pretrained,
    encoder: PromptEncoder | EnsembleEncoder,
    train: Sequence[Example | str],
    evaluate: Sequence[Example | str],
    formulas: Sequence[str] = FORMULAS,
    *,
    all_logits: bool = False,
    parameters: ParameterFilter | None = None,
    settings: Settings | None = None,
) -> Computed:
    """Return the tangent kernels [n, c, m, c] between training and evaluation texts of a prompted language model.

    Args:
        pretrained: what ``load_pretrained`` returned.
        encoder: the prompt: template, label words, limits.
        train: n texts: strings, pairs of strings, or examples.
        evaluate: m texts.
        formulas: of ``sgd``, ``signgd``, ``asigngd``.
        all_logits: keep both logits of a two-class prompt; by default they are folded into their difference, c = 1.
        parameters: which parameters count; all by default.
        settings: batch size, memory, noise, groups.

    Cost: (n + m) forward and c (n + m) backward passes, and 2 n m c^2 P operations a kernel. See ``stream_kernels``.

    Example:
        >>> pretrained = load_pretrained("path/to/model")  # doctest: +SKIP
        >>> encoder = PromptEncoder(pretrained.tokenizer, "{a} It was {mask}.", ["terrible", "great"])  # doctest: +SKIP
        >>> compute_kernels(pretrained, encoder, train, test).kernels["sgd"].values.shape  # doctest: +SKIP
        (32, 1, 872, 1)
    """
    sides = examples_of(train), examples_of(evaluate)
    texts = PromptedTexts(pretrained, encoder, *sides, all_logits, parameters or ParameterFilter())
    return kernels_of_prompt(texts, formulas, settings)


def kernels_of_prompt(
    texts: PromptedTexts,
    formulas: Sequence[str] = FORMULAS,
    settings: Settings | None = None,
    listener: Listener | None = None,
) -> Computed:
    """Return the tangent kernels between training and evaluation texts; see ``compute_kernels``."""
    settings = settings or Settings()
    pretrained, encoder = texts.pretrained, texts.encoder
    model = logit_model(pretrained, encoder, texts.folds)
    origin, trainable = texts.origin(settings), texts.parameters.select(model)
    grouping = settings.grouping
    subspaces = None if texts.subspaces is None else texts.subspaces.on(model, trainable)
    key = content_key(
        **({} if subspaces is None else {"subspaces": subspaces.as_dict()}),
        origin=origin,
        formulas=list(formulas),
        groups=None if grouping is None else {name: grouping(name) for name in trainable},
        version=KERNEL_VERSION,
        settings=settings.cut(),
    )
    work = KernelWork(
        model, texts.encoded, [("train", "eval")], formulas, trainable, pretrained.pad_id, subspaces
    )
    streamed = stream_kernels(work, settings, listener, key)
    provenance = {
        **origin,
        "model_name": pretrained.name,
        "noise_coordinates_left_out": streamed.noise.get("train", 0),
        **({} if streamed.precision_loss is None else {"precision_loss": streamed.precision_loss.as_dict()}),
        "versions": versions(),
    }
    kernels = as_kernels(streamed.kernels["train", "eval"], formulas, grouping is not None, provenance)
    logits = {side: streamed.logits[side].numpy() for side in texts.encoded}
    by_candidate = {
        candidate.name: as_kernels(
            {name: {candidate.name: values} for name, values in found.items()},
            formulas,
            False,
            {**provenance, "subspace": candidate.as_dict()},
        )
        for candidate in ([] if subspaces is None else subspaces.candidates)
        if (found := streamed.subspaces["train", "eval"].pop(candidate.name))
    }
    return Computed(kernels, logits, streamed.coverage, key, streamed.precision_loss, by_candidate)


def module_kernels(
    module: nn.Module,
    train: Sequence[Batch],
    evaluate: Sequence[Batch],
    formulas: Sequence[str] = FORMULAS,
    *,
    trainable: Mapping[str, nn.Parameter] | None = None,
    settings: Settings | None = None,
) -> Computed:
    """Return the tangent kernels [n, c, m, c] of any module from a batch to logits [b, c], on the user's batches.

    Args:
        module: called with one batch.
        train: batches of n examples in all: mappings of tensors whose first axis is the example.
        evaluate: batches of m examples in all.
        formulas: of ``sgd``, ``signgd``, ``asigngd``.
        trainable: the parameters that count, by name; by default those that require a gradient.
        settings: noise and groups; batches are taken as they are, and all their factors are kept.

    Memory: the factors of all examples; ``stream_kernels`` bounds it, for encoded texts.

    Raises:
        UserError: no parameter counts, or no example.

    Example:
        >>> module_kernels(my_module, [{"x": x_train}], [{"x": x_test}]).kernels["sgd"].values.shape  # doctest: +SKIP
        (32, 1, 872, 1)
    """
    settings = settings or Settings()
    chosen = (
        {n: p for n, p in module.named_parameters() if p.requires_grad}
        if trainable is None
        else dict(trainable)
    )
    if settings.precision != FULL:
        raise UserError(
            f"precision: {settings.precision} needs encoded texts; with batches of your own leave it at {FULL}"
        )
    if not chosen:
        raise UserError(
            f"parameters: nothing in {type(module).__name__} requires a gradient; name what counts in trainable"
        )
    if not train or not evaluate:
        raise UserError("module_kernels: no examples; give at least one batch to train and to evaluate")
    first = max((*train, *evaluate), key=_count)  # two examples show whether the module keeps them apart
    count = _count(first)
    with products(FULL):
        extremes = {name: tensor[[0, count - 1][:count]] for name, tensor in first.items()}
        coverage = check_model(module, chosen, extremes, _examples(extremes))

    def captured(batches: Sequence[Batch]) -> list[Tangents]:
        parts = batches if coverage.batched else [part for batch in batches for part in _examples(batch)]
        with products(FULL):
            return [coverage.capture(module, part, chosen) for part in parts]

    rows, columns = captured(train), Panel(captured(evaluate))
    masks = noise_coordinates(rows) if settings.drop_noise else {}
    with products(FULL):
        values = gram(Panel([silence(batch, masks) for batch in rows]), columns, formulas, settings.grouping)
    provenance = {
        "module": type(module).__name__,
        "model": fingerprint(module),
        "parameters": sorted(chosen),
        "versions": versions(),
    }
    return Computed(
        as_kernels(values, formulas, settings.grouping is not None, provenance),
        {
            side: torch.cat([b.logits for b in part]).double().cpu().numpy()
            for side, part in (("train", rows), ("eval", columns.batches))
        },
        coverage,
    )


def _count(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def _examples(batch: Batch) -> list[dict[str, Tensor]]:
    return [{name: tensor[i : i + 1] for name, tensor in batch.items()} for i in range(_count(batch))]


def as_kernels(
    gram_values: Mapping[str, Mapping[str, Tensor]],
    formulas: Sequence[str],
    grouped: bool,
    provenance: dict[str, Any],
) -> dict[str, Kernel]:
    """Return the kernels of Gram values by name and parameter group; ``grouped`` keeps the groups' parts too."""
    kernels = {}
    for formula in formulas:
        flipped, groups = gram_values.get(f"{formula}_flipped"), gram_values[formula]
        parts = {name: values.cpu().numpy() for name, values in groups.items()} if grouped else {}
        values = None if flipped is None else whole(flipped).cpu().numpy()
        kernels[formula] = Kernel(formula, whole(groups).cpu().numpy(), values, parts, provenance)
    return kernels
