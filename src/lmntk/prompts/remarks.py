"""Remarks on texts that were encoded: how many are empty, and how many were cut to the length limit."""

from __future__ import annotations

from dataclasses import dataclass

from lmntk.prompts.encoded_text import EncodedText
from lmntk.prompts.encoding import TextEncoder
from lmntk.tasks.example import Example
from lmntk.tasks.remarks import empty_remark, is_empty

LENGTH_OPTION = "--max-length"


@dataclass
class TextCounts:
    """Counts of texts that were encoded: all, those that are empty, those that were cut."""

    total: int = 0
    empty: int = 0
    cut: int = 0

    def add(self, example: Example, encoded: EncodedText) -> None:
        """Count a text."""
        self.total += 1
        self.empty += is_empty(example)
        self.cut += encoded.was_cut

    def remarks(self, encoder: TextEncoder, option: str = LENGTH_OPTION) -> list[str]:
        """Return what there is to say of the texts, in a line each; ``option`` sets the limit, where there is one."""
        lines = empty_remark(self.empty, self.total), cut_remark(self.cut, self.total, encoder, option)
        return [line for line in lines if line]


def cut_remark(cut: int, total: int, encoder: TextEncoder, option: str = LENGTH_OPTION) -> str:
    """Return how many of the texts were cut to the encoder's length limit, in words; nothing if none was."""
    if not cut:
        return ""
    own = "" if encoder.text_a_limit is None else f" (the first text to {encoder.text_a_limit})"
    was = "was" if cut == 1 else "were"
    advice = f"; {option} sets another limit" if option else ""
    return f"{cut} of {total} texts {was} cut to {encoder.max_length} tokens{own}{advice}"


def date_remark(encoder: TextEncoder) -> str:
    """Return which date the chat template prints, in words; nothing where it prints none."""
    return f"the chat template prints a date, which is always {encoder.date}" if encoder.date else ""
