"""Small tokenizers of every kind, trained here on a few sentences, and the real ones of shared/ where they are present."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AlbertTokenizer,
    AutoTokenizer,
    BertTokenizer,
    DebertaV2Tokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
    XLMRobertaTokenizer,
)

SHARED = Path(__file__).resolve().parents[3] / "shared"

WORDS = [
    "terrible",
    "great",
    "bad",
    "okay",
    "good",
    "subjective",
    "objective",
    "Description",
    "Entity",
    "Expression",
    "Human",
    "Location",
    "Number",
    "world",
    "sports",
    "business",
    "tech",
    "No",
    "Yes",
    "Maybe",
    "It",
    "was",
    "This",
    "is",
    "This",
    "article",
    "is",
    "about",
    "news",
]

SENTENCES = [
    *(f"it said {word} and {word}, then {word}." for word in WORDS),
    *(f"{word} {word}" for word in WORDS),
    "A film of real charm: no plot, no script? A great cast, and (almost) no noise!",
    "What is the capital of France? The capital of France is Paris.",
    "He said that the market fell by 3 percent; she did not agree.",
    "the quick brown fox jumps over the lazy dog, THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG 0123456789",
] * 4

ROBERTA_SPECIALS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
BERT_SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def _byte_bpe(add_prefix_space: bool) -> PreTrainedTokenizerBase:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        SENTENCES, trainers.BpeTrainer(vocab_size=1500, special_tokens=ROBERTA_SPECIALS, initial_alphabet=alphabet, show_progress=False)
    )
    backend.model.save(_scratch())
    vocabulary = backend.get_vocab()
    merges = [
        tuple(line.split(" ")) for line in (Path(_scratch()) / "merges.txt").read_text().splitlines() if not line.startswith("#version")
    ]
    return RobertaTokenizer(vocab=vocabulary, merges=merges, add_prefix_space=add_prefix_space, model_max_length=512)


@lru_cache
def _scratch() -> str:
    import tempfile

    return tempfile.mkdtemp()


def _word_piece() -> PreTrainedTokenizerBase:
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.train_from_iterator(SENTENCES, trainers.WordPieceTrainer(vocab_size=1500, special_tokens=BERT_SPECIALS, show_progress=False))
    return BertTokenizer(vocab=backend.get_vocab(), model_max_length=512)


def _unigram_vocabulary(specials: list[str], lowercase: bool = False) -> list[tuple[str, float]]:
    """Whole words with good scores, every character with a bad one, and tempting pieces that join a mark to punctuation."""
    words = sorted({word for sentence in SENTENCES for word in sentence.split()})
    if lowercase:
        words = sorted({word.lower() for word in words})
    characters = sorted({character for word in words for character in word} | set("<>[]/_-|"))
    vocabulary = dict.fromkeys(specials, 0.0)
    vocabulary.update({"▁" + word: -3.0 for word in words if word.isalpha()})
    vocabulary.update({"▁.": -2.0, "▁,": -2.0, "▁?": -2.0, "▁:": -2.0, "▁": -4.0})
    vocabulary.update({character: -8.0 for character in characters if character not in vocabulary})
    return list(vocabulary.items())


def _whole_words() -> PreTrainedTokenizerBase:
    """Return a word-level tokenizer without a post-processor, as tests of tiny models often have."""
    vocabulary = {word: index for index, word in enumerate([*BERT_SPECIALS, *WORDS, ".", ",", "?", ":", "film"])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", mask_token="[MASK]"
    )


_BUILDERS = {
    "byte-bpe": lambda: _byte_bpe(add_prefix_space=False),
    "byte-bpe-prefix": lambda: _byte_bpe(add_prefix_space=True),
    "word-piece": _word_piece,
    "albert": lambda: AlbertTokenizer(vocab=_unigram_vocabulary(["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"], lowercase=True)),
    "deberta": lambda: DebertaV2Tokenizer(vocab=_unigram_vocabulary(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]), unk_id=1),
    "xlm-roberta": lambda: XLMRobertaTokenizer(vocab=_unigram_vocabulary(ROBERTA_SPECIALS)),
    "whole-words": _whole_words,
}
KINDS = sorted(_BUILDERS)
ADDS_SPACE = ["byte-bpe-prefix", "albert", "deberta", "xlm-roberta"]


@lru_cache
def small_tokenizer(kind: str) -> PreTrainedTokenizerBase:
    return _BUILDERS[kind]()


@lru_cache
def shared_tokenizer(name: str) -> PreTrainedTokenizerBase:
    folder = SHARED / "models" / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)
