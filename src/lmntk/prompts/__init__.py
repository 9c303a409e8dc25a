"""prompts/: from texts to tokens. Templates, label words, encoded examples and padded batches; nothing here knows a model."""

from lmntk.prompts.batching import collate, length_sorted_batches
from lmntk.prompts.encoding import EncodedText, HeadEncoder, PromptEncoder, TextEncoder
from lmntk.prompts.label_words import label_word_ids
from lmntk.prompts.template import Template, parse_template

__all__ = [
    "EncodedText",
    "HeadEncoder",
    "PromptEncoder",
    "Template",
    "TextEncoder",
    "collate",
    "label_word_ids",
    "length_sorted_batches",
    "parse_template",
]
