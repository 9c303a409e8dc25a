"""Assembly: a template with its fixed pieces encoded once, ready to take texts.

Too long an example is shortened in its texts only, from their ends. First every text is cut to its own limit.
If the whole is still longer than ``max_length``, the longest text gives tokens until it is as long as the
next one, and so on: texts shorter than an equal share stay whole. (LM-BFF cuts the whole sequence instead,
and may cut the mask off.) Special tokens, the prompt's words and the mask always survive.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lmntk.errors import UserError
from lmntk.prompts.encoded_text import EncodedText
from lmntk.prompts.layout import Layout
from lmntk.prompts.template import Literal, Mask, Separator, Text
from lmntk.prompts.tokenization import PieceEncoder, Space

if TYPE_CHECKING:
    from lmntk.tasks.example import Example


def share_length(lengths: Sequence[int], budget: int) -> list[int]:
    """Return the kept length of every text, at most ``budget`` in all.

    The longest are shortened first, to equal lengths.

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


@dataclass(frozen=True)
class Limits:
    """The most tokens of a sequence and of its texts.

    Attributes:
        max_length: the longest sequence, special tokens included.
        text_a: the most tokens of the first text; None: no limit of its own.
        text_b: the same for the second.

    Raises:
        UserError: a limit that leaves no text.
    """

    max_length: int = 128
    text_a: int | None = None
    text_b: int | None = None

    def __post_init__(self) -> None:
        for name, limit in (("text_a_limit", self.text_a), ("text_b_limit", self.text_b)):
            if limit is not None and limit < 1:
                raise UserError(f"{name} {limit} leaves no text: use at least 1, or leave it out")


USUAL_LIMITS = Limits()


class Assembly:
    """Maker of sequences of one layout from examples.

    Attributes:
        smallest_length: the tokens that it needs for its fixed pieces and one token of every text.
    """

    def __init__(self, pieces: PieceEncoder, layout: Layout, limits: Limits) -> None:
        self._pieces = pieces
        self._layout = layout
        self._max_length = limits.max_length
        self._limits = {"a": limits.text_a, "b": limits.text_b}
        self._has_token_types = pieces.has_token_types and layout.has_token_types
        self._plan = list(_plan(pieces, layout))
        if self._has_token_types and self._plan[-1].token_type > 1:
            raise UserError(
                f"template {str(layout.template)!r} has {{sep+}} more than once, but this model has two "
                "token types: use {sep}"
            )
        self._fixed_length = sum(len(slot.ids) for slot in self._plan)
        self.smallest_length = self._fixed_length + len(layout.template.text_parts)

    def assemble(self, example: Example) -> EncodedText:
        """Return the example in the layout.

        Raises:
            UserError: if a text is missing, or no token comes out at all.
        """
        texts = [
            self._encode_text(slot.text, slot.space, example) for slot in self._plan if slot.text is not None
        ]
        limits = [self._limits[slot.text.field] for slot in self._plan if slot.text is not None]
        limited = [text[:limit] for text, limit in zip(texts, limits, strict=True)]
        shares = share_length([len(text) for text in limited], self._max_length - self._fixed_length)
        kept, waiting = iter(shares), iter(limited)
        ids: list[int] = []
        token_types: list[int] = []
        mask = None
        for slot in self._plan:
            if slot.is_mask:
                mask = len(ids)
            ids.extend(slot.ids if slot.text is None else next(waiting)[: next(kept)])
            token_types.extend([slot.token_type] * (len(ids) - len(token_types)))
        if not ids:
            raise UserError(
                f"example {example.text_a[:40]!r} has no token, and the prompt has none either: "
                "take the example out, or use a prompt with words of its own"
            )
        self._pieces.check_rows(ids)
        return EncodedText(
            ids=tuple(ids),
            read_position=self._layout.read_position(len(ids), mask),
            token_type_ids=tuple(token_types) if self._has_token_types else None,
            decoder_ids=self._layout.decoder_ids,
            was_cut=shares != [len(text) for text in texts],
        )

    def description(self) -> list[object]:
        """Return what decides the ids, as plain values."""
        layout = self._layout
        return [
            layout.reading,
            layout.decoder_ids,
            str(layout.template),
            self._max_length,
            self._limits,
            self._pieces.digest,
        ]

    def _encode_text(self, part: Text, space: Space, example: Example) -> list[int]:
        text = self._layout.text_of(part, example)
        return self._pieces.encode(text, space) if text else []


def _plan(pieces: PieceEncoder, layout: Layout) -> Iterable[_Slot]:
    token_type = 0
    at_start = True
    yield _Slot(pieces.prefix, token_type)
    for part in layout.template.parts:
        unspaced = Space.START if at_start else Space.GLUED
        at_start = False
        if isinstance(part, Text):
            yield _Slot((), token_type, text=part, space=Space.SPACED if part.leading_space else unspaced)
        elif isinstance(part, Literal):
            spaced = part.text.startswith(" ")
            ids = pieces.encode(part.text[1:], Space.SPACED) if spaced else pieces.encode(part.text, unspaced)
            yield _Slot(tuple(ids), token_type)
        elif isinstance(part, Mask):
            assert layout.mask is not None
            yield _Slot((layout.mask,), token_type, is_mask=True)
        elif isinstance(part, Separator):
            if pieces.separator is None:
                raise UserError(
                    f"template {str(layout.template)!r} uses a separator, but the tokenizer has no such "
                    "token: take it out"
                )
            yield _Slot((pieces.separator,), token_type)
            token_type += part.next_segment
            at_start = True
    yield _Slot(pieces.suffix if layout.keeps_suffix else (), token_type)
