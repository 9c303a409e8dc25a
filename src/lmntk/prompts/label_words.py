"""Label words: the tokens that stand for each class where the model's output is read.

The common case is one word a class and one token a word; then f_c is the logit of that token. Beyond it every
class is a weighted sum of tokens' logits, f_c = Σ_u weights[c][u] · logit[ids[u]]:

* several words a class, written ``great|good``: the mean over the words;
* a word of several tokens: refused, unless ``reduce`` says that its ``first`` token stands for it, or the
  ``mean`` over all of its tokens' logits (at one position: nothing is generated).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Literal, TypeAlias

from lmntk.errors import UserError
from lmntk.prompts.tokenization import PieceEncoder, Space

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Reduce: TypeAlias = Literal["first", "mean"]

_Row: TypeAlias = Mapping[int, Fraction]  # token id -> weight; exact, so that equal classes are found


@dataclass(frozen=True, slots=True)
class LabelWords:
    """The classes as weighted sums of tokens' logits.

    Attributes:
        words: as given, one entry a class, alternatives joined by ``|``.
        ids: the token ids whose logits are needed, each once.
        weights: [classes][ids]; None: the identity, where class c is the logit of ``ids[c]`` alone.
    """

    words: tuple[str, ...]
    ids: tuple[int, ...]
    weights: tuple[tuple[float, ...], ...] | None

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.words)

    @classmethod
    def read(
        cls,
        tokenizer: PreTrainedTokenizerBase | PieceEncoder,
        words: Sequence[str],
        reduce: Reduce | None = None,
    ) -> LabelWords:
        """Return the label words of the classes, in their order.

        A word is encoded as it stands inside a sentence, after a space, wherever it is predicted: " great" is
        one token of RoBERTa's, "great" another.

        Args:
            tokenizer: the model's, or its pieces.
            words: one entry a class: a word, or several with ``|`` between them.
            reduce: what stands for a word of several tokens; None: such a word is an error.

        Raises:
            UserError: for fewer than two classes, a word that is empty, unknown or of several tokens, a word
                twice in one class, or two classes that are the same tokens.
        """
        if reduce not in (None, "first", "mean"):
            raise UserError(f"label-words-reduce: {reduce!r} is neither first nor mean")
        if isinstance(words, str) or len(words) < 2:
            raise UserError(f"label words {words!r}: give one word for each class, at least two")
        pieces = tokenizer if isinstance(tokenizer, PieceEncoder) else PieceEncoder(tokenizer)
        rows: list[_Row] = []
        for entry in words:
            row = _class_row(pieces, entry, reduce)
            if row in rows:
                earlier = words[rows.index(row)]
                raise UserError(
                    f"label word {entry!r} {_sameness(pieces, earlier, entry, row, reduce)}: "
                    "choose a different word for each class"
                )
            rows.append(row)
        ids = tuple(dict.fromkeys(token for row in rows for token in row))
        if all(len(row) == 1 for row in rows):  # they differ, so every class has a token of its own
            return cls(tuple(words), ids, None)
        return cls(tuple(words), ids, tuple(tuple(float(row.get(token, 0)) for token in ids) for row in rows))


def _class_row(pieces: PieceEncoder, entry: str, reduce: Reduce | None) -> _Row:
    """Return the weights of one class: the mean over its words' rows."""
    words = entry.split("|")
    if len(words) > 1 and not all(word.strip() for word in words):
        raise UserError(
            f"label words {entry!r} have an empty one beside '|': "
            "write one word between two bars, such as 'great|good'"
        )
    row: dict[int, Fraction] = {}
    seen: list[tuple[str, _Row]] = []
    for word in words:
        of_word = _word_row(pieces, word, reduce)
        for earlier, other in seen:
            if other == of_word:
                same = _sameness(pieces, earlier, word, of_word, reduce)
                raise UserError(f"label word {word!r} in {entry!r} {same}: keep one of them")
        seen.append((word, of_word))
        for token, weight in of_word.items():
            row[token] = row.get(token, Fraction(0)) + weight / len(words)
    return row


def _word_row(pieces: PieceEncoder, word: str, reduce: Reduce | None) -> _Row:
    ids = _tokens_of(pieces, word)
    if len(ids) > 1 and reduce is None:
        shown = " + ".join(repr(token) for token in pieces.tokens(ids))
        raise UserError(
            f"label word {word!r} is {len(ids)} tokens for this tokenizer ({shown}), not one: "
            "choose a word that is one token, often a shorter or more common one "
            f"(tokenizer.tokenize({' ' + word.strip()!r}) shows a word's pieces), or pass "
            "--label-words-reduce mean or first"
        )
    if reduce == "first":
        return {ids[0]: Fraction(1)}
    return {token: Fraction(ids.count(token), len(ids)) for token in ids}


def _tokens_of(pieces: PieceEncoder, word: str) -> list[int]:
    stripped = word.strip()
    if not stripped:
        raise UserError(f"label word {word!r} is empty: choose a word that is one token")
    ids = pieces.encode(stripped, Space.SPACED)
    if pieces.unknown is not None and pieces.unknown in ids:
        raise UserError(
            f"label word {word!r} is not in the tokenizer's vocabulary: choose a word that is one token"
        )
    if not ids:
        raise UserError(
            f"label word {word!r} is 0 tokens for this tokenizer (nothing), not one: "
            "choose a word that is one token"
        )
    pieces.check_rows(ids)
    return ids


def _sameness(pieces: PieceEncoder, first: str, second: str, row: _Row, reduce: Reduce | None) -> str:
    """Return what two entries with the same row have in common, for a message."""
    if first.strip() == second.strip():
        return "is given twice"
    if (
        reduce == "first"
        and len(row) == 1
        and len({tuple(_tokens_of(pieces, entry)) for entry in (first, second)}) > 1
    ):
        [shown] = pieces.tokens(row)
        return (
            f"begins with the same token as {first!r} ({shown!r}), which stands for both unless "
            "--label-words-reduce is mean"
        )
    return f"is the same token{'s' if len(row) > 1 else ''} as {first!r} for this tokenizer"
