"""A predictor in a folder: ``predictor.json`` describes it, ``direction.safetensors`` holds v, and a probe if it has one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from lmntk.errors import UserError
from lmntk.models.build import logit_model, untie
from lmntk.models.loading import load_pretrained
from lmntk.models.logit_model import HeadModel, LogitModel
from lmntk.prediction.predictor import DecisionRule, PassLimits, Predictor
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
    read_record,
    save_tensors,
    write_record,
)

FORMAT = "lmntk predictor 2"
DESCRIPTION, DIRECTION = "predictor.json", "direction.safetensors"
_HEAD = "head:"


@dataclass(frozen=True)
class LoadedPredictor:
    """A predictor, what encodes texts for it, the classes' names, and its description."""

    predictor: Predictor
    encoder: TextEncoder
    labels: tuple[str, ...]
    description: dict[str, Any]


@dataclass(frozen=True)
class WantedPredictor:
    """Which of a run's predictors is wanted; by default the best on dev.

    Attributes:
        split: the split that it was solved on.
        method: its method, such as ``sgd ridge``.
        model: where its pre-trained model is now, if that has moved.
    """

    split: str | None = None
    method: str | None = None
    model: str | None = None


def save_predictor(
    folder: Path,
    directions: Sequence[Mapping[str, Tensor]],
    model: LogitModel,
    description: Mapping[str, Any],
) -> None:
    """Write both files, the description last: a folder without one holds no predictor.

    ``description`` is plain data with the entries that ``load_predictor`` reads: model, prompt, solution, labels.
    """
    tensors = {
        f"{index}:{name}": tensor
        for index, direction in enumerate(directions)
        for name, tensor in direction.items()
    }
    if isinstance(model, HeadModel):
        tensors |= {f"{_HEAD}{name}": parameter.detach() for name, parameter in model.head.named_parameters()}
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
    directions = _directions(folder / DIRECTION, tensors, model_of_logits)
    rule = DecisionRule(solution["intercept"], float(solution["f0_scale"]), solution["sharpness"])
    predictor = Predictor(model_of_logits, directions, pretrained.pad_id, rule, limits)
    return LoadedPredictor(predictor, encoder, labels, description)


def _directions(path: Path, tensors: Mapping[str, Tensor], model: LogitModel) -> list[dict[str, Tensor]]:
    """Return the directions in a file.

    Raises:
        DamagedError: one is missing, or is not of the model's parameters.
    """
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    directions: dict[str, dict[str, Tensor]] = {}
    for name, values in tensors.items():
        if not name.startswith(_HEAD):
            index, _, parameter = name.partition(":")
            if shapes.get(parameter) != values.shape:
                raise DamagedError(path, f"{name!r} {list(values.shape)} is no direction of a parameter")
            directions.setdefault(index, {})[parameter] = values
    if not directions or {str(index) for index in range(len(directions))} != set(directions):
        raise DamagedError(path, "directions are missing")
    return [directions[str(index)] for index in range(len(directions))]


def _head(tensors: Mapping[str, Tensor], device: torch.device) -> nn.Linear | None:
    """Return the linear head of head mode, if there is one."""
    if f"{_HEAD}weight" not in tensors:
        return None
    weight = tensors[f"{_HEAD}weight"]
    head = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype, device=device)
    head.load_state_dict({name: tensors[_HEAD + name] for name in ("weight", "bias")})
    return head


def read_description(folder: Path) -> dict[str, Any]:
    """Return what a folder's predictor is of.

    Raises:
        DamagedError: it is not what was written.
        UserError: there is none.
    """
    try:
        _check_format(folder)
        description: _Description = read_form(folder / DESCRIPTION, _Description)
    except FileNotFoundError:
        raise UserError(
            f"model-dir: {str(folder)!r} holds no predictor; make one with `lmntk run ... --save-models`"
        ) from None
    return description.model_dump()


def _check_format(folder: Path) -> None:
    """Refuse a predictor of another version.

    Raises:
        UserError: it is one.
    """
    written = read_record(folder / DESCRIPTION).get("format")
    if written != FORMAT and str(written).startswith(FORMAT[:-1]):
        raise UserError(
            f"model-dir: {str(folder)!r} has the format {written!r}, and this version reads {FORMAT!r}; "
            "run again with --save-models"
        )


def is_predictor(folder: Path) -> bool:
    """Return whether what ``save_predictor`` wrote is there, and whole; a damaged file is named."""
    described = or_none(lambda: read_form(folder / DESCRIPTION, _Description))
    return described is not None and is_whole(folder / DIRECTION)


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow")


class _ModelFacts(_Part):
    name: str
    fingerprint: str
    kind: str
    base: str | None
    revision: str | None
    gguf: str | None = None
    dtype: str
    attention: str | None
    untied: bool
    difference: bool
    features: str


class _PromptFacts(_Part):
    templates: Any
    label_words: Any
    chat: bool = False
    reduce: Any
    max_length: int
    text_a_limit: int | None


class _SolutionFacts(_Part):
    method: str
    intercept: float
    f0_scale: float
    sharpness: float


class _Description(_Part):
    """The entries of ``predictor.json`` that are read; others go along."""

    split: str
    dev: float
    mode: Literal["prompt", "head"]
    labels: list[str]
    model: _ModelFacts
    prompt: _PromptFacts
    solution: _SolutionFacts


def find_predictor(folder: Path, wanted: WantedPredictor) -> tuple[Path, list[str]]:
    """Return the wanted predictor's folder under a run's, or the folder itself, and the names of the others.

    Of several the one with the best dev metric is taken, the first by name of equals.

    Raises:
        UserError: none is there, or none of this split and method.
    """
    if (folder / DESCRIPTION).is_file():
        return folder, []
    paths = sorted(folder.glob(f"models/*/{DESCRIPTION}"))
    described = {path.parent: or_none(partial(read_description, path.parent)) for path in paths}
    candidates = {path: facts for path, facts in described.items() if facts is not None}
    if not candidates:
        raise UserError(
            f"model-dir: {str(folder)!r} holds no predictor; make one with `lmntk run ... --save-models`"
        )
    chosen = {
        path: facts
        for path, facts in candidates.items()
        if wanted.split in (None, facts["split"]) and wanted.method in (None, facts["solution"]["method"])
    }
    if not chosen:
        asked = " and ".join(
            f"{name} {value!r}"
            for name, value in (("split", wanted.split), ("method", wanted.method))
            if value is not None
        )
        there = ", ".join(path.name for path in candidates)
        raise UserError(f"model-dir: {str(folder)!r} has no predictor of {asked}; it has {there}")
    best = max(chosen, key=lambda path: chosen[path]["dev"])
    return best, [path.name for path in chosen if path != best]
