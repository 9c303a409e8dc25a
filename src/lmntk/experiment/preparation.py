"""From an experiment's configuration to tasks whose texts are read, split and encoded, before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lmntk.errors import UserError
from lmntk.experiment.configuration import Experiment, OwnTask
from lmntk.models.loading import Pretrained
from lmntk.prompts.assembly import Limits
from lmntk.prompts.encoding import HeadEncoder, TextEncoder, fitting_length
from lmntk.prompts.ensemble import make_prompt_encoder
from lmntk.prompts.label_words import Reduce
from lmntk.prompts.template import with_new_lines
from lmntk.runs.split import Split
from lmntk.system.notices import kept
from lmntk.tasks import Columns, Example, Task, TaskData, get_task, k_shot_split, read_data
from lmntk.tasks.splits import cut_test

DEFAULT_LENGTH = 128  # tokens, of a user's own task


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

    def meaning(self) -> list[str]:
        """Return what each class is, in order: its label, and in prompt mode the word that stands for it."""
        words = self.label_words or ("",) * self.classes
        return [
            f"{index} = {label}" + (f" ({word})" if word else "")
            for index, (label, word) in enumerate(zip(self.labels, words, strict=False))
        ]

    def examples(self, split: Split) -> dict[str, list[Example]]:
        """Return the split's examples: train, dev and test."""
        return {side: [source[row] for row in chosen] for side, (source, chosen) in self.rows(split).items()}

    def rows(self, split: Split) -> dict[str, tuple[tuple[Example, ...], tuple[int, ...]]]:
        """Return, for each side of a split, the examples that it is drawn from and the rows that it takes."""
        data = self.data[split.k, split.seed]
        dev = data.train if data.dev is None else data.dev
        return {"train": (data.train, split.train), "dev": (dev, split.dev), "test": (data.test, split.test)}

    def encoder(self, pretrained: Pretrained, mode: str, reduce: Reduce | None = None) -> TextEncoder:
        """Return what turns an example into tokens in this mode.

        Raises:
            UserError: no prompt in prompt mode, or a prompt that does not fit the tokenizer.
        """
        reading: Any = pretrained.reading(mode)
        tokenizer, start = pretrained.tokenizer, pretrained.decoder_start
        limits = Limits(self.max_length, self.text_a_limit)
        if mode == "head":
            return HeadEncoder(tokenizer, limits, reading=reading, decoder_start=start)
        if not self.templates or self.label_words is None:
            raise UserError(
                f"{self.name}: prompt mode needs a template and label words; give both, or use mode head"
            )
        if len(self.label_words) != self.classes:
            raise UserError(
                f"{self.name}: {len(self.label_words)} label words for {self.classes} classes; give one for each class, in their order"
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


def label_of(example: Example, task: str) -> int:
    """Return an example's label.

    Raises:
        UserError: it has none.
    """
    if example.label is None:
        raise UserError(
            f"{task}: the text {example.text_a[:40]!r} has no label; every train and test text needs one"
        )
    return example.label


def splits_of(
    task: str, data: TaskData, k: int, seed: int, modes: Sequence[str], test_limit: int, csv_style: bool
) -> list[Split]:
    """Return the splits of one k and seed: the k-shot split, or the ready-made one, once a mode."""
    if data.dev is not None:
        parts = (
            tuple(range(len(data.train))),
            tuple(range(len(data.dev))),
            cut_test(len(data.test), test_limit, csv_style),
        )
    else:
        split = k_shot_split(
            [label_of(example, task) for example in data.train],
            len(data.test),
            k,
            seed,
            test_limit,
            csv_style,
            data.labels,
        )
        parts = split.train, split.dev, split.test
    if not parts[2]:
        raise UserError(f"{task}: there are no test texts; give a test file")
    if not parts[1]:
        raise UserError(f"{task}: no texts are left for validation at k = {k}; use a smaller k")
    return [Split(task, k, seed, mode, *parts) for mode in modes]


def prepare_tasks(experiment: Experiment, pretrained: Pretrained) -> list[PreparedTask]:
    """Return the experiment's tasks, read and split; every mistake in the data shows here.

    Raises:
        UserError: whatever is wrong with the first task that is wrong.
    """
    given = experiment.template, experiment.label_words
    prepared = [_catalog_task(experiment, get_task(name), pretrained, *given) for name in experiment.tasks]
    prepared += [_own_task(experiment, task, pretrained) for task in experiment.own_tasks]
    for task in prepared:
        if task.metric == "f1" and task.classes != 2:
            raise UserError(
                f"{task.name}: f1 is that of class 1 of two, and here are {task.classes} classes; use accuracy"
            )
    return prepared


def _catalog_task(
    experiment: Experiment,
    task: Task,
    pretrained: Pretrained,
    template: str | tuple[str, ...] | None,
    label_words: tuple[str, ...] | None,
) -> PreparedTask:
    assert experiment.data is not None  # the configuration sees to it
    data, splits = {}, []
    common = None
    with kept() as remarks:
        for k in experiment.k:
            for seed in experiment.seeds:
                if common is None or common.dev is not None:
                    common = read_data(experiment.data, task, k=k, seed=seed)
                data[k, seed] = common
                splits += splits_of(
                    task.name, common, k, seed, experiment.modes, experiment.test_limit, task.csv_style
                )
    longest = fitting_length(pretrained.tokenizer, task.max_length)
    reading = pretrained.reading("prompt") if "prompt" in experiment.modes else "mask"
    prompt = task.prompt(reading, template, label_words)
    return PreparedTask(
        name=task.name,
        title=task.title,
        labels=task.labels,
        metric=task.metric,
        templates=_listed(prompt.template),
        label_words=prompt.label_words,
        chat=experiment.chat,
        max_length=experiment.max_length or longest,
        text_a_limit=task.text_a_limit if task.text_a_limit is None else min(task.text_a_limit, longest),
        splits=tuple(splits),
        remarks=tuple(remarks),
        data=data,
    )


def _listed(templates: str | Sequence[str] | None) -> tuple[str, ...]:
    return tuple(map(with_new_lines, (templates,) if isinstance(templates, str) else templates or ()))


def _own_task(experiment: Experiment, task: OwnTask, pretrained: Pretrained) -> PreparedTask:
    if task.texts_of is not None:
        template, words = task.template or experiment.template, task.label_words or experiment.label_words
        known = _catalog_task(experiment, get_task(task.texts_of), pretrained, template, words)
        return replace(
            known,
            name=task.name,
            title=task.name,
            chat=experiment.chat or task.chat,
            splits=tuple(replace(split, task=task.name) for split in known.splits),
        )
    columns = Columns(task.text_column, task.text_b_column, task.label_column)
    source = task.train if task.train.startswith("hf:") else Path(task.train)
    with kept() as remarks:
        data = read_data(source, None, test=task.test, labels=task.labels, columns=columns)
        found = {example.label for example in data.train if example.label is not None}
        classes = len(data.labels) if data.labels is not None else max(found, default=0) + 1
        if classes < 2:
            raise UserError(f"{task.name}: the train texts have {classes} class; at least two are needed")
        splits = [
            split
            for k in experiment.k
            for seed in experiment.seeds
            for split in splits_of(task.name, data, k, seed, experiment.modes, experiment.test_limit, False)
        ]
    return PreparedTask(
        name=task.name,
        title=task.name,
        labels=data.labels or tuple(map(str, range(classes))),
        metric=task.metric,
        templates=_listed(experiment.template or task.template),
        label_words=experiment.label_words or task.label_words,
        chat=experiment.chat or task.chat,
        max_length=experiment.max_length
        or task.max_length
        or fitting_length(pretrained.tokenizer, DEFAULT_LENGTH),
        text_a_limit=task.text_a_limit,
        splits=tuple(splits),
        remarks=tuple(remarks),
        data={(k, seed): data for k in experiment.k for seed in experiment.seeds},
    )
