"""Label words: the tokens that stand for each class where the model's output is read.

The common case is one word a class and one token a word; then f_c is the logit of that token. Beyond it every
class is a weighted sum of tokens' logits, f_c = Σ_u weights[c][u] · logit[ids[u]]:

* several words a class, written ``great|good``: the mean over the words;
* a word of several tokens: refused, unless ``reduce`` says that its ``first`` token stands for it, or the
  ``mean`` over all of its tokens' logits (at one position: nothing is generated).

Inside a sentence a word has a space before it, at the beginning of a chat's answer it has none: " great" and "great" are two
tokens of most vocabularies.
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

SPELLINGS = {"after a space": Space.SPACED, "at an answer's beginning": Space.GLUED}

_Row: TypeAlias = Mapping[int, Fraction]  # token id -> weight; exact, so that equal classes are found


def space_before(chat: bool) -> Space:
    """Return what is before a label word: nothing at the beginning of a chat's answer, a space anywhere else."""
    return Space.GLUED if chat else Space.SPACED


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
        space: Space = Space.SPACED,
    ) -> LabelWords:
        """Return the label words of the classes, in their order.

        A word is encoded as it stands inside a sentence, after a space, wherever it is predicted in one: " great" is
        one token of RoBERTa's, "great" another, which begins an answer.

        Args:
            tokenizer: the model's, or its pieces.
            words: one entry a class: a word, or several with ``|`` between them.
            reduce: what stands for a word of several tokens; None: such a word is an error.
            space: what is before a word; see ``space_before``.

        Raises:
            UserError: for fewer than two classes, a word that is empty, unknown or of several tokens, a word
                twice in one class, or two classes that are the same tokens.
        """
        if reduce not in (None, "first", "mean"):
            raise UserError(f"label-words-reduce: {reduce!r} is neither first nor mean")
        if isinstance(words, str) or len(words) < 2:
            raise UserError(f"label words {words!r}: give one word for each class, at least two")
        pieces = tokenizer if isinstance(tokenizer, PieceEncoder) else PieceEncoder(tokenizer)
        reader = _Reader(pieces, reduce, space)
        rows: list[_Row] = []
        for entry in words:
            row = reader.class_row(entry)
            if row in rows:
                earlier = words[rows.index(row)]
                raise UserError(
                    f"label word {entry!r} {reader.sameness(earlier, entry, row)}: "
                    "choose a different word for each class"
                )
            rows.append(row)
        ids = tuple(dict.fromkeys(token for row in rows for token in row))
        if all(len(row) == 1 for row in rows):  # they differ, so every class has a token of its own
            return cls(tuple(words), ids, None)
        return cls(tuple(words), ids, tuple(tuple(float(row.get(token, 0)) for token in ids) for row in rows))


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads words one by one, by a tokenizer and the two choices that hold for all of them."""

    pieces: PieceEncoder
    reduce: Reduce | None
    space: Space

    def class_row(self, entry: str) -> _Row:
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
            of_word = self.word_row(word)
            for earlier, other in seen:
                if other == of_word:
                    same = self.sameness(earlier, word, of_word)
                    raise UserError(f"label word {word!r} in {entry!r} {same}: keep one of them")
            seen.append((word, of_word))
            for token, weight in of_word.items():
                row[token] = row.get(token, Fraction(0)) + weight / len(words)
        return row

    def word_row(self, word: str) -> _Row:
        """Return the weights of one word: of its token, or of its tokens as ``reduce`` has it."""
        ids = self.tokens_of(word)
        if len(ids) > 1 and self.reduce is None:
            raise UserError(
                f"label word {word!r} is {len(ids)} tokens for this tokenizer ({_listed(self.pieces, ids)}"
                f"{self.elsewhere(word)}), not one: "
                "choose a word that is one token, often a shorter or more common one "
                f"(tokenizer.tokenize({self.written(word)!r}) shows a word's pieces), or pass "
                "--label-words-reduce mean or first"
            )
        if self.reduce == "first":
            return {ids[0]: Fraction(1)}
        return {token: Fraction(ids.count(token), len(ids)) for token in ids}

    def tokens_of(self, word: str) -> list[int]:
        """Return a word's ids, one or more."""
        stripped = word.strip()
        if not stripped:
            raise UserError(f"label word {word!r} is empty: choose a word that is one token")
        ids = self.pieces.encode(stripped, self.space)
        if self.pieces.unknown is not None and self.pieces.unknown in ids:
            raise UserError(
                f"label word {word!r} is not in the tokenizer's vocabulary{self.elsewhere(word)}: "
                "choose a word that is one token"
            )
        if not ids:
            raise UserError(
                f"label word {word!r} is 0 tokens for this tokenizer (nothing), not one: "
                "choose a word that is one token"
            )
        self.pieces.check_rows(ids)
        return ids

    def written(self, word: str) -> str:
        """Return a word with what is before it."""
        return (" " if self.space is Space.SPACED else "") + word.strip()

    def elsewhere(self, word: str) -> str:
        """Return, for an answer's word, that a space would make it another, in words for a message."""
        if self.space is Space.SPACED:
            return ""
        spaced = _listed(self.pieces, self.pieces.encode(word.strip(), Space.SPACED))
        return f" where an answer begins, with no space before it; with one {spaced}"

    def sameness(self, first: str, second: str, row: _Row) -> str:
        """Return what two entries with the same row have in common, for a message."""
        if first.strip() == second.strip():
            return "is given twice"
        if (
            self.reduce == "first"
            and len(row) == 1
            and len({tuple(self.tokens_of(entry)) for entry in (first, second)}) > 1
        ):
            [shown] = self.pieces.tokens(row)
            return (
                f"begins with the same token as {first!r} ({shown!r}), which stands for both unless "
                "--label-words-reduce is mean"
            )
        return f"is the same token{'s' if len(row) > 1 else ''} as {first!r} for this tokenizer"


def spellings(
    tokenizer: PreTrainedTokenizerBase | PieceEncoder, words: Sequence[str]
) -> dict[str, dict[str, list[str]]]:
    """Return the tokens of every word, both "after a space" and "at an answer's beginning"; a word is not known where there are none."""
    pieces = tokenizer if isinstance(tokenizer, PieceEncoder) else PieceEncoder(tokenizer)

    def tokens(word: str, space: Space) -> list[str]:
        ids = pieces.encode(word, space)
        return [] if pieces.unknown in ids else pieces.tokens(ids)

    every = dict.fromkeys(word.strip() for entry in words for word in entry.split("|") if word.strip())
    return {word: {name: tokens(word, space) for name, space in SPELLINGS.items()} for word in every}


def spelling_line(tokens: Mapping[str, Sequence[str]]) -> str:
    """Return one word of ``spellings`` in words: whether it is a single token, or how it is cut."""
    shown = {
        where: "unknown"
        if not each
        else f"one token {each[0]!r}"
        if len(each) == 1
        else f"{len(each)} tokens " + " + ".join(map(repr, each))
        for where, each in tokens.items()
    }
    return ", ".join(f"{where} {line}" for where, line in shown.items())


def _listed(pieces: PieceEncoder, ids: Sequence[int]) -> str:
    return " + ".join(repr(token) for token in pieces.tokens(ids))
