"""The input of a fit, checked before a model, or a library that computes with one, is loaded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lmntk.errors import UserError
from lmntk.estimator.texts import LabelledTexts, read_labelled
from lmntk.experiment.configuration import Fit, Prompts, Subspace
from lmntk.tasks import Columns
from lmntk.tasks.class_words import words_by_class


@dataclass(frozen=True)
class PromptText:
    """A template and the word of each class, in the order of the classes."""

    template: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class FitInput:
    """The labelled texts, and what may be put around them.

    Attributes:
        texts: they.
        templates: in order; none where there is no prompt.
        word_sets: each the word of each class, in the order of the classes.
    """

    texts: LabelledTexts
    templates: tuple[str, ...]
    word_sets: tuple[tuple[str, ...], ...]

    @property
    def prompts(self) -> tuple[PromptText, ...]:
        """Each template with each set of label words, in their order."""
        return tuple(PromptText(template, words) for template in self.templates for words in self.word_sets)

    @property
    def words(self) -> tuple[str, ...] | None:
        """The word of each class, where there is a prompt; of several sets the first."""
        return self.word_sets[0] if self.word_sets else None


def read_input(options: Fit | Subspace | Prompts) -> FitInput:
    """Return what a fit is given.

    Raises:
        UserError: a mistake in the file, its columns, the labels or the label words, or a folder that cannot be written to.
    """
    columns = Columns(options.text_column, options.text_b_column, options.label_column)
    texts = read_labelled(options.file, columns, options.labels)
    templates = templates_of(options)
    word_sets = check_words(options, templates, texts.labels)
    check_folder(options.out)
    return FitInput(texts, templates, word_sets)


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


def templates_of(options: Fit | Subspace | Prompts) -> tuple[str, ...]:
    """Return the templates that were given, those of a file after the others.

    Raises:
        UserError: no such file, one without templates, or a template that is there twice.
    """
    given = options.template
    templates = (given,) if isinstance(given, str) else given or ()
    if not isinstance(options, Subspace) and options.templates is not None:
        templates += templates_in(options.templates)
    for number, template in enumerate(templates):
        if template in templates[:number]:
            raise UserError(f"template: {template!r} is given twice; leave one out")
    return templates


def templates_in(path: Path) -> tuple[str, ...]:
    """Return the templates in a file, one a line; empty lines count for nothing.

    Raises:
        UserError: no such file, no text, or no template in it.
    """
    if not path.is_file():
        raise UserError(f"templates: no file {str(path)!r}; give a text file with a template a line")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"templates: {str(path)!r} is not UTF-8 ({error.reason}); save it as that") from None
    templates = tuple(line for line in lines if line.strip())
    if not templates:
        raise UserError(f"templates: {str(path)!r} has no template; write one a line")
    return templates


def check_words(
    options: Fit | Subspace | Prompts, templates: Sequence[str], labels: Sequence[str]
) -> tuple[tuple[str, ...], ...]:
    """Return the sets of label words, each in the order of the classes; none where none are given.

    Raises:
        UserError: words that do not fit the classes, or a template without words and the other way round.
    """
    sets: tuple[tuple[str, ...], ...] = ()
    if isinstance(options, Subspace):
        sets = () if options.label_words is None else (options.label_words,)
    elif options.label_words is not None:
        sets = options.label_words
    proposes = isinstance(options, Prompts) and options.propose > 0
    if proposes and not templates:
        raise UserError('propose: --propose needs --template, such as "{a} It was {mask}."')
    if isinstance(options, Prompts) and not (sets or proposes):
        raise UserError("prompts: give --template and --label-words; or --propose N in place of the words")
    if options.mode == "prompt" and not sets and not proposes:
        raise UserError("mode: prompt needs --label-words, and --template; without them use --mode head")
    if not sets and not proposes:
        if options.chat:
            raise UserError("chat: --chat needs a prompt; give --template and --label-words")
        if templates:
            raise UserError(
                "template: --template needs --label-words, such as " + ",".join(f"{x}=..." for x in labels)
            )
    if options.chat and options.mode == "head":
        raise UserError("chat: --chat needs a prompt, and head mode reads none; leave one of them out")
    if sets and not templates:
        raise UserError('label-words: --label-words need --template, such as "{a} It was {mask}."')
    ordered = tuple(words_by_class(entries, labels) for entries in sets)
    for number, words in enumerate(ordered):
        if words in ordered[:number]:
            raise UserError(f"label-words: {','.join(words)} are given twice; leave one out")
    return ordered
