"""A predictor in a folder: ``predictor.json`` describes it, ``direction.safetensors`` holds v, and a probe if it has one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lmntk.errors import UserError
from lmntk.kernels.low_rank import Part, TrainedPart, names_in
from lmntk.models.build import logit_model, untie
from lmntk.models.filters import ParameterFilter
from lmntk.models.loading import load_pretrained
from lmntk.models.logit_model import HeadModel, LogitModel, combined
from lmntk.prediction.by_kernel import KernelPredictor, SharedSolution
from lmntk.prediction.description import DESCRIPTION, FORMAT, Description, read_description
from lmntk.prediction.limits import PassLimits
from lmntk.prediction.predictor import DecisionRule, Predictor
from lmntk.prompts.assembly import Limits
from lmntk.prompts.encoding import HeadEncoder, TextEncoder
from lmntk.prompts.ensemble import make_prompt_encoder
from lmntk.system.devices import move_to
from lmntk.system.kept import (
    DamagedError,
    is_whole,
    load_tensors,
    or_none,
    read_form,
    save_tensors,
    write_record,
)
from lmntk.tasks.example import Example

DIRECTION = "direction.safetensors"
_HEAD, _SHARED = "head:", "shared:"


@dataclass(frozen=True)
class LoadedPredictor:
    """A predictor, what encodes texts for it, the classes' names, and its description."""

    predictor: Predictor
    encoder: TextEncoder
    labels: tuple[str, ...]
    description: dict[str, Any]


def save_predictor(
    folder: Path,
    directions: Sequence[Mapping[str, Tensor]],
    model: LogitModel,
    description: Mapping[str, Any],
    shared: SharedSolution | None = None,
) -> None:
    """Write both files, the description last: a folder without one holds no predictor.

    Args:
        folder: where they go.
        directions: v, one for all logits or one a logit; none of a model that was left as it was.
        model: of the logits; its head is written too.
        description: plain data with the entries that ``description.Description`` names.
        shared: the solution of a shared kernel, whose ``train_texts`` the description has.
    """
    tensors = {
        f"{index}:{name}": tensor
        for index, direction in enumerate(directions)
        for name, tensor in direction.items()
    }
    if isinstance(model, HeadModel):
        tensors |= {f"{_HEAD}{name}": parameter.detach() for name, parameter in model.head.named_parameters()}
    if shared is not None:
        tensors |= {
            f"{_SHARED}coefficients": torch.from_numpy(shared.coefficients),
            f"{_SHARED}combinations": torch.from_numpy(shared.combinations),
        }
    (folder / DESCRIPTION).unlink(missing_ok=True)
    save_tensors(folder / DIRECTION, tensors, {"format": FORMAT})
    write_record(folder / DESCRIPTION, {"format": FORMAT, **description})


def load_predictor(
    folder: Path, model: str | None = None, device: str = "auto", limits: PassLimits | None = None
) -> LoadedPredictor:
    """Return the predictor in a folder, with its pre-trained model.

    Args:
        folder: what ``save_predictor`` wrote.
        model: where the pre-trained model is now, if it has moved; its weights must be the same.
        device: where to compute.
        limits: texts in one pass, and the memory.

    Raises:
        UserError: no predictor there, or a pre-trained model with other weights than it was made with.
    """
    description = read_description(folder)
    try:
        tensors, _ = load_tensors(folder / DIRECTION)
    except FileNotFoundError:
        raise DamagedError(folder, f"it has no {DIRECTION}") from None
    facts, prompt, solution = description["model"], description["prompt"], description["solution"]
    pretrained = load_pretrained(
        model or facts["name"],
        facts["dtype"],
        facts["attention"],
        kind=facts["kind"],
        revision=facts["revision"],
        gguf=facts["gguf"],
        base=facts["base"],
        needs_head=True if description["mode"] == "prompt" else None,
    )
    if pretrained.fingerprint != facts["fingerprint"]:
        where = repr(model or facts["name"])
        raise UserError(
            f"predictor: {where} has other weights than the model that {str(folder)!r} was made with; give that with --model"
        )
    chosen = move_to(pretrained, device)
    if facts["untied"]:
        untie(pretrained)
    settings: dict[str, Any] = {
        "reading": pretrained.reading(description["mode"]),
        "decoder_start": pretrained.decoder_start,
    }
    text_limits = Limits(prompt["max_length"], prompt["text_a_limit"])
    labels = tuple(description["labels"])
    encoder: TextEncoder
    if description["mode"] == "prompt":
        texts = prompt["templates"], prompt["label_words"], text_limits
        encoder = make_prompt_encoder(
            pretrained.tokenizer, *texts, reduce=prompt["reduce"], chat=prompt["chat"], **settings
        )
    else:
        encoder = HeadEncoder(pretrained.tokenizer, text_limits, **settings)
    model_of_logits = logit_model(
        pretrained,
        encoder,
        facts["difference"],
        labels=labels,
        features=facts["features"],
        head=_head(tensors, chosen),
    )
    if facts["centred"]:
        model_of_logits = combined(
            model_of_logits, torch.eye(len(labels), dtype=torch.float64) - 1 / len(labels)
        )
    directions = _directions(folder / DIRECTION, tensors, model_of_logits)
    intercept = solution["intercept"]
    rule = DecisionRule(
        tuple(intercept) if isinstance(intercept, list) else intercept,
        float(solution["f0_scale"]),
        solution["sharpness"],
    )
    pad_id, solved = pretrained.pad_id, _shared(description, tensors, model_of_logits, encoder)
    if solved is not None:
        predictor: Predictor = KernelPredictor(model_of_logits, solved, pad_id, rule, limits)
    else:
        predictor = Predictor(model_of_logits, directions, pad_id, rule, limits)
    return LoadedPredictor(predictor, encoder, labels, description)


def _directions(path: Path, tensors: Mapping[str, Tensor], model: LogitModel) -> list[dict[str, Tensor]]:
    """Return the directions in a file; none of a model that was left as it was.

    Raises:
        DamagedError: one is missing, or is not of the model's parameters.
    """
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    directions: dict[str, dict[str, Tensor]] = {}
    for name, values in tensors.items():
        if not name.startswith((_HEAD, _SHARED)):
            index, _, parameter = name.partition(":")
            if shapes.get(parameter) != values.shape:
                raise DamagedError(path, f"{name!r} {list(values.shape)} is not the direction of a parameter")
            directions.setdefault(index, {})[parameter] = values
    if {str(index) for index in range(len(directions))} != set(directions):
        raise DamagedError(path, "directions are missing")
    return [directions[str(index)] for index in range(len(directions))]


def _shared(
    description: Mapping[str, Any], tensors: Mapping[str, Tensor], model: LogitModel, encoder: TextEncoder
) -> SharedSolution | None:
    """Return the solution of a shared kernel, if the predictor is one."""
    if f"{_SHARED}coefficients" not in tensors:
        return None
    texts = [encoder.encode(Example(*parts)) for parts in description["train_texts"]]
    coefficients, combinations = (
        tensors[f"{_SHARED}{name}"].numpy() for name in ("coefficients", "combinations")
    )
    return SharedSolution(texts, coefficients, combinations, trainable_in(description, model)[0])


def trainable_in(description: Mapping[str, Any], model: LogitModel) -> tuple[dict[str, nn.Parameter], Part]:
    """Return the parameters whose gradients a predictor's kernel is made of, by name, and what trains of them.

    Raises:
        UserError: the model does not have what trained.
    """
    chosen: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in description["parameters"].items()
    }
    every = ParameterFilter(**chosen).select(model)
    trained = TrainedPart.of(description.get("trained", {}))
    part: Part = None
    if not trained.is_all:
        has_new_head = description["mode"] == "head" and description["model"]["kind"] != "classifier"
        part = trained.on(model, tuple(every), has_new_head)
    return names_in(part, every), part


def _head(tensors: Mapping[str, Tensor], device: torch.device) -> nn.Linear | None:
    """Return the linear head of head mode, if there is one."""
    if f"{_HEAD}weight" not in tensors:
        return None
    weight = tensors[f"{_HEAD}weight"]
    head = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype, device=device)
    head.load_state_dict({name: tensors[_HEAD + name] for name in ("weight", "bias")})
    return head


def is_predictor(folder: Path) -> bool:
    """Return whether what ``save_predictor`` wrote is there, and whole; a damaged file is named."""
    described = or_none(lambda: read_form(folder / DESCRIPTION, Description))
    return described is not None and is_whole(folder / DIRECTION)
