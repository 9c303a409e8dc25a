"""The 14 tasks of the paper: labels, prompt, label words, metric and length limits.

Templates are in the readable language of ``prompts/``: ``{a}`` and ``{b}`` are the texts, ``{mask}`` is the
mask token, and a bar starts a filter (``{a|drop-last}`` leaves out the last character, ``{b|lower-first}``
lower-cases the first letter). A space directly before ``{mask}`` belongs to the label word, as in RoBERTa's
``It was[MASK].`` with the word " great".

A causal model (GPT-2, Llama) reads from left to right, so its prompt ends where the label word is to come.
Most templates become that by leaving out what stands after the mask; tasks where a text stands there have a
``causal_template`` of ours beside the paper's.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

from lmntk.errors import UserError

Metric = Literal["accuracy", "f1"]

_IT_WAS = "{a} It was {mask}."
_ENTAILMENT = "{a|drop-last}? {mask}, {b|lower-first}"
_PARAPHRASE = "{a} {mask}, {b|lower-first}"

_CAUSAL_ENTAILMENT = "{a} Question: {b|drop-last}? Answer:"
_CAUSAL_ANSWERS = "Question: {a} Text: {b} Does the text answer the question? Answer:"
_CAUSAL_PARAPHRASE = "First: {a} Second: {b} Do both mean the same? Answer:"


@dataclass(frozen=True)
class Task:
    """One classification task and the prompt that the paper uses for it.

    Args:
        name: Folder name, such as ``sst-2``.
        title: Name in print, such as ``SST-2``.
        labels: Meaning of each class, in the order of the class indexes 0..C-1.
        template: Prompt in the readable template language.
        label_words: The word at the mask for each class, in the order of ``labels``.
        metric: ``accuracy``, or ``f1`` (the F1 score of class 1).
        max_length: Longest prompted input in tokens.
        text_a_limit: Longest first text in tokens, or None where only ``max_length`` binds.
        pair: True when the task has a second text.
        causal_template: Prompt that ends where the label word is to come, for models that read from left to
            right; None where ``template`` can be cut at its mask.
    """

    name: str
    title: str
    labels: tuple[str, ...]
    template: str
    label_words: tuple[str, ...]
    metric: Metric = "accuracy"
    max_length: int = 128
    text_a_limit: int | None = None
    pair: bool = False
    causal_template: str | None = None

    def prompt(self, reading: str) -> str:
        """Return the template for a reading of ``prompts/``: for "last" the causal one if there is one."""
        return (
            self.causal_template if reading == "last" and self.causal_template is not None else self.template
        )

    @property
    def csv_style(self) -> bool:
        """A flag: LM-BFF keeps the task as CSV without a header.

        Its test cut is then drawn as pandas draws, not by a shuffle.
        """
        return self.name in _CSV_TASKS


_CSV_TASKS = frozenset({"sst-5", "mr", "cr", "mpqa", "subj", "trec", "ag_news"})

_POLARITY = ("negative", "positive")
_POLARITY_WORDS = ("terrible", "great")
_THREE_WAY = ("contradiction", "entailment", "neutral")
_THREE_WAY_WORDS = ("No", "Yes", "Maybe")
_TWO_WAY = ("not_entailment", "entailment")
_NO_YES = ("No", "Yes")

_ALL = (
    Task("sst-2", "SST-2", _POLARITY, _IT_WAS, _POLARITY_WORDS),
    Task(
        "sst-5",
        "SST-5",
        ("very negative", "negative", "neutral", "positive", "very positive"),
        _IT_WAS,
        ("terrible", "bad", "okay", "good", "great"),
    ),
    Task("mr", "MR", _POLARITY, _IT_WAS, _POLARITY_WORDS, text_a_limit=110),
    Task("cr", "CR", _POLARITY, _IT_WAS, _POLARITY_WORDS, text_a_limit=110),
    Task("mpqa", "MPQA", _POLARITY, _IT_WAS, _POLARITY_WORDS, text_a_limit=110),
    Task(
        "subj",
        "Subj",
        ("subjective", "objective"),
        "{a} This is {mask}.",
        ("subjective", "objective"),
        text_a_limit=110,
    ),
    Task(
        "trec",
        "TREC",
        ("Description", "Entity", "Expression", "Human", "Location", "Number"),
        "{mask}: {a}",
        ("Description", "Entity", "Expression", "Human", "Location", "Number"),
        text_a_limit=110,
        causal_template="{a} Answer type:",
    ),
    Task(
        "ag_news",
        "AG News",
        ("world", "sports", "business", "tech"),
        "{a} This article is about {mask} news.",
        ("world", "sports", "business", "tech"),
        max_length=256,
        text_a_limit=240,
    ),
    Task(
        "mnli",
        "MNLI",
        _THREE_WAY,
        _ENTAILMENT,
        _THREE_WAY_WORDS,
        max_length=256,
        text_a_limit=240,
        pair=True,
        causal_template=_CAUSAL_ENTAILMENT,
    ),
    Task(
        "snli",
        "SNLI",
        _THREE_WAY,
        _ENTAILMENT,
        _THREE_WAY_WORDS,
        max_length=256,
        pair=True,
        causal_template=_CAUSAL_ENTAILMENT,
    ),
    Task("qnli", "QNLI", _TWO_WAY, _ENTAILMENT, _NO_YES, pair=True, causal_template=_CAUSAL_ANSWERS),
    Task(
        "rte",
        "RTE",
        _TWO_WAY,
        _ENTAILMENT,
        _NO_YES,
        max_length=256,
        text_a_limit=240,
        pair=True,
        causal_template=_CAUSAL_ENTAILMENT,
    ),
    Task(
        "mrpc",
        "MRPC",
        ("not equivalent", "equivalent"),
        _PARAPHRASE,
        _NO_YES,
        metric="f1",
        pair=True,
        causal_template=_CAUSAL_PARAPHRASE,
    ),
    Task(
        "qqp",
        "QQP",
        ("not duplicate", "duplicate"),
        _PARAPHRASE,
        _NO_YES,
        metric="f1",
        pair=True,
        causal_template=_CAUSAL_PARAPHRASE,
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
