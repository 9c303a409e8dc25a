"""The input of a fit, checked before a model, or a library that computes with one, is loaded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lmntk.errors import UserError
from lmntk.estimator.texts import LabelledTexts, read_labelled
from lmntk.experiment.configuration import Fit, Subspace
from lmntk.tasks import Columns
from lmntk.tasks.class_words import words_by_class


@dataclass(frozen=True)
class FitInput:
    """The labelled texts, and the word of each class where there is a prompt."""

    texts: LabelledTexts
    words: tuple[str, ...] | None


def read_input(options: Fit | Subspace) -> FitInput:
    """Return what a fit is given.

    Raises:
        UserError: a mistake in the file, its columns, the labels or the label words, or a folder that cannot be written to.
    """
    columns = Columns(options.text_column, options.text_b_column, options.label_column)
    texts = read_labelled(options.file, columns, options.labels)
    words = check_words(options, texts.labels)
    check_folder(options.out)
    return FitInput(texts, words)


def check_folder(out: Path) -> None:
    """Refuse a folder that a fit cannot be written to.

    Raises:
        UserError: it is a file, lies in one, or may not be written to.
    """
    above = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not above.is_dir():
        raise UserError(f"out: {str(above)!r} is a file; name a folder")
    if not os.access(above, os.W_OK):
        raise UserError(f"out: {str(above)!r} cannot be written to; name another folder")


def check_words(options: Fit | Subspace, labels: Sequence[str]) -> tuple[str, ...] | None:
    """Return the word of each class, in the order of the classes, where label words are given.

    Raises:
        UserError: words that do not fit the classes, or a template without words and the other way round.
    """
    if options.mode == "prompt" and options.label_words is None:
        raise UserError("mode: prompt needs --label-words, and --template; without them use --mode head")
    if options.label_words is None:
        if options.chat:
            raise UserError("chat: --chat needs a prompt; give --template and --label-words")
        if options.template is not None:
            raise UserError(
                "template: --template needs --label-words, such as " + ",".join(f"{x}=..." for x in labels)
            )
        return None
    if options.chat and options.mode == "head":
        raise UserError("chat: --chat is of a prompt, and head mode reads none; leave one of them out")
    if options.template is None:
        raise UserError('label-words: --label-words need --template, such as "{a} It was {mask}."')
    return words_by_class(options.label_words, labels)
