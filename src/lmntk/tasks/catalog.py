"""The 14 tasks of the paper: labels, prompt, label words, metric and length limits.

Templates are in the readable language of ``prompts/``: ``{a}`` and ``{b}`` are the texts, ``{mask}`` is the
mask token, and a bar starts a filter (``{a|drop-last}`` leaves out the last character, ``{b|lower-first}``
lower-cases the first letter). A space directly before ``{mask}`` belongs to the label word, as in RoBERTa's
``It was[MASK].`` with the word " great".

A causal model (GPT-2, Llama) reads from left to right, and the paper has no prompt for it. So each task has a
causal prompt of ours, a template that ends where the label word is to come, with words of its own; ``docs/models.md``
gives the reasons, which were written down before any result.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lmntk.errors import UserError

Metric = Literal["accuracy", "f1"]

_IT_WAS = "{a} It was {mask}."
_ENTAILMENT = "{a|drop-last}? {mask}, {b|lower-first}"
_PARAPHRASE = "{a} {mask}, {b|lower-first}"


@dataclass(frozen=True)
class Prompt:
    """A template, or several, and the word of each class that it asks for."""

    template: str | Sequence[str]
    label_words: tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """One classification task, the prompt that the paper uses for it, and one of ours for causal models.

    Args:
        name: Folder name, such as ``sst-2``.
        title: Name in print, such as ``SST-2``.
        labels: Meaning of each class, in the order of the class indexes 0..C-1.
        template: Prompt in the readable template language.
        label_words: The word at the mask for each class, in the order of ``labels``.
        causal: Prompt that ends where the label word is to come, for models that read from left to right.
        metric: ``accuracy``, or ``f1`` (the F1 score of class 1).
        max_length: Longest prompted input in tokens.
        text_a_limit: Longest first text in tokens, or None where only ``max_length`` binds.
        pair: True when the task has a second text.
    """

    name: str
    title: str
    labels: tuple[str, ...]
    template: str
    label_words: tuple[str, ...]
    causal: Prompt
    metric: Metric = "accuracy"
    max_length: int = 128
    text_a_limit: int | None = None
    pair: bool = False

    def prompt(
        self,
        reading: str,
        template: str | Sequence[str] | None = None,
        label_words: Sequence[str] | None = None,
    ) -> Prompt:
        """Return the prompt for a reading of ``prompts/``, of what is given and the default of the rest.

        The causal prompt is for "last" where nothing is given: its template and its words belong together. A half that is given alone goes
        with the paper's other half, but for a template that cannot end at its mask.
        """
        if reading == "last" and not template and not label_words:
            return self.causal
        ends_at_mask = "{" not in self.template.partition("{mask}")[2]
        default = self.template if reading != "last" or ends_at_mask else self.causal.template
        return Prompt(template or default, tuple(label_words or self.label_words))

    @property
    def csv_style(self) -> bool:
        """A flag: LM-BFF keeps the task as CSV without a header.

        Its test cut is then drawn as pandas draws, not by a shuffle.
        """
        return self.name in _CSV_TASKS


_CSV_TASKS = frozenset({"sst-5", "mr", "cr", "mpqa", "subj", "trec", "ag_news"})

_POLARITY = ("negative", "positive")
_POLARITY_WORDS = ("terrible", "great")
_FIVE_WORDS = ("terrible", "bad", "okay", "good", "great")
_THREE_WAY = ("contradiction", "entailment", "neutral")
_THREE_WAY_WORDS = ("No", "Yes", "Maybe")
_TWO_WAY = ("not_entailment", "entailment")
_NO_YES = ("No", "Yes")

_REVIEW = Prompt("Review: {a}\nSentiment:", _POLARITY)
_IMPLIES = "Premise: {a}\nHypothesis: {b}\nQuestion: Does the premise imply the hypothesis?\nAnswer:"

_ALL = (
    Task("sst-2", "SST-2", _POLARITY, _IT_WAS, _POLARITY_WORDS, _REVIEW),
    Task(
        "sst-5",
        "SST-5",
        ("very negative", "negative", "neutral", "positive", "very positive"),
        _IT_WAS,
        _FIVE_WORDS,
        Prompt("Review: {a}\nRating:", _FIVE_WORDS),
    ),
    Task("mr", "MR", _POLARITY, _IT_WAS, _POLARITY_WORDS, _REVIEW, text_a_limit=110),
    Task("cr", "CR", _POLARITY, _IT_WAS, _POLARITY_WORDS, _REVIEW, text_a_limit=110),
    Task(
        "mpqa",
        "MPQA",
        _POLARITY,
        _IT_WAS,
        _POLARITY_WORDS,
        Prompt("Phrase: {a}\nSentiment:", _POLARITY),
        text_a_limit=110,
    ),
    Task(
        "subj",
        "Subj",
        ("subjective", "objective"),
        "{a} This is {mask}.",
        ("subjective", "objective"),
        Prompt("Sentence: {a}\nTone:", ("subjective", "objective")),
        text_a_limit=110,
    ),
    Task(
        "trec",
        "TREC",
        ("Description", "Entity", "Expression", "Human", "Location", "Number"),
        "{mask}: {a}",
        ("Description", "Entity", "Expression", "Human", "Location", "Number"),
        Prompt(
            "Question: {a}\nAnswer type:",
            ("description", "entity", "expression", "person", "location", "number"),
        ),
        text_a_limit=110,
    ),
    Task(
        "ag_news",
        "AG News",
        ("world", "sports", "business", "tech"),
        "{a} This article is about {mask} news.",
        ("world", "sports", "business", "tech"),
        Prompt("Article: {a}\nTopic:", ("world", "sports", "business", "technology")),
        max_length=256,
        text_a_limit=240,
    ),
    Task(
        "mnli",
        "MNLI",
        _THREE_WAY,
        _ENTAILMENT,
        _THREE_WAY_WORDS,
        Prompt(_IMPLIES, _THREE_WAY_WORDS),
        max_length=256,
        text_a_limit=240,
        pair=True,
    ),
    Task(
        "snli",
        "SNLI",
        _THREE_WAY,
        _ENTAILMENT,
        _THREE_WAY_WORDS,
        Prompt(_IMPLIES, _THREE_WAY_WORDS),
        max_length=256,
        pair=True,
    ),
    Task(
        "qnli",
        "QNLI",
        _TWO_WAY,
        _ENTAILMENT,
        _NO_YES,
        Prompt("Question: {a}\nText: {b}\nQuestion: Does the text answer the question?\nAnswer:", _NO_YES),
        pair=True,
    ),
    Task(
        "rte",
        "RTE",
        _TWO_WAY,
        _ENTAILMENT,
        _NO_YES,
        Prompt(_IMPLIES, _NO_YES),
        max_length=256,
        text_a_limit=240,
        pair=True,
    ),
    Task(
        "mrpc",
        "MRPC",
        ("not equivalent", "equivalent"),
        _PARAPHRASE,
        _NO_YES,
        Prompt(
            "First sentence: {a}\nSecond sentence: {b}\nQuestion: Do both sentences mean the same?\nAnswer:",
            _NO_YES,
        ),
        metric="f1",
        pair=True,
    ),
    Task(
        "qqp",
        "QQP",
        ("not duplicate", "duplicate"),
        _PARAPHRASE,
        _NO_YES,
        Prompt(
            "First question: {a}\nSecond question: {b}\nQuestion: Do both questions ask the same?\nAnswer:",
            _NO_YES,
        ),
        metric="f1",
        pair=True,
    ),
)

TASKS: dict[str, Task] = {task.name: task for task in _ALL}


def get_task(name: str) -> Task:
    """Return the task called ``name``; case does not matter, and ``_`` and ``-`` are the same.

    Raises:
        UserError: No task has that name; the message lists the near matches, or all names.
    """
    key = _plain(name)
    known = {_plain(task.name): task for task in _ALL}
    if key in known:
        return known[key]
    near = difflib.get_close_matches(key, list(known), n=3, cutoff=0.5)
    matches = " or ".join(repr(known[match].name) for match in near)
    hint = f"did you mean {matches}?" if near else f"the tasks are {', '.join(TASKS)}"
    raise UserError(f"there is no task {name!r}: {hint}")


def _plain(name: str) -> str:
    return name.strip().casefold().replace("_", "-").replace(" ", "-")
