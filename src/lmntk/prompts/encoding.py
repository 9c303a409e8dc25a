"""Encoders, with a prompt or without: from an example to token ids and the position whose output is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from lmntk.errors import UserError
from lmntk.prompts.assembly import USUAL_LIMITS, Assembly, Limits
from lmntk.prompts.chat import ChatAssembly, check_chats
from lmntk.prompts.encoded_text import EncodedText
from lmntk.prompts.label_words import LabelWords, Reduce, space_before
from lmntk.prompts.layout import Layout, Reading, needed_start, prompt_layout
from lmntk.prompts.template import Template, parse_template
from lmntk.prompts.tokenization import PieceEncoder, Space

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lmntk.tasks.example import Example

__all__ = [
    "EncodedText",
    "HeadEncoder",
    "PromptEncoder",
    "TextEncoder",
    "check_max_length",
    "encode_whole",
    "fitting_length",
    "sha256_of",
]

_NO_LIMIT = 10**9  # transformers writes 1e30 where a tokenizer knows no limit


class TextEncoder(Protocol):
    """The methods of every encoder."""

    max_length: int
    text_a_limit: int | None
    date: str | None

    @property
    def uses_text_b(self) -> bool:
        """A flag: there is a place for a second text."""
        ...

    def encode(self, example: Example) -> EncodedText:
        """Return the example's token ids."""
        ...

    def fingerprint(self) -> str:
        """Return a hash that changes whenever some example's ids could."""
        ...


class PromptEncoder:
    """Put examples into a prompt; the classes are the label words' logits at the position that is read.

    Args:
        tokenizer: the model's tokenizer; it is not changed.
        template: where the texts and the mask stand, parsed or as written. For "last" it ends where the label
            word is to come, or is cut at its mask; for "decoder" the mask may be left out.
        label_words: one entry for each class, in order; ``great|good`` is the mean of two.
        limits: the most tokens of the sequence and of each text.
        reading: "mask", "last" (causal models) or "decoder" (an encoder with a decoder).
        decoder_start: the id that the decoder starts from, which "decoder" needs; other readings do not look
            at it.
        reduce: what stands for a label word of several tokens, "first" or "mean"; None: such a word is an
            error.
        chat: put the prompt into the tokenizer's chat template, as the user's message; a label word is then
            what the answer begins with, without a space before it. For "last" alone.

    Attributes:
        template: what the sequence is made of, without what "last" drops.
        chat: the whole chat as text, with ``{a}`` and ``{b}`` where the texts go; None: no chat.
        date: the one date that the chat template prints, if it prints any.
        label_words: as given.
        label_ids: the u token ids whose logits are needed.
        label_weights: [classes][u]; None: class c is the logit of ``label_ids[c]``.
        classes: how many classes there are.

    Raises:
        UserError: for a template that this tokenizer and reading cannot serve, label words that do not stand
            for the classes, or a length that cannot hold the prompt.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: Template | str,
        label_words: Sequence[str],
        limits: Limits = USUAL_LIMITS,
        *,
        reading: Reading = "mask",
        decoder_start: int | None = None,
        reduce: Reduce | None = None,
        chat: bool = False,
    ) -> None:
        if chat:
            check_chats(tokenizer, reading)
        parsed = template
        if isinstance(parsed, str):
            parsed = parse_template(parsed, require_mask=reading == "mask")
        pieces = PieceEncoder(tokenizer)
        layout = prompt_layout(pieces, parsed, reading, decoder_start)
        self.template = layout.template
        self.templates: tuple[Template, ...] = (layout.template,)
        self.reading: Reading = reading
        self.max_length = limits.max_length
        self.text_a_limit = limits.text_a
        self.labels = LabelWords.read(pieces, label_words, reduce, space_before(chat))
        self.label_words, self.label_ids, self.label_weights = (
            self.labels.words,
            self.labels.ids,
            self.labels.weights,
        )
        self.classes = self.labels.classes
        self._reduce = reduce
        in_chat = ChatAssembly(tokenizer, pieces, layout, limits) if chat else None
        self.chat: str | None = None if in_chat is None else in_chat.shown
        self.date: str | None = None if in_chat is None else in_chat.date
        self._assembly = in_chat or Assembly(pieces, layout, limits)
        check_max_length(tokenizer, limits.max_length, self._assembly.smallest_length)

    @property
    def uses_text_b(self) -> bool:
        """A flag: the prompt has a place for a second text."""
        return self.template.uses_text_b

    def encode(self, example: Example) -> EncodedText:
        """Return the prompt around the example's texts.

        ``read_position`` is where the label word is predicted.

        Raises:
            UserError: if the template uses ``{b}`` and the example has no second text, or nothing is left to
                read.
        """
        return self._assembly.assemble(example)

    def fingerprint(self) -> str:
        """Return a sha256 over the prompt, reading, label words, limits and tokenizer.

        Equal ones give equal ids and classes.
        """
        return sha256_of(
            "prompt",
            self._assembly.description(),
            self.label_words,
            self.label_ids,
            self.label_weights,
            self._reduce,
        )


class HeadEncoder:
    """Encodes examples without a prompt, such as ``<s> A </s>`` or ``<s> A </s> B </s>``.

    What is read is the first token ("first"), the last ("last", without the tokens that end a sequence) or
    the decoder's start token ("decoder"). One separator stands between two texts, as in LM-BFF; models with
    token types get 0 up to it and 1 after it. For "last" a tokenizer without a separator of its own puts a
    line break there, or else a space: its end of text would part the second text from the first. Arguments as
    for :class:`PromptEncoder`.

    Raises:
        UserError: for "first" and a tokenizer that puts no token before a sequence, or a length that cannot
            hold a text.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        limits: Limits = USUAL_LIMITS,
        *,
        reading: Reading = "first",
        decoder_start: int | None = None,
    ) -> None:
        if reading not in ("first", "last", "decoder"):
            raise ValueError(
                f"reading {reading!r} is not one that head mode has: use 'first', 'last' or 'decoder'"
            )
        self.max_length = limits.max_length
        self.text_a_limit = limits.text_a
        self.date: str | None = None
        self.reading: Reading = reading
        pieces = PieceEncoder(tokenizer)
        if reading == "first" and not pieces.prefix:
            raise UserError(
                f"tokenizer {pieces.name} puts no token such as [CLS] or <s> first, which head mode reads: "
                "use a prompt"
            )
        decoder_ids = (needed_start(decoder_start),) if reading == "decoder" else None

        def assembly(template: str) -> Assembly:
            layout = Layout(reading, parse_template(template, require_mask=False), decoder_ids=decoder_ids)
            return Assembly(pieces, layout, limits)

        self._single = assembly("{a}")
        check_max_length(tokenizer, limits.max_length, self._single.smallest_length)
        pair = "{a}{sep+}{b}"
        if reading == "last" and tokenizer.sep_token_id is None:
            pair = "{a}\n{b}" if _has_line_break(pieces) else "{a} {b}"
        self._pair = assembly(pair) if pieces.separator is not None or reading == "last" else None
        self.uses_text_b = True

    def encode(self, example: Example) -> EncodedText:
        """Return the example's texts between special tokens.

        Raises:
            UserError: if the example has two texts and they do not fit, the tokenizer has no separator, or
                nothing is left to read.
        """
        if example.text_b is None:
            return self._single.assemble(example)
        if self._pair is None:
            raise UserError(
                "the tokenizer has no separator token, so head mode takes one text: "
                "leave the second out, or use a prompt"
            )
        if self.max_length < self._pair.smallest_length:
            raise UserError(
                f"max_length {self.max_length} is too small for two texts: "
                f"use at least {self._pair.smallest_length}"
            )
        return self._pair.assemble(example)

    def fingerprint(self) -> str:
        """Return a sha256 over the reading, limits and tokenizer."""
        return sha256_of("head", self._single.description(), self._pair and self._pair.description())


def encode_whole(encoder: TextEncoder, example: Example) -> EncodedText:
    """Return the example's token ids, of all of its texts.

    Raises:
        UserError: the encoder's prompt has no place for its second text, which would be left out.
    """
    if not encoder.uses_text_b and example.text_b and example.text_b.strip():
        raise UserError(
            f"template without {{b}}, but the example {example.text_a[:40]!r} has a second text: "
            "put {b} where it goes, or leave its column out"
        )
    return encoder.encode(example)


def check_max_length(tokenizer: PreTrainedTokenizerBase, max_length: int, smallest: int) -> None:
    """Refuse a length that cannot hold the prompt, or that the model has no positions for."""
    if max_length < smallest:
        raise UserError(f"max_length {max_length} leaves no room for the text: use at least {smallest}")
    limit = tokenizer.model_max_length
    if limit is not None and limit < _NO_LIMIT and max_length > limit:
        raise UserError(
            f"max_length {max_length} is more than the {limit} tokens that this model takes: "
            f"use {limit} or less"
        )


def fitting_length(tokenizer: PreTrainedTokenizerBase, length: int) -> int:
    """Return ``length``, or the most tokens that the model takes if that is less."""
    limit = tokenizer.model_max_length
    return length if limit is None or limit >= _NO_LIMIT else min(length, limit)


def sha256_of(*values: object) -> str:
    """Return a hash of plain values, the same in every run."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _has_line_break(pieces: PieceEncoder) -> bool:
    """Return whether the tokenizer keeps a line break: many read it as a space, or know no token for it."""
    ids = pieces.encode("\n", Space.GLUED)
    return bool(ids) and pieces.unknown not in ids
