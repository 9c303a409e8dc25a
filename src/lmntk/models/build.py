"""From a loaded network and an encoder to the LogitModel whose tangents are taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lmntk.errors import UserError
from lmntk.models.apart import TextsApart
from lmntk.models.loading import Pretrained
from lmntk.models.logit_model import ClassifierModel, Features, HeadModel, LogitModel, PromptModel, untie_head
from lmntk.models.probe import frozen_features, linear_probe
from lmntk.models.state import Batch
from lmntk.models.vocabulary import head_of, head_weight, is_tied
from lmntk.prompts.batching import collate, length_sorted_batches
from lmntk.prompts.encoding import EncodedText, PromptEncoder, TextEncoder
from lmntk.prompts.ensemble import EnsembleEncoder
from lmntk.tasks.labels import loose


@dataclass(frozen=True)
class Probe:
    """The training texts whose frozen features a linear probe is fitted to, and how it is fitted."""

    texts: Sequence[EncodedText]
    labels: Sequence[int]
    classes: int
    batch_size: int = 32


def logit_model(
    pretrained: Pretrained,
    encoder: TextEncoder,
    difference: bool,
    *,
    labels: Sequence[str] = (),
    features: Features = "read",
    head: Probe | nn.Linear | None = None,
) -> LogitModel:
    """Return the model whose tangents are taken, by what reads the text and what the checkpoint is.

    A prompt's label words are read by ``PromptModel``; a classifier keeps the trained head of its checkpoint;
    any other network gets a linear head.

    Args:
        pretrained: the loaded network.
        encoder: what turns the texts into tokens: with a prompt or without.
        difference: fold two classes into one output.
        labels: the classes, in order; a classifier's own must be the same, unless none are given.
        features: what a linear head reads.
        head: the linear head, or the texts that it is fitted to.

    Raises:
        UserError: a classifier with other classes, features that the network has not, or a class without a text.

    Example:
        >>> model = logit_model(pretrained, encoder, difference=True)  # doctest: +SKIP
    """
    if isinstance(encoder, PromptEncoder | EnsembleEncoder):
        return PromptModel(pretrained.network, encoder.label_ids, difference, encoder.label_weights)
    if pretrained.kind == "classifier":
        if features != "read":
            raise UserError(
                f"features: the head of {pretrained.name!r} reads what it was trained on; leave {features!r} out"
            )
        if labels:
            _check_classes(pretrained, labels)
        return ClassifierModel(pretrained.network, difference)
    if head is None:
        raise UserError(f"model: {pretrained.name!r} has no head of its own; give training texts for one")
    linear = head if isinstance(head, nn.Linear) else _fitted(pretrained, head, features)
    return HeadModel(pretrained.network, linear, difference, features)


def own_classes(pretrained: Pretrained) -> list[str]:
    """Return the classes of a classifier's own head, in order."""
    named = pretrained.network.config.id2label.items()
    return [str(name) for _, name in sorted(named, key=lambda item: int(item[0]))]


def _fitted(pretrained: Pretrained, probe: Probe, features: Features) -> nn.Linear:
    return linear_probe(
        text_features(pretrained, probe.texts, features, probe.batch_size), probe.labels, probe.classes
    )


def text_features(
    pretrained: Pretrained, texts: Sequence[EncodedText], features: Features = "read", batch_size: int = 32
) -> Tensor:
    """Return the frozen features [n, i] of texts, in their order; they do not depend on ``batch_size``."""
    device = next(pretrained.network.parameters()).device

    def batch_of(chosen: Sequence[EncodedText]) -> Batch:
        return {name: tensor.to(device) for name, tensor in collate(chosen, pretrained.pad_id).items()}

    def features_of(batch: Batch) -> Tensor:
        return frozen_features(pretrained.network, [batch], features)

    is_apart = TextsApart(pretrained.pad_id).holds(features_of, texts, device)
    order = length_sorted_batches([text.length for text in texts], batch_size if is_apart else 1)
    batches = [batch_of([texts[i] for i in chosen]) for chosen in order]
    by_batch = frozen_features(pretrained.network, batches, features)
    restored = torch.empty_like(by_batch)
    restored[[i for chosen in order for i in chosen]] = by_batch
    return restored


def _check_classes(pretrained: Pretrained, labels: Sequence[str]) -> None:
    names = own_classes(pretrained)
    if len(names) != len(labels):
        raise UserError(
            f"model: {pretrained.name!r} has a head of {len(names)} classes ({', '.join(names)}), and the task has {len(labels)}; use a "
            "classifier of this task, or a language model"
        )
    found, wanted = [loose(name) for name in names], [loose(label) for label in labels]
    if found != wanted and sorted(found) == sorted(wanted):
        raise UserError(
            f"model: the head of {pretrained.name!r} has the classes in the order {', '.join(names)}, and the task in the order "
            f"{', '.join(labels)}; give its texts as your own, with --train and --labels {','.join(names)}"
        )


def untie(pretrained: Pretrained) -> None:
    """Give the vocabulary's head its own copy of a tied weight, in place; beside an adapter it stays frozen, as it was.

    Raises:
        UserError: there is no such head, or an adapter is on it.
    """
    decoder = head_of(pretrained.network)
    if decoder is None or head_weight(pretrained.network) is None:
        raise UserError(f"untie-head: {pretrained.name!r} has no head over a vocabulary; leave it out")
    if (
        is_tied(pretrained.network)
        and dict(decoder.named_parameters(recurse=False)).get("weight") is not decoder.weight
    ):
        raise UserError(
            f"untie-head: the adapter {pretrained.name!r} is on the tied head itself; leave it out"
        )
    untie_head(pretrained.network)
