"""Kinds of models: what a checkpoint is for, by its configuration, and where each kind is read."""

from __future__ import annotations

from typing import Any

from lmntk.errors import UserError
from lmntk.models.configuration import setting

KINDS = {
    "masked": "masked-language-model",
    "causal": "causal-language-model",
    "seq2seq": "sequence-to-sequence",
    "classifier": "classification",
}
CLASSES = {
    "masked": "AutoModelForMaskedLM",
    "causal": "AutoModelForCausalLM",
    "seq2seq": "AutoModelForSeq2SeqLM",
    "classifier": "AutoModelForSequenceClassification",
}
PROMPT_READING = {"masked": "mask", "causal": "last", "seq2seq": "decoder"}
HEAD_READING = {"masked": "first", "causal": "last", "seq2seq": "decoder"}


def check_kind(kind: str) -> str:
    """Return the kind, or "auto".

    Raises:
        UserError: there is no such kind.
    """
    if kind != "auto" and kind not in KINDS:
        raise UserError(f"kind: {kind!r} is not one of auto, {', '.join(KINDS)}")
    return kind


def reading_of(kind: str, mode: str, decoder_only: bool) -> str:
    """Return the token that a mode reads: "mask", "first", "last", or "decoder".

    The last is the first token that an encoder-decoder writes.

    A classifier's head reads the last token when its base is decoder-only, else the first.
    """
    if mode not in ("prompt", "head"):
        raise UserError(f"mode: {mode!r} is not one of prompt, head")
    if mode == "prompt":
        if kind not in PROMPT_READING:
            raise UserError(
                "prompt mode: a classifier has no vocabulary to read label words from; use head mode"
            )
        return PROMPT_READING[kind]
    return HEAD_READING.get(kind, "last" if decoder_only else "first")


def auto_class(kind: str, config: Any = None) -> Any:
    """Return the class of transformers that loads a kind; a causal one may be filed under another.

    So are listening models: text is the decoder-only part of what transformers calls sequence to sequence.
    """
    import transformers

    if kind == "causal" and config is not None and _is_filed_as_seq2seq(config):
        kind = "seq2seq"
    return getattr(transformers, CLASSES[kind])


def _is_filed_as_seq2seq(config: Any) -> bool:
    """Return whether a configuration without encoder and decoder has a class among those only."""
    return (
        has_kind(config, "seq2seq")
        and not has_kind(config, "causal")
        and not setting(config, "is_encoder_decoder", False)
    )


def has_kind(config: Any, kind: str) -> bool:
    """Return whether transformers files a class of this kind for a configuration's model."""
    return type(config) in auto_class(kind)._model_mapping


def can_do_without_cache(config: Any) -> bool:
    """Return whether a model runs without a cache of keys and values: FSMT does not in float64, by its masks."""
    return bool(setting(config, "model_type") != "fsmt")


def kinds_of(config: Any) -> list[str]:
    """Return the kinds that a configuration's model can be loaded as.

    An encoder is no causal model although transformers has a class for it: it would see the words that it is
    to predict.
    """
    known = [kind for kind in KINDS if has_kind(config, kind)]
    if setting(config, "is_encoder_decoder", False):
        return [kind for kind in known if kind == "seq2seq"]
    if _is_filed_as_seq2seq(config):
        return [*("causal" if kind == "seq2seq" else kind for kind in known)]
    known = [kind for kind in known if kind != "seq2seq"]
    if "masked" in known and not setting(config, "is_decoder", False):
        return [kind for kind in known if kind != "causal"]
    return known


def kind_of(config: Any, name: str, kind: str = "auto") -> str:
    """Return the kind to load a model as: the one asked for, or what its checkpoint was saved as.

    Raises:
        UserError: the model has no such kind, or none at all.
    """
    known = kinds_of(config)
    architecture = (getattr(config, "architectures", None) or [""])[0]
    classifier = architecture.endswith("ForSequenceClassification")
    if setting(config, "is_encoder_decoder", False) and (
        kind == "classifier" or (kind == "auto" and classifier)
    ):
        raise UserError(
            f"model: {name!r} is a {config.model_type} model, an encoder-decoder, which is not read as a "
            "classifier; use kind seq2seq and head mode"
        )
    if kind != "auto":
        if kind in known:
            return kind
        also = f"it can be loaded as {' or '.join(known)}" if known else f"give a {kind} checkpoint"
        raise UserError(
            f"model: {name!r} is a {config.model_type} model, which has no {KINDS[kind]} head; {also}"
        )
    if classifier and "classifier" in known:
        return "classifier"
    masked = architecture.endswith(("ForMaskedLM", "ForPreTraining"))
    for candidate in ("masked", "causal", "seq2seq") if masked else ("seq2seq", "causal", "masked"):
        if candidate in known:
            return candidate
    raise UserError(
        f"model: {name!r} ({architecture or 'no architecture'}, {config.model_type}) is no language model of "
        f"a kind known here: {', '.join(KINDS)}; give one of these"
    )
