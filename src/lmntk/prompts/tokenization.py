"""Pieces of a prompt, each encoded by itself with exactly the space it should have.

A prompt is encoded piece by piece, as in LM-BFF, so that truncation can cut a text without touching the words
around it. What a piece alone turns into depends on the tokenizer's way with spaces, of which there are three,
found by experiment on the letter "a" and not by class name:

* *explicit* (RoBERTa, ModernBERT, GPT-2): "A" and " A" are different tokens, and nothing is added. We write
  the space, or not.
* *added* (ALBERT, DeBERTa-v2/v3, XLM-R, T5, Llama, byte-BPE with ``add_prefix_space``): a string that is
  encoded gets a space mark ("▁" or "Ġ") in front. That is right at the sequence's start and for a word after
  a space. For the "." after a mask it is wrong: there we take the tokenizer's own normaliser and
  pre-tokenizer, remove the one mark from the first pre-token, and hand the pre-tokens to its model. (The
  usual trick, encoding an anchor in front and cutting its ids off, fails when the anchor merges with what
  follows; removing the mark cannot.) Non-special added tokens are not looked for in such a piece.
* *immaterial* (BERT, DistilBERT, ELECTRA): words are cut at spaces, which are then forgotten.

A text is data: if it contains "[MASK]" or "</s>" it must not become that special token. The tokenizer's
backend is copied with ``encode_special_tokens`` on (the user's own is left as it was). Models that look whole
strings up, Unigram above all, would still find it in their vocabulary, so in the copy the special pieces have
names that no text contains; and what still comes out as a special id becomes the unknown token.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING, Any

from lmntk.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

_SPACE_MARKS = ("▁", "Ġ")
_SENTINEL = "<extra_id_0>"
ROWS = "rows_of_the_network"  # set on a tokenizer: how many words the network has a row for
_UNMATCHABLE = "\U0010ffff\U0010fffe"  # two code points that Unicode reserves as "not a character"


class Space(Enum):
    """The text that stands before a piece."""

    START = "nothing: it begins the sequence, or follows a separator"
    SPACED = "a space"
    GLUED = "the piece before it, without a space"


class PieceEncoder:
    """Encodes pieces of text without special tokens; also knows the special tokens that go around them.

    Attributes:
        prefix: ids that the tokenizer puts before a sequence, such as ``<s>``.
        suffix: ids that it puts after one, such as ``</s>``.
        separator: the id between two texts, or None.
        mask: the mask's id, or None.
        sentinel: the id of T5's ``<extra_id_0>``, which stands for a gap in the text, or None.
        unknown: the unknown token's id, or None.
        rows: how many ids the network has a row for, or None where that is not known.
        has_token_types: whether the model is given token types 0 and 1.
        name: the tokenizer's class, for messages.
        digest: sha256 of everything that decides how text becomes ids.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise UserError(
                f"tokenizer {type(tokenizer).__name__} has no fast form: "
                "save it as a tokenizer.json and load it from there"
            )
        self.name = type(tokenizer).__name__
        self.rows: int | None = getattr(tokenizer, ROWS, None)
        self.unknown: int | None = tokenizer.unk_token_id
        self.mask: int | None = tokenizer.mask_token_id
        known = tokenizer.convert_tokens_to_ids(_SENTINEL)
        self.sentinel: int | None = None if known == self.unknown else known
        self.separator: int | None = _first(tokenizer.sep_token_id, tokenizer.eos_token_id)
        self.has_token_types = "token_type_ids" in tokenizer.model_input_names
        self._special_ids = frozenset(tokenizer.all_special_ids).union(
            () if self.sentinel is None else (self.sentinel,)
        ) - {self.unknown}
        settings = json.loads(backend.to_str())
        settings.update(truncation=None, padding=None)  # these only record how the tokenizer was last called
        serialised = json.dumps(settings, sort_keys=True, ensure_ascii=True)
        special = {*tokenizer.all_special_tokens, *([] if self.sentinel is None else [_SENTINEL])}
        self._backend = _without_special_strings(settings, special, tokenizer.unk_token)
        self._adds_space = self._pretokens("a")[0].startswith(_SPACE_MARKS)
        self.prefix, self.suffix = self._surroundings(tokenizer)
        specials = [self.prefix, self.suffix, self.separator, self.mask, self.unknown, self.has_token_types]
        self.digest = hashlib.sha256((serialised + json.dumps(specials)).encode()).hexdigest()

    def encode(self, text: str, space: Space) -> list[int]:
        """Return the ids of ``text`` with ``space`` before it; never a special token's.

        Raises:
            UserError: if the text is not valid Unicode.
        """
        if space is Space.GLUED and text.startswith(" "):
            text, space = text[1:], Space.SPACED
        with valid_unicode(text):
            if space is Space.GLUED and self._adds_space:
                ids = self._encode_without_mark(text)
            else:
                added = " " if space is Space.SPACED and not self._adds_space else ""
                ids = self._backend.encode(added + text, add_special_tokens=False).ids
        if self._special_ids.isdisjoint(ids):
            return ids
        stand_in = [] if self.unknown is None else [self.unknown]
        known = ([each] if each not in self._special_ids else stand_in for each in ids)
        return [each for part in known for each in part]

    def ends(self, text: str) -> list[int]:
        """Return for each token of ``text`` alone how many characters lie before its end, none of them in part.

        Raises:
            UserError: if the text is not valid Unicode.
        """
        with valid_unicode(text):
            offsets = self._backend.encode(text, add_special_tokens=False).offsets
        next_starts = [*(start for start, _ in offsets), len(text)][
            1:
        ]  # several tokens may share a character
        return [min(end, start) for (_, end), start in zip(offsets, next_starts, strict=True)]

    def check_rows(self, ids: Sequence[int]) -> None:
        """Refuse an id that the network has no row for.

        Raises:
            UserError: there is one, as where a word was added to the tokenizer alone.
        """
        if self.rows is None or not ids or max(ids) < self.rows:
            return
        largest = max(ids)
        raise UserError(
            f"token {self.tokens([largest])[0]!r} has the id {largest} in the tokenizer, and the model has rows for "
            f"{self.rows} words; call resize_token_embeddings on the model, or take the token out of the tokenizer"
        )

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """Return the vocabulary's strings for ``ids``."""
        return [self._backend.id_to_token(token) or str(token) for token in ids]

    def _pretokens(self, text: str) -> list[str]:
        normalizer, pre_tokenizer = self._backend.normalizer, self._backend.pre_tokenizer
        normalised = normalizer.normalize_str(text) if normalizer is not None else text
        return (
            [piece for piece, _ in pre_tokenizer.pre_tokenize_str(normalised)]
            if pre_tokenizer is not None
            else [normalised]
        )

    def _encode_without_mark(self, text: str) -> list[int]:
        if not text:
            return []
        pretokens = self._pretokens(text)
        if pretokens and pretokens[0].startswith(_SPACE_MARKS):
            pretokens[0] = pretokens[0][1:]
        return [token.id for piece in pretokens if piece for token in self._backend.model.tokenize(piece)]

    def _surroundings(self, tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the special ids before and after a sequence, by looking at one."""
        probe = "a e 0 ."  # something that any vocabulary knows a part of
        body = self._backend.encode(probe, add_special_tokens=False).ids
        whole = self._backend.encode(probe, add_special_tokens=True).ids
        starts = [i for i in range(len(whole) - len(body) + 1) if whole[i : i + len(body)] == body]
        prefix, suffix = tuple(whole[: starts[0]]), tuple(whole[starts[0] + len(body) :])
        if not prefix and not suffix:  # a bare tokenizer file without a post-processor
            prefix = tuple(token for token in (tokenizer.cls_token_id,) if token is not None)
            suffix = tuple(token for token in (tokenizer.sep_token_id,) if token is not None)
        return prefix, suffix


@contextmanager
def valid_unicode(text: str) -> Iterator[None]:
    """Turn what tokenizers raise about a text that is no valid Unicode into a ``UserError``."""
    try:
        yield
    except (UnicodeError, TypeError) as error:
        raise UserError(
            f"text {text[:40]!r} is not valid Unicode (half of a surrogate pair): mend its encoding"
        ) from error


def _without_special_strings(settings: dict[str, Any], special: set[str], unknown: str | None) -> Tokenizer:
    """Return a tokenizer that reads the strings of special tokens as ordinary text; ids stay as they are."""
    from tokenizers import Tokenizer

    copied = json.loads(json.dumps(settings))
    for added in copied["added_tokens"]:
        added["special"] = added["special"] or added["content"] in special
    hidden = {added["content"] for added in copied["added_tokens"] if added["special"]} | special
    hidden -= {unknown, copied["model"].get("unk_token")}

    def renamed(piece: str) -> str:
        return _UNMATCHABLE + piece if piece in hidden else piece

    model = copied["model"]
    if model["type"] != "BPE":  # which reaches a piece by its merges only; the others look whole strings up
        vocabulary = model["vocab"]
        if isinstance(vocabulary, dict):
            model["vocab"] = {renamed(piece): index for piece, index in vocabulary.items()}
        else:
            model["vocab"] = [[renamed(piece), score] for piece, score in vocabulary]
        for added in copied["added_tokens"]:
            added["content"] = renamed(added["content"])
    backend = Tokenizer.from_str(json.dumps(copied))
    backend.encode_special_tokens = True
    return backend


def _first(*ids: int | None) -> int | None:
    return next((token for token in ids if token is not None), None)
