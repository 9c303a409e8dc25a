"""The labels beside the kernels of ``lmntk kernel``: with them ``lmntk solve`` can solve what is in the folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmntk.experiment.kernel_texts import KernelTexts
from lmntk.system.kept import read_record, write_record
from lmntk.tasks import Example

LABELS = "labels.json"


@dataclass(frozen=True)
class KernelLabels:
    """The classes and the class number of each text, None where it has none.

    Attributes:
        classes: in order, by name.
        train: of the n training texts.
        evaluate: of the m evaluation texts.
        texts: the hashes of both, as the kernels' provenance has them.
    """

    classes: tuple[str, ...]
    train: tuple[int | None, ...]
    evaluate: tuple[int | None, ...]
    texts: tuple[str, str]

    @classmethod
    def of(cls, read: KernelTexts, origin: Mapping[str, Any]) -> KernelLabels:
        """Return the labels of texts that were read."""

        def numbers(examples: tuple[Example, ...]) -> tuple[int | None, ...]:
            return tuple(example.label for example in examples)

        return cls(
            read.classes,
            numbers(read.train),
            numbers(read.evaluate),
            (origin["train"], origin["eval"]),
        )

    def write(self, folder: Path) -> None:
        """Write them down beside the kernels."""
        write_record(
            folder / LABELS,
            {"classes": self.classes, "train": self.train, "eval": self.evaluate, "texts": self.texts},
        )

    @classmethod
    def read(cls, folder: Path) -> KernelLabels | None:
        """Return those of a folder; None where there are none."""
        if not (folder / LABELS).is_file():
            return None
        record = read_record(folder / LABELS)
        return cls(
            tuple(record["classes"]), tuple(record["train"]), tuple(record["eval"]), tuple(record["texts"])
        )
