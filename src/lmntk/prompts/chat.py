"""Chats: a prompt as the one message of a tokenizer's chat template, read where the answer begins.

The whole chat is encoded at once, as transformers would, for tokens may reach over the ends of a text. Too long an example is
shortened in its texts only, as everywhere (``assembly.py``): a text's characters are taken away from its end, a token's at a time,
and the chat is encoded anew, so that what comes out is the chat of a shorter text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from lmntk.errors import UserError
from lmntk.prompts.assembly import Limits, share_length
from lmntk.prompts.chat_template import DATE, ChatTemplate, chat_template_of
from lmntk.prompts.encoded_text import EncodedText
from lmntk.prompts.layout import Layout, Reading
from lmntk.prompts.template import Literal, Separator, Text
from lmntk.prompts.tokenization import PieceEncoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lmntk.tasks.example import Example


def check_chats(tokenizer: PreTrainedTokenizerBase, reading: Reading) -> None:
    """Refuse a model that has no chats.

    Raises:
        UserError: it is not read from left to right, or its tokenizer has no chat template.
    """
    if reading != "last":
        raise UserError("chat: a chat needs a causal model, and this model is not causal; leave chat out")
    chat_template_of(tokenizer)


class ChatAssembly:
    """Maker of chats of one prompt from examples.

    Attributes:
        smallest_length: the tokens that it needs without texts, and one of every text.
        shown: the whole prompt as text, with ``{a}`` and ``{b}`` where the texts go.
        date: the one date that the chat template prints; None where it prints none.

    Raises:
        UserError: the tokenizer has no chat template, or the template of the prompt has separator tokens.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, pieces: PieceEncoder, layout: Layout, limits: Limits
    ) -> None:
        if any(isinstance(part, Separator) for part in layout.template.parts):
            raise UserError(
                f"template {str(layout.template)!r} has {{sep}}, and a chat's message is text without special tokens: "
                "write a new line there, or leave chat out"
            )
        self._pieces = pieces
        self._layout = layout
        self._max_length = limits.max_length
        self._limits = {"a": limits.text_a, "b": limits.text_b}
        self._chat = ChatTemplate(tokenizer, pieces)
        self.shown = self._chat.render(self._message(str))
        self.date = DATE if self._chat.has_date else None
        self._fixed_length = len(self._chat.encode(self._message(lambda part: "")))
        self.smallest_length = self._fixed_length + len(layout.template.text_parts)

    def assemble(self, example: Example) -> EncodedText:
        """Return the example's chat.

        Raises:
            UserError: a text is missing.
        """
        parts = self._layout.template.text_parts
        texts = [self._layout.text_of(part, example) for part in parts]
        ends = [self._pieces.ends(text) for text in texts]
        limits = [self._limits[part.field] for part in parts]
        lengths = [len(each[:limit]) for each, limit in zip(ends, limits, strict=True)]
        kept, room = lengths, self._max_length - self._fixed_length
        while len(ids := self._encode(texts, ends, kept)) > self._max_length and any(kept):
            kept = share_length(lengths, max(room, 0))
            room -= 1
        self._pieces.check_rows(ids)
        return EncodedText(
            ids=tuple(ids),
            read_position=self._layout.read_position(len(ids), None),
            token_type_ids=None,
            was_cut=kept != [len(each) for each in ends],
        )

    def description(self) -> list[object]:
        """Return what decides the ids, as plain values."""
        return [
            "chat",
            self._chat.source,
            self.shown,
            self.date,
            str(self._layout.template),
            self._max_length,
            self._limits,
            self._pieces.digest,
        ]

    def _encode(self, texts: list[str], ends: list[list[int]], kept: list[int]) -> list[int]:
        """Return the ids of the chat with the first so many tokens of every text."""
        cut = iter(
            text if count == len(end) else text[: end[count - 1]] if count else ""
            for text, end, count in zip(texts, ends, kept, strict=True)
        )
        return self._chat.encode(self._message(lambda part: _spaced(part, next(cut))))

    def _message(self, written: Callable[[Text], str]) -> str:
        """Return the user's message, with what is written in place of each text."""
        parts = self._layout.template.parts
        return "".join(
            written(part) if isinstance(part, Text) else part.text
            for part in parts
            if isinstance(part, Text | Literal)
        )


def _spaced(part: Text, text: str) -> str:
    return f" {text}" if text and part.leading_space else text
