"""Tiny random models and adapters of every kind, and folders of them."""

from __future__ import annotations

from functools import lru_cache

import peft
import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers


@lru_cache
def tokenizer():
    vocabulary = {
        token: i
        for i, token in enumerate(
            ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
        )
    }
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "cls", "sep", "pad", "mask")}
    return hf.PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def save(network, folder, **options):
    network.save_pretrained(folder, **options)
    tokenizer().save_pretrained(folder)
    return str(folder)


def one_line(caught):
    assert "\n" not in str(caught.value)
    return str(caught.value)


SIZES = {
    "vocab_size": 40,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
}
T5_SIZES = {"vocab_size": 40, "d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 1, "num_heads": 2}
SIDES = ("encoder", "decoder")
BART_SIZES = {
    f"{side}_{size}": n
    for side in SIDES
    for size, n in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 12))
}
BERT_CONFIG = {**SIZES, "max_position_embeddings": 20}


def seeded(build):
    torch.manual_seed(5)
    return build()


def GPT2(kind=hf.GPT2LMHeadModel, **settings):  # noqa: N802
    return seeded(
        lambda: kind(hf.GPT2Config(vocab_size=40, n_embd=8, n_layer=2, n_head=2, n_positions=20, **settings))
    )


def LLAMA(kind=hf.LlamaForCausalLM, **settings):  # noqa: N802
    return seeded(lambda: kind(hf.LlamaConfig(**SIZES, max_position_embeddings=20, **settings)))


def T5(kind=hf.T5ForConditionalGeneration, **settings):  # noqa: N802
    return seeded(lambda: kind(hf.T5Config(**T5_SIZES, decoder_start_token_id=0, **settings)))


def BART(kind=hf.BartForConditionalGeneration):  # noqa: N802
    return seeded(
        lambda: kind(hf.BartConfig(vocab_size=40, d_model=8, max_position_embeddings=20, **BART_SIZES))
    )


def BERT(kind=hf.BertForMaskedLM, **settings):  # noqa: N802
    return seeded(lambda: kind(hf.BertConfig(**BERT_CONFIG, **settings)))


def logits_of(network, rows):
    batch = {
        "input_ids": torch.tensor(rows),
        "attention_mask": torch.tensor([[int(i != 0) for i in row] for row in rows]),
    }
    if network.config.is_encoder_decoder:
        batch["decoder_input_ids"] = torch.zeros(len(rows), 1, dtype=torch.long)
    with torch.no_grad():
        return network.eval()(**batch).logits


def adapted(network, folder, base, config=None, scale=1.0):
    """Writes an adapter with random weights and returns its folder; its config names ``base``."""
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=4) if config is None else config
    torch.manual_seed(7)
    network = peft.get_peft_model(network, config)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.copy_(1 + scale * torch.randn_like(parameter))
    network.peft_config["default"].base_model_name_or_path = base
    network.save_pretrained(folder, save_embedding_layers=False)
    return folder
