"""EncodedText: what an encoder makes of an example, and what batches are made of."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class EncodedText:
    """One example as token ids, and where the model's output is read.

    Attributes:
        ids: what the model (of an encoder with a decoder: the encoder) is given.
        read_position: the index of the position that is read: in ``decoder_ids`` if there are any, else in
            ``ids``.
        token_type_ids: one for each of ``ids``; None where the model has none.
        decoder_ids: what the decoder is given; None for a model without a decoder of its own.
        others: the same example in an ensemble's further templates.
        was_cut: some of a text was left out, for it was too long.
    """

    ids: tuple[int, ...]
    read_position: int
    token_type_ids: tuple[int, ...] | None
    decoder_ids: tuple[int, ...] | None = None
    others: tuple[EncodedText, ...] = ()
    was_cut: bool = field(default=False, compare=False)

    @property
    def length(self) -> int:
        """The number of all tokens, the decoder's and the other templates' included: the example's cost."""
        return len(self.ids) + len(self.decoder_ids or ()) + sum(other.length for other in self.others)
