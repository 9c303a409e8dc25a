"""Pre-trained models, adapters among them, from a folder or a hub name, with a fingerprint."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lmntk.errors import UserError
from lmntk.models.adapters import CONFIG_FILE, find_base, read_adapter
from lmntk.models.checkpoint import Checkpoint, loading
from lmntk.models.configuration import setting
from lmntk.models.fingerprint import fingerprint
from lmntk.models.gguf import ENDING, GgufFile, parsed_once
from lmntk.models.hidden_states import is_decoder_only, is_encoder_decoder
from lmntk.models.hub import Location, locate, looks_local
from lmntk.models.kinds import check_kind, reading_of
from lmntk.models.no_pickle import without_pickles
from lmntk.models.tokenizer import gguf_file, quiet, read_tokenizer
from lmntk.models.vocabulary import word_table
from lmntk.prompts.tokenization import ROWS

__all__ = ["DTYPES", "Pretrained", "fingerprint", "load_pretrained"]

DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Pretrained:
    """A loaded network with its tokenizer.

    ``fingerprint`` is a sha256 of its content; ``kind`` one of masked, causal, seq2seq, classifier;
    ``adapter`` says that only an adapter's parameters require a gradient; ``revision`` is the hub commit that
    the name was read at, None for a folder; ``gguf`` the file that it was dequantised from, if it was.
    """

    network: Any
    tokenizer: Any
    name: str
    fingerprint: str
    stored_dtype: str
    kind: str = "masked"
    adapter: bool = False
    revision: str | None = None
    gguf: GgufFile | None = None

    @property
    def pad_id(self) -> int:
        """The id that fills batches up; where there is none with a row in the table, 0: the mask hides it.

        A decoder-only classifier finds the last token by its configuration's id, which therefore goes first.
        """
        own, configured = self.tokenizer.pad_token_id, setting(self.network.config, "pad_token_id")
        by_id = self.kind == "classifier" and is_decoder_only(self.network)
        if by_id and configured is not None:
            return int(configured)
        table = word_table(self.network)
        rows = math.inf if table is None else len(table)
        known = (value for value in (own, configured) if value is not None and 0 <= value < rows)
        return int(next(known, 0))

    @property
    def decoder_start(self) -> int | None:
        """The id with which an encoder-decoder's decoder starts, as its library generates; None: no decoder.

        Raises:
            UserError: no configuration names it.
        """
        if not is_encoder_decoder(self.network):
            return None
        generation = getattr(self.network, "generation_config", None)
        for name in ("decoder_start_token_id", "bos_token_id"):
            for holder in (self.network.config, generation):
                start = setting(holder, name)
                if start is not None:
                    return int(start)
        raise UserError(
            f"model: {self.name!r} does not say with which token its decoder starts; "
            "set decoder_start_token_id in its config.json"
        )

    def reading(self, mode: str) -> str:
        """Return the token that a mode, prompt or head, reads: "mask", "first", "last" or "decoder".

        Raises:
            UserError: there is no such mode, or a classifier is asked for prompt mode.
        """
        return reading_of(self.kind, mode, is_decoder_only(self.network))


def load_pretrained(
    name: str,
    dtype: str = "float32",
    attention: str | None = None,
    *,
    kind: str = "auto",
    revision: str | None = None,
    base: str | None = None,
    needs_head: bool | None = True,
    gguf: str | None = None,
) -> Pretrained:
    """Return the model and tokenizer of a local folder, or of a hub name when there is no such folder.

    Weights stored in half precision are computed with in ``dtype``. No pickle is read, safetensors only, and
    no code of a repository is run. The network is used only for a hub name.

    Args:
        name: a model or a PEFT adapter, which is put on the base model that it names.
        dtype: float32 or float64.
        attention: transformers' attention implementation.
        kind: masked, causal, seq2seq or classifier; "auto" goes by the checkpoint's architecture or the
            adapter's task.
        revision: a branch, tag or commit of the hub name; of the base's, when an adapter is in a folder.
        base: the base model of an adapter, in place of the one that it names.
        needs_head: False takes a checkpoint without the head of its kind too, None unless it is a classifier:
            head mode reads the base model alone, but a classifier's own head.
        gguf: the name of a GGUF file in the folder or the repository; ``name`` may be such a file's path itself.

    Raises:
        UserError: no such folder or name, a folder without config or weights, weights or a head missing,
            quantised weights without an adapter, a kind that the model has not, an adapter that does not fit.
    """
    if dtype not in DTYPES:
        raise UserError(f"dtype: {dtype!r} is not one of {', '.join(DTYPES)}")
    check_kind(kind)
    with quiet(), without_pickles(), torch.random.fork_rng(devices=[]):
        if gguf is not None or name.endswith(ENDING):
            return _of_gguf(name, gguf, revision, DTYPES[dtype], attention, kind, base)
        local = looks_local(name)
        location = locate(name, None if local else revision)
        if location.has(CONFIG_FILE):
            adapter = read_adapter(name, location)
            # An adapter in a folder has no revision of its own: the one given is its base's.
            base_name, weights = find_base(adapter, base, revision if local else None)
            if kind == "auto" and adapter.kind is not None:
                kind = adapter.kind
            checkpoint = Checkpoint(base_name, weights, adapter)
        else:
            if not location.has("config.json"):
                where = "a folder" if local else "a hub repository"
                raise UserError(
                    f"model: {name!r} is not {where} with a config.json; "
                    "give a Hugging Face model folder or a hub name"
                )
            if base is not None:
                raise UserError(
                    f"base: {name!r} is a whole model, not an adapter; "
                    f"leave the base {base!r} out, or give an adapter"
                )
            if local and revision is not None:
                raise UserError(
                    f"model: {name!r} is a folder, which has no revision {revision!r}; "
                    "leave it out, or give a hub name"
                )
            checkpoint = Checkpoint(name, location, None)
        network, kind, stored = checkpoint.load(DTYPES[dtype], attention, kind, needs_head)
        tokenizer = _tokenizer(name, location if _has_tokenizer(location) else checkpoint.location, network)
    if kind == "classifier":
        _set_padding(name, network, tokenizer)
    commit = location.revision or checkpoint.location.revision
    return Pretrained(
        network, tokenizer, name, fingerprint(network), stored, kind, checkpoint.adapter is not None, commit
    )


def _of_gguf(
    name: str,
    file: str | None,
    revision: str | None,
    dtype: torch.dtype,
    attention: str | None,
    kind: str,
    base: str | None,
) -> Pretrained:
    """Return the model in a GGUF file, whose tokenizer is in it too."""
    if base is not None:
        raise UserError(f"base: {name!r} is a whole model, not an adapter; leave the base {base!r} out")
    with parsed_once():
        gguf, commit = gguf_file(name, file, revision)
        network, kind, stored = gguf.load(dtype, attention, kind)
        tokenizer = _limited(name, gguf.tokenizer(), network)
    if kind == "classifier":
        _set_padding(name, network, tokenizer)
    return Pretrained(network, tokenizer, name, fingerprint(network), stored, kind, False, commit, gguf)


def _tokenizer(name: str, location: Location, network: Any) -> Any:
    """Return the tokenizer of a folder; see ``_limited``."""
    return _limited(name, read_tokenizer(name, location), network)


def _limited(name: str, tokenizer: Any, network: Any) -> Any:
    """Return a tokenizer, cut to the positions and the words that the network has rows for."""
    table = word_table(network)
    if table is not None:
        setattr(tokenizer, ROWS, len(table))
    with loading(f"model: cannot tell how long texts may be for {name!r}"):
        positions = setting(network.config, "max_position_embeddings")
        if positions is not None and positions > 0:  # XLNet, which has no limit, says -1
            padding = _padding_of_positions(network)
            taken = 0 if padding is None else padding + 1  # RoBERTa counts from there
            tokenizer.model_max_length = min(tokenizer.model_max_length, positions - taken)
    return tokenizer


def _has_tokenizer(location: Location) -> bool:
    """Return whether the folder has a tokenizer, which an adapter's has only sometimes."""
    return location.has("tokenizer_config.json") or location.has("tokenizer.json")


def _set_padding(name: str, network: Any, tokenizer: Any) -> None:
    """Give a decoder-only classifier the id that ends a text, where its configuration has none.

    Raises:
        UserError: neither the tokenizer nor the configuration names one.
    """
    config = network.config
    if setting(config, "pad_token_id") is not None or not is_decoder_only(network):
        return
    ends = setting(config, "eos_token_id")
    ends = ends[0] if isinstance(ends, list) else ends
    for candidate in (tokenizer.pad_token_id, tokenizer.eos_token_id, ends):
        if candidate is not None:
            config.pad_token_id = int(candidate)
            return
    raise UserError(
        f"model: {name!r} is a classifier that needs a padding token to find a text's end; "
        "give its tokenizer a pad_token"
    )


def _padding_of_positions(network: nn.Module) -> int | None:
    """Return the padding row of the position table, if there is a table with one."""
    tables = (
        module
        for name, module in network.named_modules()
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding)
    )
    return next((table.padding_idx for table in tables), None)
