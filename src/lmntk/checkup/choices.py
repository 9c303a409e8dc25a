"""The prompt and the texts that a model is looked at with, read before the model, or a library that computes, is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lmntk.bundled import EXAMPLES
from lmntk.errors import UserError
from lmntk.tasks import Columns, Example, get_task, read_data, read_jsonl
from lmntk.tasks.catalog import Task
from lmntk.tasks.class_words import classes_and_words, words_by_class
from lmntk.tasks.optional_labels import read_texts, renumbered
from lmntk.tasks.splits import cut_test
from lmntk.tasks.tables import PLAIN_COLUMNS

MOST = 200  # texts for ranks and accuracy


@dataclass(frozen=True)
class PromptChoice:
    """The prompt that a model is looked at with.

    Attributes:
        mode: ``prompt`` or ``head``.
        template: one template, or several; None: the task's, or a default one.
        label_words: the word of each class, by name or in order; None: the task's, or default ones.
        reduce: what stands for a label word of several tokens.
        chat: the prompt is put into the tokenizer's chat template.
    """

    mode: str = "prompt"
    template: str | Sequence[str] | None = None
    label_words: Sequence[str] | None = None
    reduce: Any = None
    chat: bool = False

    def check_mode(self, reads: str = "head mode reads no prompt") -> None:
        """Refuse a prompt where none is read.

        Raises:
            UserError: there is one; says why it is not read.
        """
        options = (
            ("--template", self.template),
            ("--label-words", self.label_words),
            ("--chat", self.chat),
        )
        given = [flag for flag, value in options if value]
        if given:
            raise UserError(f"{' and '.join(given)}: {reads}; leave the option out")


@dataclass(frozen=True)
class TextsRead:
    """The texts that a model is looked at on.

    Attributes:
        examples: at most ``MOST``.
        source: where they are from.
        classes: of their labels, by name; None where they have no names, or no labels.
    """

    examples: list[Example]
    source: str
    classes: tuple[str, ...] | None = None


@dataclass(frozen=True)
class TextChoice:
    """The texts that a model is looked at on: a task's test texts, a file of the user's, or the bundled ones.

    Attributes:
        task: the name of one of the tasks.
        data: the folder of the tasks' texts.
        file: a table of the user's own texts, with labels or without.
        columns: of the file.
        labels: of the file, in the order of the classes.

    Raises:
        UserError: choices that do not go together.
    """

    task: str | None = None
    data: str | None = None
    file: Path | None = None
    columns: Columns = PLAIN_COLUMNS
    labels: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.data is not None and self.task is None:
            raise UserError("data: it belongs to a task; give --task too, or your own texts with --texts")
        if self.task is not None and self.file is not None:
            raise UserError("texts: a task has texts of its own; give --task or --texts")
        if self.known is not None and self.data is None:
            name = self.known.name
            raise UserError(f"data: {name} needs the folder that holds {name}/test.jsonl.gz; give --data")
        if self.file is None and (self.columns != PLAIN_COLUMNS or self.labels is not None):
            raise UserError(
                "texts: columns and labels belong to your own texts; give these with --texts FILE"
            )

    @property
    def known(self) -> Task | None:
        """The task, if one is named."""
        return None if self.task is None else get_task(self.task)

    @cached_property
    def read(self) -> TextsRead:
        """The texts."""
        if self.known is not None:
            data = read_data(self.data or "", self.known, k=1, seed=13)
            rows = cut_test(len(data.test), MOST, self.known.csv_style)
            return TextsRead([data.test[row] for row in rows], self.known.name, self.known.labels)
        if self.file is not None:
            (examples,), classes = read_texts([self.file], self.columns, self.labels)
            return TextsRead(list(examples[:MOST]), str(self.file), classes)
        return TextsRead(read_jsonl(EXAMPLES / "reviews" / "test.jsonl")[:MOST], "bundled")


def check_choices(prompt: PromptChoice, texts: TextChoice) -> None:
    """Refuse what is wrong with a prompt and texts for any model.

    Raises:
        UserError: texts that cannot be read, words that do not fit their classes, a prompt in head mode.
    """
    if prompt.mode == "head":
        prompt.check_mode()
    in_order(prompt, texts)


def in_order(
    prompt: PromptChoice, texts: TextChoice, default: Sequence[str] = ()
) -> tuple[PromptChoice, TextsRead]:
    """Return the prompt with its words in the order of the classes, and the texts with class numbers of this order.

    Args:
        prompt: as it was given.
        texts: which texts.
        default: the words that are read where none are given.

    Raises:
        UserError: words that do not fit the classes, or texts that cannot be read.
    """
    words = prompt.label_words
    if words is not None and texts.known is not None:
        prompt = replace(prompt, label_words=words_by_class(words, texts.known.labels))
        return prompt, texts.read
    read = texts.read
    if words is None:
        classes = read.classes
        if texts.known is None and classes is not None and all(map(str.isdecimal, classes)):
            count = max(len(default), *(int(name) + 1 for name in classes))
            classes = tuple(map(str, range(count))) if count <= MOST else classes  # which need not all occur
    else:
        classes, in_their_order = classes_and_words(words, read.classes)
        prompt = replace(prompt, label_words=in_their_order)
    if classes is not None and read.classes is not None:
        read = replace(read, examples=list(renumbered(read.examples, read.classes, classes)))
    return prompt, replace(read, classes=classes)
