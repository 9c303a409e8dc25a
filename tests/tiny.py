"""Tiny models of every kind with their tokenizers, adapters on them, and tiny tasks, written to folders: whole runs in a second or two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import torch
import transformers as hf
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

WORDS = [
    "the",
    "a",
    "film",
    "book",
    "was",
    "is",
    "good",
    "bad",
    "great",
    "terrible",
    "dull",
    "fun",
    "it",
    "very",
    "not",
    "sad",
]
WORDS += ["happy", "story", "and", ".", ",", "?", "no", "yes", "maybe"]
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
GOOD = [
    "a great film",
    "the story was good",
    "a fun and happy book",
    "very good",
    "it is great fun",
    "a happy story",
    "the film is fun",
]
BAD = [
    "a terrible film",
    "the story was dull",
    "a sad and bad book",
    "very bad",
    "it is not good",
    "a dull story",
    "the film is sad",
]


def write_model(folder: Path, seed: int = 0) -> Path:
    """Writes a BERT of two layers, 16 wide, and its WordPiece tokenizer."""
    tokenizer = _word_piece()
    return _write(BertForMaskedLM, _bert_config(tokenizer), tokenizer, folder, seed)


def write_classifier(folder: Path, names: tuple[str, ...] = ("negative", "positive"), seed: int = 0) -> Path:
    """Writes a BERT with a head of its own for the named classes, as a fine-tuned one has."""
    tokenizer = _word_piece()
    named: dict[str, Any] = {
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
    }
    return _write(hf.BertForSequenceClassification, _bert_config(tokenizer, **named), tokenizer, folder, seed)


def write_gpt2(folder: Path, seed: int = 0, network: Any = hf.GPT2LMHeadModel) -> Path:
    """Writes a GPT-2, its head tied, and its byte-level BPE, which puts nothing around a text; or the classifier on it."""
    vocabulary, merges = _byte_pairs(["<|endoftext|>"])
    tokenizer = hf.GPT2Tokenizer(vocab=vocabulary, merges=merges, model_max_length=64)
    config = hf.GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=16,
        n_layer=2,
        n_head=2,
        n_positions=64,
        bos_token_id=0,
        eos_token_id=0,
    )
    return _write(network, config, tokenizer, folder, seed)


CHAT = (  # of one special token, for there is one
    "{% for message in messages %}{{ bos_token + message['role'] + ':' + message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ bos_token + 'it:' }}{% endif %}"
)


def write_chat(folder: Path, seed: int = 0) -> Path:
    """Writes the GPT-2 with a chat template."""
    write_gpt2(folder, seed)
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    return folder


def write_llama(folder: Path, seed: int = 0) -> Path:
    """Writes a Llama with a head of its own and whole words as tokens, <s> before a text."""
    from tokenizers.processors import TemplateProcessing

    specials = ["<unk>", "<s>", "</s>"]
    backend = Tokenizer(
        models.WordLevel(
            {word: index for index, word in enumerate([*specials, *WORDS, "..", "..."])}, unk_token="<unk>"
        )
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = TemplateProcessing(
        single="<s> $A", pair="<s> $A $B:1", special_tokens=[("<s>", 1)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", model_max_length=64
    )
    config = hf.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=32,
        max_position_embeddings=64,
        tie_word_embeddings=False,
    )
    return _write(hf.LlamaForCausalLM, config, tokenizer, folder, seed)


def write_t5(folder: Path, seed: int = 0) -> Path:
    """Writes a T5, its embeddings shared, and a Unigram tokenizer of whole words, </s> after a text, with three sentinels."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -4.0)]
    pieces += [("▁" + word, -3.0) for word in [*WORDS, "super"]] + [("b", -8.0), (".", -8.0)]
    pieces += [(f"<extra_id_{index}>", 0.0) for index in (2, 1, 0)]
    tokenizer = hf.T5Tokenizer(vocab=pieces, extra_ids=3, model_max_length=64)
    config = hf.T5Config(
        vocab_size=len(tokenizer),
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        decoder_start_token_id=0,
        pad_token_id=0,
    )
    return _write(hf.T5ForConditionalGeneration, config, tokenizer, folder, seed)


def write_bart(folder: Path, seed: int = 0) -> Path:
    """Writes a BART and its byte-level BPE, <s> and </s> around a text, with a mask."""
    vocabulary, merges = _byte_pairs(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    tokenizer = hf.RobertaTokenizer(vocab=vocabulary, merges=merges, model_max_length=64)
    config = hf.BartConfig(
        vocab_size=len(tokenizer),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        max_position_embeddings=64,
        decoder_start_token_id=2,
    )
    return _write(hf.BartForConditionalGeneration, config, tokenizer, folder, seed)


def write_adapter(folder: Path, base: Path, task: str | None = None, seed: int = 0, **settings: Any) -> Path:
    """Writes a LoRA adapter of rank 2 on the attention of a model in a folder, as after some training: its B is not zero.

    ``settings`` are further ones of the adapter, such as ``target_modules`` or ``modules_to_save``.
    """
    loaders = {
        "CAUSAL_LM": hf.AutoModelForCausalLM,
        "SEQ_CLS": hf.AutoModelForSequenceClassification,
        None: hf.AutoModelForMaskedLM,
    }
    targets = ["c_attn"] if task == "CAUSAL_LM" else ["query", "value"]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        settings = {
            "target_modules": targets,
            "task_type": task,
            "fan_in_fan_out": task == "CAUSAL_LM",
        } | settings
        config = peft.LoraConfig(r=2, lora_alpha=4, **settings)
        adapted = peft.get_peft_model(loaders[task].from_pretrained(base), config)
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn_like(parameter))
    adapted.save_pretrained(folder)
    return folder


def _write(network: Any, config: Any, tokenizer: Any, folder: Path, seed: int) -> Path:
    """Writes a network with every parameter, biases and norms too, moved away from where it starts."""
    torch.manual_seed(seed)
    model = network(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _word_piece() -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate([*SPECIALS, *WORDS, "##ly", "super", "##b"])}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    from tokenizers.processors import TemplateProcessing

    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
    )


def _bert_config(tokenizer: PreTrainedTokenizerFast, **settings: Any) -> BertConfig:
    return BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        **settings,
    )


BASELINES = ("zero-shot", "zero-shot, centred", "zero-shot, threshold fitted")  # of a run of a prompt


def _byte_pairs(specials: list[str]) -> tuple[dict[str, int], list[tuple[str, ...]]]:
    """Returns vocabulary and merges in which every word of ``WORDS`` is a token, with a space before it and without."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1000, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator([*WORDS, *(f" {word}" for word in WORDS), " super"] * 3, trainer)
    trained = json.loads(backend.to_str())["model"]
    return trained["vocab"], [tuple(merge) for merge in trained["merges"]]


def write_rows(path: Path, count: int, offset: int = 0) -> Path:
    """Writes a JSONL of alternating good and bad texts."""
    rows = []
    for index in range(count):
        words = (GOOD, BAD)[index % 2]
        first, second = (
            words[(index // 2 + offset) % len(words)],
            words[(index // 2 + 3 * offset + 2) % len(words)],
        )
        rows.append({"text_a": f"{first} , {second} {'.' * (1 + index % 3)}", "label": 1 - index % 2})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path


def films(folder: Path, train: int, test: int) -> dict[str, Any]:
    """Returns a task of one's own with so many texts, written into a folder."""
    return {
        "name": "films",
        "train": str(write_rows(folder / "train.jsonl", train)),
        "test": str(write_rows(folder / "test.jsonl", test, offset=1)),
        "text_column": "text_a",
        "template": "{a} it was {mask}.",
        "label_words": ["terrible", "great"],
    }
