"""Labelled texts, from one file or from lists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lmntk.errors import UserError
from lmntk.solvers.inputs import Labels
from lmntk.system.notices import say
from lmntk.tasks import Columns, Example, read_data

FEW = 5  # texts of a class: with less nothing is chosen, and no accuracy is estimated
SHOWN = 40  # letters of a text in a line


@dataclass(frozen=True)
class LabelledTexts:
    """Texts, their class numbers, and the classes' names.

    Attributes:
        examples: N of them, each with its class number.
        labels: the classes' names, in order.
        tokens: what each text is to a model, if that is known.
    """

    examples: tuple[Example, ...]
    labels: tuple[str, ...]
    tokens: tuple[Hashable, ...] | None = None

    @property
    def numbers(self) -> Labels:
        """Class numbers [N]."""
        return np.asarray([example.label for example in self.examples], dtype=np.int64)

    @property
    def counts(self) -> dict[str, int]:
        """The number of texts of each class."""
        counts = Counter(self.numbers.tolist())
        return {label: counts[number] for number, label in enumerate(self.labels)}

    @property
    def names(self) -> Sequence[Hashable]:
        """The names by which texts that are the same are known: they are left out together."""
        return self._strings if self.tokens is None else self.tokens

    @property
    def _strings(self) -> list[Hashable]:
        return [(example.text_a, example.text_b) for example in self.examples]

    def as_tokens(self, *encodings: Sequence[Hashable]) -> LabelledTexts:
        """Return the same texts, those that become the same tokens known as one text; what was not known before is said.

        Args:
            encodings: the texts as each of the ways encodes them, that are compared: texts that one way cannot tell apart are one.
        """
        known = replace(self, tokens=_joined(encodings))
        repeated = len(set(self.names)) - len(set(known.names))
        if repeated:
            say(
                f"{repeated} of {len(self.examples)} texts become the same tokens as another; "
                "they are left out together"
            )
            known._say_contradictions(set(self.contradictions))
        return known

    def part(self, rows: Labels) -> LabelledTexts:
        """Return some of them, of the same classes, by their numbers."""
        tokens = None if self.tokens is None else tuple(self.tokens[row] for row in rows)
        return replace(self, examples=tuple(self.examples[row] for row in rows), tokens=tokens)

    @property
    def plain(self) -> list[str]:
        """Each example as one string, for classifiers that count words."""
        return [
            example.text_a if example.text_b is None else f"{example.text_a}\n{example.text_b}"
            for example in self.examples
        ]

    @property
    def are_enough(self) -> bool:
        """Return whether anything can be said of them by holding some out: five of each class or more, not all the same."""
        return self.can_be_held_out and not self.are_few

    @property
    def are_few(self) -> bool:
        """Return whether a class has too few different texts for anything to be chosen by them."""
        return min(self.different) < FEW

    @property
    def different(self) -> list[int]:
        """The number of different texts of each class, in the order of the classes."""
        by_class: dict[int, set[Hashable]] = {}
        for number, name in zip(self.numbers.tolist(), self.names, strict=True):
            by_class.setdefault(number, set()).add(name)
        return [len(by_class.get(number, ())) for number in range(len(self.labels))]

    @property
    def contradictions(self) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
        """Texts that are one and have several labels: each as it is written, and the labels."""
        written: dict[Hashable, dict[str, int]] = {}
        labels: dict[Hashable, set[str]] = {}
        for name, text, number in zip(self.names, self.plain, self.numbers.tolist(), strict=True):
            written.setdefault(name, {})[text] = number
            labels.setdefault(name, set()).add(self.labels[number])
        return [
            (tuple(texts), tuple(sorted(labels[name])))
            for name, texts in written.items()
            if len(labels[name]) > 1
        ]

    @property
    def can_be_held_out(self) -> bool:
        """Return whether every class has two texts that can leave one after the other."""
        firsts: dict[Hashable, int] = {}
        for number, name in zip(self.numbers.tolist(), self.names, strict=True):
            firsts.setdefault(name, number)
        counts = Counter(firsts.values())
        return all(counts[number] > 1 for number in range(len(self.labels)))

    def check(self, least: int = 2) -> None:
        """Refuse texts that nothing can be learnt from, and say which are the same.

        Raises:
            UserError: one class, or a class with less than so many different texts.
        """
        if len(self.labels) < 2:
            raise UserError(
                f"labels: all texts have one class, {''.join(self.labels)!r}; give texts of two classes or more"
            )
        for label, count in zip(self.labels, self.different, strict=True):
            if count < least:
                raise UserError(
                    f"labels: class {label!r} has {count} different {'text' if count == 1 else 'texts'}; "
                    "give at least two, or leave the class out"
                )
        repeated = len(self.examples) - len(set(self.names))
        if repeated:
            say(f"{repeated} of {len(self.examples)} texts repeat another; they are left out together")
        self._say_contradictions()

    def _say_contradictions(self, known: Collection[object] = ()) -> None:
        for written, labels in self.contradictions:
            if (written, labels) not in known:
                texts = " and ".join(repr(text[:SHOWN]) for text in written)
                which, both = ("text", "is") if len(written) == 1 else ("texts", "are")
                said = " and ".join(map(repr, labels))
                say(f"the {which} {texts} {both} labelled {said}; both are used")


def _joined(encodings: Sequence[Sequence[Hashable]]) -> tuple[Hashable, ...]:
    """Return names that texts share which have the same name in any of the sequences."""
    names = list(encodings[0])
    for encoding in encodings[1:]:
        first: dict[Hashable, int] = {}
        for number, name in enumerate(encoding):
            own, other = names[number], names[first.setdefault(name, number)]
            if own != other:
                names = [other if each == own else each for each in names]
    return tuple(names)


def classes_of(labels: Any, texts: int) -> tuple[Any, Labels]:
    """Return the different labels, sorted, and the number of each text's label among them.

    Raises:
        UserError: another number of labels than of texts, a text without one, or words among numbers.
    """
    given = np.asarray(labels)
    if given.shape != (texts,):
        raise UserError(f"y has the shape {given.shape} for {texts} texts; give one label a text")
    # as they were given: numpy makes words of numbers that stand beside words
    values = np.asarray(labels, dtype=object).tolist()
    missing = [number for number, value in enumerate(values) if _is_missing(value)]
    if missing:
        raise UserError(
            f"y: text number {missing[0]} has the label {values[missing[0]]}, which is not a label; "
            "give every text a label, or leave it out"
        )
    words = {isinstance(value, str): value for value in values}
    if len(words) > 1:
        raise UserError(
            f"y: {words[True]!r} is a word and {words[False]!r} is not; give labels of one kind, such as str(label)"
        )
    try:
        classes, numbers = np.unique(given, return_inverse=True)
    except TypeError as error:
        raise UserError(
            f"y: the labels cannot be sorted ({error}); give labels of one kind, such as str(label)"
        ) from error
    return classes, numbers


def _is_missing(label: Any) -> bool:
    """Return whether a label is none: None, NaN, or what pandas has for nothing, which is not even unlike itself."""
    try:
        return label is None or bool(label != label)
    except TypeError:
        return True


def read_labelled(file: str, columns: Columns, labels: Sequence[str] | None = None) -> LabelledTexts:
    """Return the labelled texts of one table; see ``lmntk.tasks.read_data`` for its formats, and for what a label is.

    Raises:
        UserError: the file or a column is missing, a text or a label is none, or nothing can be learnt from it.
    """
    data = read_data(file, None, labels=labels, columns=columns)
    assert data.labels is not None  # a table's labels are found with it
    used = {example.label for example in data.train}
    missing = [label for number, label in enumerate(data.labels) if number not in used]
    if missing:
        raise UserError(
            f"labels: no text has the label {missing[0]!r}; leave it out of --labels, or label some"
        )
    texts = LabelledTexts(data.train, data.labels)
    texts.check()
    return texts
