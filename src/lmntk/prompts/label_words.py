"""Label words: the one token at the mask that stands for each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lmntk.errors import UserError
from lmntk.prompts.pieces import PieceEncoder, Space

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def label_word_ids(tokenizer: PreTrainedTokenizerBase | PieceEncoder, words: Sequence[str]) -> tuple[int, ...]:
    """Return the token id of every label word, in the order of the classes.

    A word is encoded as it stands inside a sentence, after a space, wherever the mask is: " great" is one token of
    RoBERTa's, "great" another.

    Raises:
        UserError: for fewer than two words, a word that is not exactly one known token, or two words with the same token.
    """
    if isinstance(words, str) or len(words) < 2:
        raise UserError(f"label words {words!r}: give one word for each class, at least two")
    pieces = tokenizer if isinstance(tokenizer, PieceEncoder) else PieceEncoder(tokenizer)
    word_of: dict[int, str] = {}
    for word in words:
        token = _label_word_id(pieces, word)
        if token in word_of:
            first = word_of[token]
            same = "is given twice" if first == word else f"is the same token as {first!r} for this tokenizer"
            raise UserError(f"label word {word!r} {same}: choose a different word for each class")
        word_of[token] = word
    return tuple(word_of)


def _label_word_id(pieces: PieceEncoder, word: str) -> int:
    stripped = word.strip()
    if not stripped:
        raise UserError(f"label word {word!r} is empty: choose a word that is one token")
    ids = pieces.encode(stripped, Space.SPACED)
    if pieces.unknown is not None and pieces.unknown in ids:
        raise UserError(f"label word {word!r} is not in the tokenizer's vocabulary: choose a word that is one token")
    if len(ids) != 1:
        shown = " + ".join(repr(token) for token in pieces.tokens(ids)) or "nothing"
        raise UserError(
            f"label word {word!r} is {len(ids)} tokens for this tokenizer ({shown}), not one: choose a word that is one token, "
            f"often a shorter or more common one (tokenizer.tokenize({' ' + stripped!r}) shows a word's pieces)"
        )
    return ids[0]
