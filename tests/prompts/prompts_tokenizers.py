"""Small tokenizers of every kind, trained here on a few sentences, and the real ones of shared/ where they are present."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AlbertTokenizer,
    AutoTokenizer,
    BertTokenizer,
    DebertaV2Tokenizer,
    GPT2Tokenizer,
    LlamaTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
    T5Tokenizer,
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
    vocabulary, merges = _trained_byte_bpe(ROBERTA_SPECIALS)
    return RobertaTokenizer(
        vocab=vocabulary, merges=merges, add_prefix_space=add_prefix_space, model_max_length=512
    )


def _gpt2() -> PreTrainedTokenizerBase:
    """Return a tokenizer as GPT-2's: byte-level, no mask, and nothing around a sequence."""
    vocabulary, merges = _trained_byte_bpe(["<|endoftext|>"])
    return GPT2Tokenizer(vocab=vocabulary, merges=merges, model_max_length=512)


def _trained_byte_bpe(specials: list[str]) -> tuple[dict[str, int], list[tuple[str, ...]]]:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        SENTENCES,
        trainers.BpeTrainer(
            vocab_size=1500, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
        ),
    )
    return _vocabulary_and_merges(backend)


def _vocabulary_and_merges(backend: Tokenizer) -> tuple[dict[str, int], list[tuple[str, ...]]]:
    model = json.loads(backend.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def _llama(**settings: bool) -> PreTrainedTokenizerBase:
    """Return a tokenizer as Llama's: "▁" for a space, bytes for what it does not know, <s> before a sequence."""
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()]
    )
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    backend.train_from_iterator(
        SENTENCES, trainers.BpeTrainer(vocab_size=1500, special_tokens=specials, show_progress=False)
    )
    vocabulary, merges = _vocabulary_and_merges(backend)
    return LlamaTokenizer(vocab=vocabulary, merges=merges, add_bos_token=True, **settings)


def _t5() -> PreTrainedTokenizerBase:
    """Return a tokenizer as T5's: whole pieces, </s> after a sequence, no mask, but sentinels for gaps."""
    pieces = [
        *_unigram_vocabulary(["<pad>", "</s>", "<unk>"]),
        *((f"<extra_id_{index}>", 0.0) for index in (2, 1, 0)),
    ]
    return T5Tokenizer(vocab=pieces, extra_ids=3, model_max_length=512)


def _word_piece() -> PreTrainedTokenizerBase:
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.train_from_iterator(
        SENTENCES,
        trainers.WordPieceTrainer(vocab_size=1500, special_tokens=BERT_SPECIALS, show_progress=False),
    )
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
    vocabulary = {
        word: index for index, word in enumerate([*BERT_SPECIALS, *WORDS, ".", ",", "?", ":", "film"])
    }
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        mask_token="[MASK]",
    )


_BUILDERS = {
    "byte-bpe": lambda: _byte_bpe(add_prefix_space=False),
    "byte-bpe-prefix": lambda: _byte_bpe(add_prefix_space=True),
    "word-piece": _word_piece,
    "albert": lambda: AlbertTokenizer(
        vocab=_unigram_vocabulary(["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"], lowercase=True)
    ),
    "deberta": lambda: DebertaV2Tokenizer(
        vocab=_unigram_vocabulary(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]), unk_id=1
    ),
    "xlm-roberta": lambda: XLMRobertaTokenizer(vocab=_unigram_vocabulary(ROBERTA_SPECIALS)),
    "whole-words": _whole_words,
}
KINDS = sorted(_BUILDERS)
_WITHOUT_A_MASK = {"gpt2": _gpt2, "llama": _llama, "llama-eos": lambda: _llama(add_eos_token=True), "t5": _t5}
CAUSAL_KINDS = ["gpt2", "llama", "llama-eos"]
ADDS_SPACE = ["byte-bpe-prefix", "albert", "deberta", "xlm-roberta"]


@lru_cache
def small_tokenizer(kind: str) -> PreTrainedTokenizerBase:
    return (_BUILDERS | _WITHOUT_A_MASK)[kind]()


@lru_cache
def shared_tokenizer(name: str) -> PreTrainedTokenizerBase:
    folder = SHARED / "models" / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)
