"""Tasks whose texts are read, with the prompt and the limits that they have for a model, before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from lmntk.errors import UserError
from lmntk.experiment.configuration import Experiment
from lmntk.experiment.reading import ReadTask
from lmntk.prompts.assembly import Limits
from lmntk.prompts.encoding import HeadEncoder, TextEncoder, fitting_length
from lmntk.prompts.ensemble import make_prompt_encoder
from lmntk.prompts.label_words import Reduce
from lmntk.prompts.template import with_new_lines
from lmntk.runs.split import Split
from lmntk.tasks import Example, TaskData
from lmntk.tasks.class_words import meanings

DEFAULT_LENGTH = 128  # tokens, of a user's own task


class ReadsTexts(Protocol):
    """A model, or its tokenizer alone, as far as texts are concerned."""

    @property
    def tokenizer(self) -> Any:
        """Its tokenizer."""

    @property
    def decoder_start(self) -> int | None:
        """The id with which its decoder starts."""

    def reading(self, mode: str) -> str:
        """Return the token that a mode reads."""


@dataclass(frozen=True)
class PreparedTask:
    """One task with its texts by k and seed (they differ only for folders that come split), its prompt and its limits.

    ``remarks`` are what was guessed, counted and left out as the texts were read; nobody has heard them yet.
    """

    name: str
    title: str
    labels: tuple[str, ...]
    metric: str
    templates: tuple[str, ...]
    label_words: tuple[str, ...] | None
    chat: bool
    max_length: int
    text_a_limit: int | None
    splits: tuple[Split, ...]
    remarks: tuple[str, ...]
    data: dict[tuple[int, int], TaskData] = field(repr=False)

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.labels)

    def meaning(self, modes: Sequence[str]) -> list[str]:
        """Return each class by name, in order, and where there is a prompt the word that stands for it."""
        return meanings(self.labels, self.words(modes))

    def words(self, modes: Sequence[str]) -> tuple[str, ...] | None:
        """Return the label words that these modes read."""
        return self.label_words if "prompt" in modes else None

    def examples(self, split: Split) -> dict[str, list[Example]]:
        """Return the split's examples: train, dev and test."""
        return {side: [source[row] for row in chosen] for side, (source, chosen) in self.rows(split).items()}

    def rows(self, split: Split) -> dict[str, tuple[tuple[Example, ...], tuple[int, ...]]]:
        """Return, for each side of a split, the examples that it is drawn from and the rows that it takes."""
        data = self.data[split.k, split.seed]
        dev = data.train if data.dev is None else data.dev
        return {"train": (data.train, split.train), "dev": (dev, split.dev), "test": (data.test, split.test)}

    def encoder(self, reader: ReadsTexts, mode: str, reduce: Reduce | None = None) -> TextEncoder:
        """Return what turns an example into tokens in this mode.

        Raises:
            UserError: no prompt in prompt mode, or a prompt that does not fit the tokenizer.
        """
        reading: Any = reader.reading(mode)
        tokenizer, start = reader.tokenizer, reader.decoder_start
        limits = Limits(self.max_length, self.text_a_limit)
        if mode == "head":
            return HeadEncoder(tokenizer, limits, reading=reading, decoder_start=start)
        if not self.templates or self.label_words is None:
            raise UserError(
                f"{self.name}: prompt mode needs a template and label words; give both, or use mode head"
            )
        return make_prompt_encoder(
            tokenizer,
            self.templates,
            self.label_words,
            limits,
            reading=reading,
            decoder_start=start,
            reduce=reduce,
            chat=self.chat,
        )


def prepare_tasks(experiment: Experiment, read: Sequence[ReadTask], reader: ReadsTexts) -> list[PreparedTask]:
    """Return the tasks with their prompts and limits, as the model's tokenizer and kind have them.

    Raises:
        UserError: prompt mode, of a model that reads no prompt.
    """
    reading = reader.reading("prompt") if "prompt" in experiment.modes else "mask"
    return [_prepared(task, reader.tokenizer, reading) for task in read]


def _prepared(task: ReadTask, tokenizer: Any, reading: str) -> PreparedTask:
    template: str | Sequence[str] | None = task.template
    words, longest, first = task.label_words, task.max_length, task.text_a_limit
    if task.known is not None:
        prompt = task.known.prompt(reading, template, words)
        template, words = prompt.template, prompt.label_words
        fitting = fitting_length(tokenizer, task.known.max_length)
        longest, first = longest or fitting, None if first is None else min(first, fitting)
    return PreparedTask(
        name=task.name,
        title=task.title,
        labels=task.labels,
        metric=task.metric,
        templates=_listed(template),
        label_words=words,
        chat=task.chat,
        max_length=longest or fitting_length(tokenizer, DEFAULT_LENGTH),
        text_a_limit=first,
        splits=task.splits,
        remarks=task.remarks,
        data=task.data,
    )


def _listed(templates: str | Sequence[str] | None) -> tuple[str, ...]:
    return tuple(map(with_new_lines, (templates,) if isinstance(templates, str) else templates or ()))
