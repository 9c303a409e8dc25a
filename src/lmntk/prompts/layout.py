"""Readings: at which position a model's output is read, and what a sequence looks like for it.

========  =========================================  ====================================================
reading   models                                     what is read
========  =========================================  ====================================================
mask      masked language models (BERT, RoBERTa)     the mask inside the prompt
first     the same, without a prompt                 the first token, such as [CLS] or <s>
last      causal models (GPT-2, Llama)               the last token: what comes next is the label word
decoder   an encoder with a decoder (T5, BART)       the decoder, which has been given its start token only
                                                     (or that and T5's sentinel, which stands for the mask)
========  =========================================  ====================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, get_args
from typing import Literal as OneOf

from lmntk.errors import UserError
from lmntk.prompts.template import Literal, Mask, Template, Text
from lmntk.prompts.tokenization import PieceEncoder

if TYPE_CHECKING:
    from lmntk.tasks.example import Example

Reading: TypeAlias = OneOf["mask", "first", "last", "decoder"]
READINGS: tuple[Reading, ...] = get_args(Reading)


@dataclass(frozen=True, slots=True)
class Layout:
    """A template as one reading needs it.

    Attributes:
        reading: where the output is read.
        template: what the sequence is made of; for "last" it ends where the word is to come.
        mask: the id that stands at the template's mask; None where the template has none.
        decoder_ids: what the decoder is given, for "decoder".
    """

    reading: Reading
    template: Template
    mask: int | None = None
    decoder_ids: tuple[int, ...] | None = None

    @property
    def keeps_suffix(self) -> bool:
        """A flag: the tokenizer's tokens after a sequence stay: not where the next token is to be predicted."""
        return self.reading != "last"

    @property
    def has_token_types(self) -> bool:
        """A flag: token types have a meaning; GPT-2 would add them to its words, Llama refuses them."""
        return self.reading in ("mask", "first")

    def text_of(self, part: Text, example: Example) -> str:
        """Return the example's text for a place of the template, after its filters.

        Raises:
            UserError: it has none.
        """
        text = example.text_a if part.field == "a" else example.text_b
        if text is None:
            raise UserError(
                f"template {str(self.template)!r} uses {{b}}, but the example "
                f"{example.text_a[:40]!r} has no second text: add one, or use a template without {{b}}"
            )
        return part.apply(text)

    def read_position(self, length: int, mask_index: int | None) -> int:
        """Return the position to read in a sequence of ``length`` tokens with its mask at ``mask_index``."""
        if self.decoder_ids is not None:
            return len(self.decoder_ids) - 1
        if self.reading == "last":
            return length - 1
        if self.reading == "first":
            return 0
        assert mask_index is not None
        return mask_index


def prompt_layout(
    pieces: PieceEncoder, template: Template, reading: Reading, decoder_start: int | None
) -> Layout:
    """Return how a prompt is laid out for ``reading``.

    Raises:
        UserError: for a template that the reading or the tokenizer cannot serve.
        ValueError: for a reading that prompts do not have, or "decoder" without its start token.
    """
    if reading == "last":
        return Layout("last", ending_at_mask(template))
    if reading == "decoder":
        return _decoder_layout(pieces, template, needed_start(decoder_start))
    if reading != "mask":
        raise ValueError(f"reading {reading!r} is not one that a prompt has: use 'mask', 'last' or 'decoder'")
    if not template.has_mask:
        raise UserError(f"template {str(template)!r} has no mask: write {{mask}} where the label word goes")
    if pieces.mask is None:
        raise UserError(
            f"tokenizer {pieces.name} has no mask token: use a masked language model, or head mode"
        )
    return Layout("mask", template, mask=pieces.mask)


def needed_start(decoder_start: int | None) -> int:
    """Return the decoder's start token, which is there.

    Raises:
        ValueError: if it is not.
    """
    if decoder_start is None:
        raise ValueError("reading 'decoder' needs decoder_start, the id that the decoder starts from")
    return decoder_start


def ending_at_mask(template: Template) -> Template:
    """Return the template up to its mask, for a model that reads from left to right.

    A template without a mask stays as it is.

    Words after the mask are dropped, since such a model would not have read them; so are spaces before it.

    Raises:
        UserError: if a text stands after the mask, or nothing before it.
    """
    masks = [index for index, part in enumerate(template.parts) if isinstance(part, Mask)]
    if not masks:
        return template
    before, after = list(template.parts[: masks[0]]), template.parts[masks[0] + 1 :]
    if before and isinstance(before[-1], Literal):
        stripped = Literal(before[-1].text.rstrip(" "))
        before[-1:] = [stripped] if stripped.text else []
    if not before or any(isinstance(part, Text) for part in after):
        problem = "puts a text after the mask" if before else "begins with the mask"
        raise UserError(
            f"template {str(template)!r} {problem}, but this model reads from left to right and predicts "
            "what comes next: write a template that ends where the word is to come, such as '{a} It was'"
        )
    return Template(tuple(before))


def _decoder_layout(pieces: PieceEncoder, template: Template, start: int) -> Layout:
    if not template.has_mask:
        return Layout("decoder", template, decoder_ids=(start,))
    if pieces.sentinel is not None:
        return Layout("decoder", template, mask=pieces.sentinel, decoder_ids=(start, pieces.sentinel))
    if pieces.mask is not None:
        return Layout("decoder", template, mask=pieces.mask, decoder_ids=(start,))
    raise UserError(
        f"template {str(template)!r} has a mask, but tokenizer {pieces.name} has no mask token (nor "
        "<extra_id_0>): leave {mask} out; the label word is then the decoder's first"
    )
