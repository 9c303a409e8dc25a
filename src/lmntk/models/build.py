"""From a loaded network and an encoder to the LogitModel whose tangents are taken."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from lmntk.errors import UserError
from lmntk.models.loading import Pretrained
from lmntk.models.logit_model import ClassifierModel, Features, HeadModel, LogitModel, PromptModel, untie_head
from lmntk.models.probe import frozen_features, linear_probe
from lmntk.prompts.batching import collate, length_sorted_batches
from lmntk.prompts.encoding import EncodedText, PromptEncoder
from lmntk.prompts.ensemble import EnsembleEncoder


def prompt_model(
    pretrained: Pretrained, encoder: PromptEncoder | EnsembleEncoder, difference: bool
) -> PromptModel:
    """Returns the model of a prompt's, or of several prompts' mean, label word logits."""
    return PromptModel(pretrained.network, encoder.label_ids, difference, encoder.label_weights)


def head_model(
    pretrained: Pretrained,
    texts: Sequence[EncodedText],
    labels: Sequence[int],
    classes: int,
    difference: bool,
    features: Features = "read",
    batch_size: int = 32,
) -> HeadModel:
    """Returns the model whose head is the linear probe of the training texts' features.

    Raises:
        UserError: a class without a training text, or features that the network has not.
    """
    order = length_sorted_batches([text.length for text in texts], batch_size)
    device = next(pretrained.network.parameters()).device
    batches = [
        {
            name: tensor.to(device)
            for name, tensor in collate([texts[i] for i in chosen], pretrained.pad_id).items()
        }
        for chosen in order
    ]
    found = frozen_features(pretrained.network, batches, features)
    restored = torch.empty_like(found)
    restored[[i for chosen in order for i in chosen]] = found
    return HeadModel(pretrained.network, linear_probe(restored, labels, classes), difference, features)


def own_head_model(pretrained: Pretrained, labels: Sequence[str], difference: bool) -> ClassifierModel:
    """Returns the classifier with the trained head that its checkpoint has.

    Raises:
        UserError: it has another number of classes than the task, or the same ones in another order.
    """
    names = [
        str(name)
        for _, name in sorted(pretrained.network.config.id2label.items(), key=lambda item: int(item[0]))
    ]
    if len(names) != len(labels):
        raise UserError(
            f"model: {pretrained.name!r} has a head of {len(names)} classes ({', '.join(names)}), and the task has {len(labels)}; use a "
            "classifier of this task, or a language model"
        )
    found, wanted = [_loose(name) for name in names], [_loose(label) for label in labels]
    if found != wanted and sorted(found) == sorted(wanted):
        raise UserError(
            f"model: the head of {pretrained.name!r} has the classes in the order {', '.join(names)}, and the task in the order "
            f"{', '.join(labels)}; give its texts as your own, with --train and --labels {','.join(names)}"
        )
    return ClassifierModel(pretrained.network, difference)


def any_model(pretrained: Pretrained, mode: str, features: Features = "read") -> LogitModel:
    """Returns a model with the parameters that a mode's models have, to try a parameter filter on before there are texts.

    Raises:
        UserError: features that the network has not.
    """
    if pretrained.kind == "classifier":
        if features != "read":
            raise UserError(
                f"features: the head of {pretrained.name!r} reads what it was trained on; leave {features!r} out"
            )
        return ClassifierModel(pretrained.network)
    if mode == "head":
        return HeadModel(pretrained.network, nn.Linear(1, 2), features=features)
    return PromptModel(pretrained.network, [0, 1])


def untie(pretrained: Pretrained) -> None:
    """Gives the vocabulary's head its own copy of a tied weight, in place; beside an adapter it stays frozen, as it was.

    Raises:
        UserError: there is no such head, or an adapter is on it.
    """
    decoder = pretrained.network.get_output_embeddings()
    if decoder is None:
        raise UserError(f"untie-head: {pretrained.name!r} has no head over a vocabulary; leave it out")
    tied = decoder.weight is pretrained.network.get_input_embeddings().weight
    if tied and dict(decoder.named_parameters(recurse=False)).get("weight") is not decoder.weight:
        raise UserError(
            f"untie-head: the adapter {pretrained.name!r} is on the tied head itself; leave it out"
        )
    untie_head(pretrained.network)


def _loose(name: str) -> str:
    """Returns a class's name as labels are compared: case, ``_`` and ``-`` are passed over."""
    return name.casefold().replace("_", " ").replace("-", " ").strip()
