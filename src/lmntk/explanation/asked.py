"""A question about a kept training, checked before anything that computes is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lmntk.errors import UserError
from lmntk.prediction.texts import TextSource
from lmntk.tasks.example import Example
from lmntk.tasks.remarks import is_empty
from lmntk.tasks.rows import missing

MOST = 20  # texts that are explained
ORDERS = 200  # of Shapley values


@dataclass(frozen=True)
class Machine:
    """Where the model is, and what it may take."""

    model: str | None = None
    device: str = "auto"
    memory: int | None = None
    batch_size: int = 32


@dataclass(frozen=True)
class Question:
    """A question about a kept training.

    Attributes:
        folder: of a fit or a run.
        source: the new texts' table.
        texts: new texts, as they are.
        most: texts that are explained.
        shapley: orders of texts; 0 for all parts of the training set; None for no Shapley values.
        without: training texts to be left out.
        rows: likewise, by their rows.
        relabel: rows with another label.
        trust: one short real training is held against its emulation.
        split: of a run.
        method: of a run.
        machine: where to compute.
    """

    folder: Path
    source: TextSource | None = None
    texts: Sequence[str] = ()
    most: int = MOST
    shapley: int | None = None
    without: Sequence[str] = ()
    rows: Sequence[int] = ()
    relabel: Mapping[int, str] = field(default_factory=dict)
    trust: bool = False
    split: str | None = None
    method: str | None = None
    machine: Machine = field(default_factory=Machine)

    def __post_init__(self) -> None:
        if not self.folder.is_dir():
            reason = f"{str(self.folder)!r} is a file" if self.folder.exists() else f"{missing(self.folder)}"
            raise UserError(f"explain: {reason}; name the folder that `lmntk fit` or `lmntk run` wrote")
        if self.is_change and self.shapley is not None:
            raise UserError(
                "shapley: it explains predictions, not a change of the training texts; leave one of them out"
            )

    @property
    def is_change(self) -> bool:
        """Return whether it is asked what would have happened."""
        return bool(self.without or self.rows or self.relabel)

    def examples(self, columns: Mapping[str, str | None] | None) -> tuple[list[Example], int]:
        """Return the new texts, at most so many as are explained, and how many there are.

        Args:
            columns: that a predictor remembers.

        Raises:
            UserError: a row that is no text, or no text at all.
        """
        found = [Example(text) for text in self.texts]
        for text in self.texts:
            if not text.strip():
                raise UserError("text: --text is empty; give the text to explain")
        if self.source is not None:
            read = [example for _, example in self.source.with_columns(columns).examples()]
            if not read or all(is_empty(example) for example in read):
                raise UserError(
                    f"explain: {self.source.name!r} holds no text; give one with texts, or name another column with --text-column"
                )
            found += read
        return (found, len(found)) if self.is_change else (found[: self.most], len(found))
