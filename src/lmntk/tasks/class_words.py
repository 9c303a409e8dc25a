"""Which word stands for which class: by the class's name, or by the order of the classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lmntk.errors import UserError
from lmntk.tasks.labels import whole_number
from lmntk.tasks.rows import listed

BY_CLASS = "the word of each class: Billing=payment,Shipping=delivery; or the words alone, in the order of the classes"


def class_entries(given: Mapping[str, str]) -> tuple[str, ...]:
    """Return a table of words by class as ``words_by_class`` takes it."""
    return tuple(f"{name}={word}" for name, word in given.items())


def words_by_class(given: Sequence[str], classes: Sequence[str]) -> tuple[str, ...]:
    """Return the word of each class, in the order of the classes.

    Args:
        given: ``class=word`` for each class, in any order; or the words alone, in the order of the classes.
        classes: the classes' names.

    Raises:
        UserError: a class without a word or with two, a class that is not there, or another number of words than classes.

    Example:
        >>> words_by_class(["Shipping=delivery", "Billing=payment"], ["Billing", "Shipping"])
        ('payment', 'delivery')
    """
    example = ",".join(f"{name}=..." for name in classes[:3]) + (",..." if len(classes) > 3 else "")
    longest_first = sorted(classes, key=len, reverse=True)  # a class may be called "a=b", beside "a"
    owners = [next((name for name in longest_first if entry.startswith(f"{name}=")), None) for entry in given]
    if not any(owner is not None for owner in owners):
        if any("=" in entry for entry in given):
            wrong = next(entry for entry in given if "=" in entry)
            raise UserError(
                f"label-words: {wrong!r} does not belong to a class; the classes are {listed(classes)}: write {example}"
            )
        if len(given) != len(classes):
            raise UserError(
                f"label-words: {len(given)} label words for {len(classes)} classes ({listed(classes)}); write {example}"
            )
        return tuple(given)
    words: dict[str, str] = {}
    for entry, owner in zip(given, owners, strict=True):
        if owner is None:
            raise UserError(
                f"label-words: {entry!r} does not belong to a class; the classes are {listed(classes)}: write {example}"
            )
        if owner in words:
            raise UserError(f"label-words: class {owner!r} has two words; join them with |, or leave one out")
        words[owner] = entry[len(owner) + 1 :].strip()
    missing = [name for name in classes if name not in words]
    if missing:
        raise UserError(f"label-words: class {missing[0]!r} has no word; write {example}")
    return tuple(words[name] for name in classes)


def classes_and_words(
    given: Sequence[str], found: Sequence[str] | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the classes and the word of each, where the texts need no labels.

    Without labels the words name the classes themselves: ``Billing=payment,Shipping=delivery`` are two, in this order. Class numbers
    need not all occur among a few texts: three words are for the classes 0 to 2.

    Args:
        given: as ``words_by_class`` takes them.
        found: the classes of the labels, in order; None where there is none.

    Raises:
        UserError: as ``words_by_class``.
    """
    names = [entry.partition("=")[0] for entry in given]
    by_name = all("=" in entry and name for entry, name in zip(given, names, strict=True))
    if found is None:
        classes = tuple(names) if by_name else tuple(map(str, range(len(given))))
        return classes, words_by_class(given, classes)
    numbers = [str(number) for number in range(len(given))]
    if not by_name and set(found) <= set(numbers) and all(whole_number(name) for name in found):
        found = numbers
    return tuple(found), words_by_class(given, found)


def class_line(classes: Sequence[str], words: Sequence[str] | None, task: str = "") -> str:
    """Return the line that every command prints first: the classes in their order, each with its word, if there are words."""
    return f"classes{f' of {task}' if task else ''}: {', '.join(meanings(classes, words))}"


def meanings(classes: Sequence[str], words: Sequence[str] | None) -> list[str]:
    """Return each class with the word that stands for it, in order; without words the classes alone."""
    if words is None:
        return list(classes)
    return [f"{name} = {word!r}" for name, word in zip(classes, words, strict=True)]
