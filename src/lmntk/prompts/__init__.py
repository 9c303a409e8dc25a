"""prompts/: from texts to tokens. Templates, label words, encoded examples and padded batches.

Nothing here knows a model.
"""

from lmntk.prompts.assembly import Limits
from lmntk.prompts.batching import collate, length_sorted_batches, members
from lmntk.prompts.encoded_text import EncodedText
from lmntk.prompts.encoding import HeadEncoder, PromptEncoder, TextEncoder
from lmntk.prompts.ensemble import EnsembleEncoder, make_prompt_encoder
from lmntk.prompts.label_words import LabelWords, Reduce
from lmntk.prompts.layout import READINGS, Reading
from lmntk.prompts.template import Template, parse_template

__all__ = [
    "READINGS",
    "EncodedText",
    "EnsembleEncoder",
    "HeadEncoder",
    "LabelWords",
    "Limits",
    "PromptEncoder",
    "Reading",
    "Reduce",
    "Template",
    "TextEncoder",
    "collate",
    "length_sorted_batches",
    "make_prompt_encoder",
    "members",
    "parse_template",
]
