"""A tiny masked language model with its tokenizer, and tiny tasks, written to a folder: whole runs in a second or two."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

WORDS = ["the", "a", "film", "book", "was", "is", "good", "bad", "great", "terrible", "dull", "fun", "it", "very", "not", "sad"]
WORDS += ["happy", "story", "and", ".", ",", "?", "no", "yes", "maybe"]
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
GOOD = ["a great film", "the story was good", "a fun and happy book", "very good", "it is great fun", "a happy story", "the film is fun"]
BAD = ["a terrible film", "the story was dull", "a sad and bad book", "very bad", "it is not good", "a dull story", "the film is sad"]


def write_model(folder: Path, seed: int = 0) -> Path:
    """Writes a BERT of two layers, 16 wide, and its WordPiece tokenizer."""
    vocabulary = {word: index for index, word in enumerate([*SPECIALS, *WORDS, "##ly", "super", "##b"])}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    from tokenizers.processors import TemplateProcessing

    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
    )
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    model = BertForMaskedLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_rows(path: Path, count: int, offset: int = 0) -> Path:
    """Writes a JSONL of alternating good and bad texts."""
    rows = []
    for index in range(count):
        words = (GOOD, BAD)[index % 2]
        first, second = words[(index // 2 + offset) % len(words)], words[(index // 2 + 3 * offset + 2) % len(words)]
        rows.append({"text_a": f"{first} , {second} {'.' * (1 + index % 3)}", "label": 1 - index % 2})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path
