"""A user's fine-tuned checkpoint as weights of the model at theta_0: the same architecture, other values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lmntk.errors import UserError
from lmntk.models.adapters import CONFIG_FILE, read_adapter
from lmntk.models.checkpoint import Checkpoint
from lmntk.models.fingerprint import BOOKKEEPING
from lmntk.models.hidden_states import is_encoder_decoder, without_wrapper
from lmntk.models.hub import Location
from lmntk.models.loading import Pretrained
from lmntk.models.logit_model import ClassifierModel, LogitModel, PromptModel
from lmntk.models.named_files import check_named_files
from lmntk.models.no_pickle import without_pickles
from lmntk.models.state import frozen
from lmntk.models.vocabulary import word_table
from lmntk.models.weights import at_weights
from lmntk.system.kept import DamagedError, load_tensors, without_checksums

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
PROBED_TOKENS = 7
# of the largest output: of two ways to the same network, one with an adapter merged
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}


def load_finetuned(path: Path, pretrained: Pretrained, model: LogitModel) -> dict[str, Tensor]:
    """Return fine-tuned weights by the names of ``model.named_parameters()``.

    Each has its parameter's shape and type.

    Args:
        path: a safetensors file of weights, named as the model's parameters or as its network's; a
            checkpoint's folder of the same architecture; or the folder of a LoRA adapter of the base, which
            is merged into the base's weights.
        pretrained: the base, at theta_0.
        model: made of it, by whatever mode; where it has a head of its own (a linear probe's), only a file of
            weights brings one.

    A folder's network is compared with the model at the weights returned, on a few tokens: one that differs
    in more than its parameters' values, such as the number of attention heads, is refused. Parameters that a
    file does not name stay.

    Memory: a second network, while it is read.

    Raises:
        UserError: no such file or folder; another architecture or tokenizer, with the parameter that differs;
            weights that are tied in one and not in the other; no head where the model has one.
    """
    path = Path(path).expanduser()
    if path.is_file():
        weights, apart = _named(_of_file(path), model, pretrained, str(path))
        if apart:
            raise UserError(apart)
        return weights
    location = Location(path, None)
    if not (location.has("config.json") or location.has(CONFIG_FILE)):
        raise UserError(
            f"finetuned: {str(path)!r} is neither a safetensors file nor a folder with a config.json or an "
            f"{CONFIG_FILE}; give the folder that the fine-tuned model was saved to"
        )
    _check_tokenizer(location, pretrained)
    with without_pickles(), torch.random.fork_rng(devices=[]):
        network = _network(
            location,
            pretrained,
            None if isinstance(model, ClassifierModel) else isinstance(model, PromptModel),
        )
    own = [name for name, _ in model.named_parameters() if not name.startswith("network.")]
    if own:
        raise UserError(
            f"finetuned: {str(path)!r} has no {own[0]!r}, the head that {pretrained.name!r} gets in head "
            "mode; give a safetensors file of all weights, or use prompt mode"
        )
    tensors = dict(network.named_parameters(remove_duplicate=False))
    weights, apart = _named(tensors, model, pretrained, str(path))
    wrong = _difference(network, weights, model, pretrained)
    if wrong and apart:  # of two values for one weight the network may use only the other
        weights, _ = _named(dict(reversed(tensors.items())), model, pretrained, str(path))
        if _difference(network, weights, model, pretrained):
            raise UserError(apart)
    elif wrong:
        raise UserError(
            f"finetuned: {str(path)!r} is not of the architecture of {pretrained.name!r}: {wrong}; "
            "fine-tune from the same checkpoint"
        )
    return weights


def _of_file(path: Path) -> dict[str, Tensor]:
    try:
        with without_checksums():
            return load_tensors(path)[0]  # of a file that lmntk wrote the checksums are compared
    except DamagedError as error:
        raise UserError(
            f"finetuned: {str(path)!r} is not a readable safetensors file ({error.reason}); give one, or a checkpoint's folder"
        ) from error


def _network(location: Location, pretrained: Pretrained, needs_head: bool | None) -> nn.Module:
    """Return a checkpoint's network, or the base's with an adapter merged into it."""
    dtype = next(pretrained.network.parameters()).dtype
    attention = getattr(pretrained.network.config, "_attn_implementation", None)
    name = str(location.folder)
    if not location.has(CONFIG_FILE):
        network, _, _ = Checkpoint(name, location, None).load(dtype, attention, pretrained.kind, needs_head)
        kept: nn.Module = network
        return kept
    if pretrained.adapter:
        raise UserError(
            f"finetuned: {name!r} is an adapter, and {pretrained.name!r} is one too; "
            "give the adapter's base as the model, or its trained weights as a safetensors file"
        )
    adapter = read_adapter(name, location)
    base = Location(Path(pretrained.name).expanduser(), None)
    if pretrained.revision is not None:
        from lmntk.models.hub import locate

        base = locate(pretrained.name, pretrained.revision)
    network, _, _ = Checkpoint(pretrained.name, base, adapter).load(
        dtype, attention, pretrained.kind, needs_head
    )
    return _merged(without_wrapper(network))


def _merged(network: nn.Module) -> nn.Module:
    """Return the network with its adapter's layers merged into plain ones."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import ModulesToSaveWrapper

    for name, child in list(network.named_children()):
        if isinstance(child, BaseTunerLayer):
            child.merge()
            setattr(network, name, child.get_base_layer())
        elif isinstance(child, ModulesToSaveWrapper):
            setattr(network, name, child.modules_to_save[child.active_adapters[0]])
        else:
            _merged(child)
    return network


def _named(
    tensors: Mapping[str, Tensor], model: LogitModel, pretrained: Pretrained, shown: str
) -> tuple[dict[str, Tensor], str]:
    """Return the weights by the model's own names, and a complaint or nothing.

    The complaint is that one weight of the model has two values; the first is taken.
    """
    named = dict(model.named_parameters())
    own = {id(parameter): name for name, parameter in named.items()}
    by_name = {name: own[id(p)] for name, p in model.named_parameters(remove_duplicate=False)}
    inside = {
        name: own[id(p)]
        for name, p in pretrained.network.named_parameters(remove_duplicate=False)
        if id(p) in own
    }
    outside = {
        name for name, p in pretrained.network.named_parameters(remove_duplicate=False) if id(p) not in own
    }
    weights: dict[str, Tensor] = {}
    from_name: dict[str, str] = {}
    apart = ""
    for name, value in tensors.items():
        own_name = by_name.get(name) or inside.get(name)
        if own_name is None:
            if name in outside:  # a vocabulary's head, in a mode that does not read it
                continue
            raise UserError(
                f"finetuned: {shown!r} is not of the architecture of {pretrained.name!r}: "
                f"it has {name!r}, which the base has not; fine-tune from the same checkpoint, and give the "
                "same kind"
            )
        parameter = named[own_name]
        if value.shape != parameter.shape:
            raise UserError(
                f"finetuned: {shown!r} is not of the architecture of {pretrained.name!r}: "
                f"{name!r} is {tuple(value.shape)}, and {tuple(parameter.shape)} in the base; "
                "fine-tune from the same checkpoint"
            )
        value = value.detach().to(parameter.device, parameter.dtype)
        if own_name in weights and not torch.equal(weights[own_name], value):
            apart = (
                f"finetuned: {shown!r} has {from_name[own_name]!r} and {name!r} apart, which are one weight "
                f"in {pretrained.name!r}; load the base with its head untied"
            )
        elif own_name not in weights:
            weights[own_name] = value.clone()
            from_name[own_name] = name
    if not weights:
        raise UserError(
            f"finetuned: {shown!r} has none of the parameters of {pretrained.name!r}; "
            "give weights of this model"
        )
    return weights, apart


def _check_tokenizer(location: Location, pretrained: Pretrained) -> None:
    """Refuse a checkpoint whose tokenizer has another vocabulary: the same words would be other tokens."""
    if not any(location.has(file) for file in TOKENIZER_FILES):
        return
    from transformers import AutoTokenizer

    from lmntk.models.checkpoint import loading

    check_named_files(str(location.folder), location)
    with loading(f"finetuned: cannot load the tokenizer of {str(location.folder)!r}"):
        vocabulary = AutoTokenizer.from_pretrained(
            str(location.folder), local_files_only=True, trust_remote_code=False
        ).get_vocab()
    own = pretrained.tokenizer.get_vocab()
    other = next(
        (word for word in sorted({*vocabulary, *own}) if vocabulary.get(word) != own.get(word)), None
    )
    if other is not None:
        raise UserError(
            f"finetuned: {str(location.folder)!r} has another tokenizer than {pretrained.name!r}: "
            f"{other!r} is token {vocabulary.get(other, 'none')}, and {own.get(other, 'none')} in the base; "
            "fine-tune from the same checkpoint"
        )


def _difference(
    network: Any, weights: Mapping[str, Tensor], model: LogitModel, pretrained: Pretrained
) -> str:
    """Return why a network computes something else than the base at its weights, or nothing.

    Names and shapes are the same.
    """
    base = pretrained.network
    device = next(base.parameters()).device
    table = word_table(base)
    size = 1 if table is None else len(table)
    ids = torch.randint(0, size, (1, PROBED_TOKENS), generator=torch.Generator().manual_seed(0)).to(device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if is_encoder_decoder(base):
        inputs["decoder_input_ids"] = ids[:, :2]
    network = network.to(device)
    with torch.no_grad(), frozen(network), frozen(base), at_weights(model, weights):
        there, here = network(**inputs)[0], base(**inputs)[0]
    largest = float((there - here).abs().max()) if there.shape == here.shape else float("inf")
    if largest <= TOLERANCE.get(here.dtype, 1e-2) * float(here.abs().max()):
        return ""
    first, second = (
        {name: value for name, value in each.config.to_dict().items() if name not in BOOKKEEPING}
        for each in (network, base)
    )
    names = [name for name in sorted({*first, *second}) if first.get(name) != second.get(name)]
    return (
        f"its configuration has another {', '.join(names[:4])}"
        if names
        else "the same weights give other outputs"
    )
