"""From an example to token ids, and the position whose output is read.

Too long an example is shortened in its texts only, from their ends. First every text is cut to its own limit. If the
whole is still longer than ``max_length``, the longest text gives tokens until it is as long as the next one, and so on:
texts shorter than an equal share stay whole. (LM-BFF cuts the whole sequence instead, and may cut the mask off.)
Special tokens, the prompt's words and the mask always survive.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from lmntk.errors import UserError
from lmntk.prompts.label_words import label_word_ids
from lmntk.prompts.pieces import PieceEncoder, Space
from lmntk.prompts.template import Literal, Mask, Separator, Template, Text, parse_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lmntk.tasks.example import Example

_NO_LIMIT = 10**9  # transformers writes 1e30 where a tokenizer knows no limit


@dataclass(frozen=True, slots=True)
class EncodedText:
    """One example as token ids, and the index of the position that is read; ``token_type_ids`` is None where the model has none."""

    ids: tuple[int, ...]
    read_position: int
    token_type_ids: tuple[int, ...] | None


class TextEncoder(Protocol):
    """What both encoders offer."""

    max_length: int

    def encode(self, example: Example) -> EncodedText:
        """Return the example's token ids."""
        ...

    def fingerprint(self) -> str:
        """Return a hash that changes whenever some example's ids could."""
        ...


class PromptEncoder:
    """Puts examples into a prompt; what is read is the mask, and the classes are the label words' logits there.

    Args:
        tokenizer: the model's tokenizer; it is not changed.
        template: where the texts and the mask stand, parsed or as written.
        label_words: one for each class, in order.
        max_length: the longest sequence, in tokens, special tokens included.
        text_a_limit: the most tokens of the first text; None: no limit of its own.
        text_b_limit: the same for the second.

    Raises:
        UserError: for a tokenizer without a mask, label words that are not one token, or a length that cannot hold the prompt.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: Template | str,
        label_words: Sequence[str],
        max_length: int = 128,
        text_a_limit: int | None = None,
        text_b_limit: int | None = None,
    ) -> None:
        self.template = parse_template(template) if isinstance(template, str) else template
        self.label_words = tuple(label_words)
        self.max_length = max_length
        pieces = PieceEncoder(tokenizer)
        if not self.template.has_mask:
            raise UserError(f"template '{self.template}' has no mask: write {{mask}} where the label word goes")
        if pieces.mask is None:
            raise UserError(f"tokenizer {type(tokenizer).__name__} has no mask token: use a masked language model, or head mode")
        self.label_ids = label_word_ids(pieces, label_words)
        self._assembly = _Assembly(pieces, self.template, max_length, text_a_limit, text_b_limit)
        check_max_length(tokenizer, max_length, self._assembly.smallest_length)

    def encode(self, example: Example) -> EncodedText:
        """Return the prompt around the example's texts; ``read_position`` is the mask's.

        Raises:
            UserError: if the template uses ``{b}`` and the example has no second text.
        """
        ids, mask, token_types = self._assembly.assemble(example)
        assert mask is not None
        return EncodedText(ids, mask, token_types)

    def fingerprint(self) -> str:
        """Return a sha256 over the prompt, label words, limits and tokenizer; equal ones give equal ids for every example."""
        return _sha256("prompt", self._assembly.description(), self.label_words, self.label_ids)


class HeadEncoder:
    """Encodes examples without a prompt, ``<s> A </s>`` or ``<s> A </s> B </s>``; what is read is the first token.

    One separator stands between the texts, as in LM-BFF; models with token types get 0 up to it and 1 after it.
    Arguments as for :class:`PromptEncoder`.

    Raises:
        UserError: for a tokenizer that puts no token before a sequence, or a length that cannot hold a text.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, max_length: int = 128, text_a_limit: int | None = None, text_b_limit: int | None = None
    ) -> None:
        self.max_length = max_length
        pieces = PieceEncoder(tokenizer)
        if not pieces.prefix:
            raise UserError(
                f"tokenizer {type(tokenizer).__name__} puts no token such as [CLS] or <s> first, which head mode reads: use a prompt"
            )
        self._single = _Assembly(pieces, parse_template("{a}", require_mask=False), max_length, text_a_limit, text_b_limit)
        check_max_length(tokenizer, max_length, self._single.smallest_length)
        self._pair: _Assembly | None = None
        if pieces.separator is not None:
            self._pair = _Assembly(pieces, parse_template("{a}{sep+}{b}", require_mask=False), max_length, text_a_limit, text_b_limit)

    def encode(self, example: Example) -> EncodedText:
        """Return the example's texts between special tokens; ``read_position`` is 0.

        Raises:
            UserError: if the example has two texts and they do not fit, or the tokenizer has no separator.
        """
        assembly = self._single
        if example.text_b is not None:
            if self._pair is None:
                raise UserError("the tokenizer has no separator token, so head mode takes one text: leave the second out, or use a prompt")
            if self.max_length < self._pair.smallest_length:
                raise UserError(f"max_length {self.max_length} is too small for two texts: use at least {self._pair.smallest_length}")
            assembly = self._pair
        ids, _, token_types = assembly.assemble(example)
        return EncodedText(ids, 0, token_types)

    def fingerprint(self) -> str:
        """Return a sha256 over the limits and tokenizer."""
        return _sha256("head", self._single.description())


def check_max_length(tokenizer: PreTrainedTokenizerBase, max_length: int, smallest: int) -> None:
    """Refuse a length that cannot hold the prompt, or that the model has no positions for."""
    if max_length < smallest:
        raise UserError(f"max_length {max_length} leaves no room for the text: use at least {smallest}")
    limit = tokenizer.model_max_length
    if limit is not None and limit < _NO_LIMIT and max_length > limit:
        raise UserError(f"max_length {max_length} is more than the {limit} tokens that this model takes: use {limit} or less")


def fitting_length(tokenizer: PreTrainedTokenizerBase, length: int) -> int:
    """Return ``length``, or the most tokens that the model takes if that is less."""
    limit = tokenizer.model_max_length
    return length if limit is None or limit >= _NO_LIMIT else min(length, limit)


def share_length(lengths: Sequence[int], budget: int) -> list[int]:
    """Return how much of every text is kept, at most ``budget`` in all: the longest are shortened first, to equal lengths.

    >>> share_length([3, 50, 40], 43)
    [3, 20, 20]
    """
    kept = [0] * len(lengths)
    waiting = sorted(range(len(lengths)), key=lambda index: lengths[index])
    for done, index in enumerate(waiting):
        kept[index] = min(lengths[index], budget // (len(waiting) - done))
        budget -= kept[index]
    return kept


@dataclass(frozen=True, slots=True)
class _Slot:
    """A part of the plan: ids that never change, or (``text``) a place for a text; with its token type."""

    ids: tuple[int, ...]
    token_type: int
    text: Text | None = None
    space: Space = Space.START
    is_mask: bool = False


class _Assembly:
    """The template with its fixed pieces encoded once, ready to take texts."""

    def __init__(
        self, pieces: PieceEncoder, template: Template, max_length: int, text_a_limit: int | None, text_b_limit: int | None
    ) -> None:
        for name, limit in (("text_a_limit", text_a_limit), ("text_b_limit", text_b_limit)):
            if limit is not None and limit < 1:
                raise UserError(f"{name} {limit} leaves no text: use at least 1, or leave it out")
        self._pieces = pieces
        self._template = template
        self._max_length = max_length
        self._limits = {"a": text_a_limit, "b": text_b_limit}
        self._plan = list(_plan(pieces, template))
        if pieces.has_token_types and self._plan[-1].token_type > 1:
            raise UserError(f"template '{template}' has {{sep+}} more than once, but this model has two token types: use {{sep}}")
        self._fixed_length = sum(len(slot.ids) for slot in self._plan)
        self.smallest_length = self._fixed_length + len(template.text_parts)

    def assemble(self, example: Example) -> tuple[tuple[int, ...], int | None, tuple[int, ...] | None]:
        """Return the ids, the mask's index and the token types of one example."""
        texts = [self._encode_text(slot, example) for slot in self._plan if slot.text is not None]
        kept = iter(share_length([len(text) for text in texts], self._max_length - self._fixed_length))
        waiting = iter(texts)
        ids: list[int] = []
        token_types: list[int] = []
        mask = None
        for slot in self._plan:
            if slot.is_mask:
                mask = len(ids)
            ids.extend(slot.ids if slot.text is None else next(waiting)[: next(kept)])
            token_types.extend([slot.token_type] * (len(ids) - len(token_types)))
        return tuple(ids), mask, tuple(token_types) if self._pieces.has_token_types else None

    def description(self) -> list[object]:
        """Return what decides the ids, as plain values."""
        return [str(self._template), self._max_length, self._limits, self._pieces.digest]

    def _encode_text(self, slot: _Slot, example: Example) -> list[int]:
        assert slot.text is not None
        text = example.text_a if slot.text.field == "a" else example.text_b
        if text is None:
            raise UserError(
                f"template '{self._template}' uses {{b}}, but the example {example.text_a[:40]!r} has no second text: "
                "add one, or use a template without {b}"
            )
        text = slot.text.apply(text)
        return self._pieces.encode(text, slot.space)[: self._limits[slot.text.field]] if text else []


def _plan(pieces: PieceEncoder, template: Template) -> Iterable[_Slot]:
    token_type = 0
    at_start = True
    yield _Slot(pieces.prefix, token_type)
    for part in template.parts:
        unspaced = Space.START if at_start else Space.GLUED
        at_start = False
        if isinstance(part, Text):
            yield _Slot((), token_type, text=part, space=Space.SPACED if part.leading_space else unspaced)
        elif isinstance(part, Literal):
            spaced = part.text.startswith(" ")
            ids = pieces.encode(part.text[1:], Space.SPACED) if spaced else pieces.encode(part.text, unspaced)
            yield _Slot(tuple(ids), token_type)
        elif isinstance(part, Mask):
            yield _Slot(() if pieces.mask is None else (pieces.mask,), token_type, is_mask=True)
        elif isinstance(part, Separator):
            if pieces.separator is None:
                raise UserError(f"template '{template}' uses a separator, but the tokenizer has no such token: take it out")
            yield _Slot((pieces.separator,), token_type)
            token_type += part.next_segment
            at_start = True
    yield _Slot(pieces.suffix, token_type)


def _sha256(*values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
