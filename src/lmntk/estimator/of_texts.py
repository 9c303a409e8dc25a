"""Estimators of texts for scikit-learn: what they take, and label words as they are given to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lmntk.errors import UserError
from lmntk.tasks.class_words import words_by_class


class OfTexts:
    """A mixin of estimators whose samples are texts, and no rows of numbers."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        tags.input_tags.one_d_array = True
        return tags


def words_of(
    owner: str, template: str | None, label_words: Mapping[Any, str] | Sequence[str], names: Sequence[str]
) -> tuple[str, ...]:
    """Return the word of each class, from a table by class or a list in their order.

    Args:
        owner: the estimator, by which a mistake is called.
        template: the prompt that they are of.
        label_words: as they were given.
        names: of the classes.

    Raises:
        UserError: no template, or words that do not fit the classes.
    """
    if template is None:
        raise UserError(f'{owner}: label_words need a template, such as "{{a}} It was {{mask}}."')
    if isinstance(label_words, Mapping):
        return words_by_class([f"{label}={word}" for label, word in label_words.items()], names)
    return words_by_class(list(label_words), names)
