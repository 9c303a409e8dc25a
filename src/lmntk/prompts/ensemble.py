"""Ensembles: the same example in several templates, whose outputs the model's wrapper averages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lmntk.errors import UserError
from lmntk.prompts.assembly import USUAL_LIMITS, Limits
from lmntk.prompts.encoded_text import EncodedText
from lmntk.prompts.encoding import PromptEncoder, sha256_of
from lmntk.prompts.label_words import Reduce
from lmntk.prompts.layout import Reading
from lmntk.prompts.template import Template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lmntk.tasks.example import Example


class EnsembleEncoder:
    """Put examples into several prompts with the same label words.

    Args:
        encoders: one for each template, in order; the first is the one whose tensors have plain names in a
            batch.

    Attributes:
        encoders: as given.
        templates: one of each encoder.
        chat: the first one's whole chat as text; None: no chat. ``date`` is that which it prints.
        max_length: the longest of the encoders'.
        label_words: theirs; so are ``label_ids``, ``label_weights``, ``classes`` and ``reading``.

    Raises:
        UserError: for fewer than two templates, or one given twice.
        ValueError: for encoders with different label words or readings.
    """

    def __init__(self, encoders: Sequence[PromptEncoder]) -> None:
        self.encoders = tuple(encoders)
        self.templates: tuple[Template, ...] = tuple(encoder.template for encoder in self.encoders)
        if len(self.encoders) < 2:
            given = f"{str(self.templates[0])!r} alone" if self.templates else "no template"
            raise UserError(f"an ensemble of templates was given {given}: give at least two, or no ensemble")
        for index, template in enumerate(self.templates):
            if template in self.templates[:index]:
                raise UserError(
                    f"template {str(template)!r} is given twice: keep one, or write a different one"
                )
        first = self.encoders[0]
        for encoder in self.encoders[1:]:
            if encoder.labels != first.labels:
                raise ValueError(
                    "the encoders of an ensemble have different label words: "
                    f"{first.labels} and {encoder.labels}"
                )
            if encoder.reading != first.reading:
                raise ValueError(
                    "the encoders of an ensemble have different readings: "
                    f"{first.reading!r} and {encoder.reading!r}"
                )
        self.reading: Reading = first.reading
        self.chat, self.date = first.chat, first.date
        self.max_length = max(encoder.max_length for encoder in self.encoders)
        self.text_a_limit = first.text_a_limit
        self.uses_text_b = any(encoder.uses_text_b for encoder in self.encoders)
        self.labels = first.labels
        self.label_words, self.label_ids, self.label_weights = (
            first.label_words,
            first.label_ids,
            first.label_weights,
        )
        self.classes = first.classes

    def encode(self, example: Example) -> EncodedText:
        """Return the example in the first template, with ``others`` in the rest.

        Raises:
            UserError: as the encoders do.
        """
        first, *others = (encoder.encode(example) for encoder in self.encoders)
        was_cut = any(text.was_cut for text in (first, *others))
        return replace(first, others=tuple(others), was_cut=was_cut)

    def fingerprint(self) -> str:
        """Return a sha256 over the encoders' fingerprints, in order."""
        return sha256_of("ensemble", [encoder.fingerprint() for encoder in self.encoders])


def make_prompt_encoder(
    tokenizer: PreTrainedTokenizerBase,
    templates: str | Sequence[str],
    label_words: Sequence[str],
    limits: Limits = USUAL_LIMITS,
    *,
    reading: Reading = "mask",
    decoder_start: int | None = None,
    reduce: Reduce | None = None,
    chat: bool = False,
) -> PromptEncoder | EnsembleEncoder:
    """Return the encoder of one template, or the ensemble of several.

    Arguments as for :class:`PromptEncoder`.

    Raises:
        UserError: as the encoders do.
    """
    written = [templates] if isinstance(templates, str) else list(templates)
    encoders = [
        PromptEncoder(
            tokenizer,
            template,
            label_words,
            limits,
            reading=reading,
            decoder_start=decoder_start,
            reduce=reduce,
            chat=chat,
        )
        for template in written
    ]
    return encoders[0] if len(encoders) == 1 else EnsembleEncoder(encoders)
