"""Encoders of the texts of each mode, and the features that the linear probe reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmntk.experiment.preparation import DEFAULT_LENGTH
from lmntk.models.build import text_features
from lmntk.models.loading import Pretrained
from lmntk.prompts.assembly import Limits
from lmntk.prompts.encoding import HeadEncoder, TextEncoder, encode_whole, fitting_length
from lmntk.prompts.ensemble import make_prompt_encoder
from lmntk.prompts.label_words import Reduce
from lmntk.prompts.template import with_new_lines
from lmntk.solvers.inputs import Array
from lmntk.tasks import Example


@dataclass(frozen=True)
class Prompt:
    """A prompt, if there is one, and the longest text.

    Attributes:
        template: the prompt.
        words: of each class, in order.
        reduce: what stands for a word of several tokens.
        max_length: in tokens; 128 by default, or what the model takes.
        chat: the prompt is put into the tokenizer's chat template.
    """

    template: str | None = None
    words: Sequence[str] | None = None
    reduce: Reduce | None = None
    max_length: int | None = None
    chat: bool = False

    def modes(self, asked: str) -> list[str]:
        """Return the modes that are compared: of ``auto`` both where there are words, else head mode alone."""
        if asked != "auto":
            return [asked]
        return ["prompt", "head"] if self.words is not None else ["head"]


def encoder_of(pretrained: Pretrained, mode: str, prompt: Prompt) -> TextEncoder:
    """Return what turns texts into tokens in a mode.

    Raises:
        UserError: the prompt does not fit the model.
    """
    limits = Limits(prompt.max_length or fitting_length(pretrained.tokenizer, DEFAULT_LENGTH))
    settings: dict[str, Any] = {
        "reading": pretrained.reading(mode),
        "decoder_start": pretrained.decoder_start,
    }
    if mode == "head":
        return HeadEncoder(pretrained.tokenizer, limits, **settings)
    assert prompt.template is not None  # both were asked for beforehand
    assert prompt.words is not None
    templates = (with_new_lines(prompt.template),)
    return make_prompt_encoder(
        pretrained.tokenizer,
        templates,
        prompt.words,
        limits,
        reduce=prompt.reduce,
        chat=prompt.chat,
        **settings,
    )


def probe_features(
    pretrained: Pretrained, encoder: TextEncoder, examples: Sequence[Example], batch_size: int
) -> Array | None:
    """Return the features [n, i] that the linear probe reads; None of a classifier, whose own head reads them already."""
    if pretrained.kind == "classifier":
        return None
    encoded = [encode_whole(encoder, example) for example in examples]
    return np.asarray(text_features(pretrained, encoded, "read", batch_size).double().cpu().numpy())
