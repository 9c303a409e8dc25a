"""Which word stands for which class: by the class's name, or by the order of the classes."""

from __future__ import annotations

from collections.abc import Sequence

from lmntk.errors import UserError


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
    owners = [next((name for name in classes if entry.startswith(f"{name}=")), None) for entry in given]
    if not any(owners):
        if any("=" in entry for entry in given):
            wrong = next(entry for entry in given if "=" in entry)
            raise UserError(
                f"label-words: {wrong!r} is of no class; the classes are {', '.join(classes)}: write {example}"
            )
        if len(given) != len(classes):
            raise UserError(
                f"label-words: {len(given)} for {len(classes)} classes ({', '.join(classes)}); write {example}"
            )
        return tuple(given)
    words: dict[str, str] = {}
    for entry, owner in zip(given, owners, strict=True):
        if owner is None:
            raise UserError(
                f"label-words: {entry!r} is of no class; the classes are {', '.join(classes)}: write {example}"
            )
        if owner in words:
            raise UserError(f"label-words: class {owner!r} has two words; join them with |, or leave one out")
        words[owner] = entry[len(owner) + 1 :].strip()
    missing = [name for name in classes if name not in words]
    if missing:
        raise UserError(f"label-words: class {missing[0]!r} has no word; write {example}")
    return tuple(words[name] for name in classes)
