"""The texts of ``lmntk kernel`` and the word of each class, read before a model or a library that computes is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from lmntk.errors import UserError
from lmntk.experiment.configuration import TextKernels
from lmntk.tasks import Columns, Example
from lmntk.tasks.class_words import class_line, classes_and_words
from lmntk.tasks.optional_labels import read_texts, renumbered


@dataclass(frozen=True)
class KernelTexts:
    """Training and evaluation texts, the classes, and the word of each.

    Attributes:
        train: n texts; a label is None where there is none.
        evaluate: m texts.
        classes: in order.
        words: of the classes.
    """

    train: tuple[Example, ...]
    evaluate: tuple[Example, ...]
    classes: tuple[str, ...]
    words: tuple[str, ...]

    @property
    def line(self) -> str:
        """The line on which word stands for which class."""
        return class_line(self.classes, self.words)


def read_kernel_texts(wanted: TextKernels) -> KernelTexts:
    """Return what the kernels are to be of.

    Raises:
        UserError: a mistake in the files, their columns or the label words, or an output folder that is none.
    """
    if wanted.out.exists() and not wanted.out.is_dir():
        raise UserError(f"out: {str(wanted.out)!r} is a file; name a folder")
    columns = Columns(wanted.text_column, wanted.text_b_column, wanted.label_column)
    (train, evaluate), found = read_texts([wanted.train, wanted.evaluate], columns, wanted.labels)
    classes, words = classes_and_words(wanted.label_words, found)
    return KernelTexts(
        renumbered(train, found, classes), renumbered(evaluate, found, classes), classes, words
    )
