"""Texts and encoders of one published few-shot split, for the benchmarks that classify."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lmntk.prompts.assembly import Limits
from lmntk.prompts.encoding import HeadEncoder, fitting_length
from lmntk.prompts.ensemble import make_prompt_encoder
from lmntk.tasks import Example, Task, get_task, k_shot_split, read_data

K = 16


@dataclass(frozen=True)
class FewShot:
    """A split: its task, and the examples of each side."""

    task: Task
    train: list[Example]
    dev: list[Example]
    test: list[Example]

    @classmethod
    def read(cls, data: Any, name: str, seed: int, test_limit: int, k: int = K) -> FewShot:
        """Return the split of a task with k texts a class."""
        task = get_task(name)
        texts = read_data(data, task, k=k, seed=seed)
        split = k_shot_split(
            [example.label for example in texts.train],
            len(texts.test),
            k,
            seed,
            test_limit,
            task.csv_style,
            texts.labels,
        )
        sides = ((texts.train, split.train), (texts.train, split.dev), (texts.test, split.test))
        return cls(task, *([source[row] for row in rows] for source, rows in sides))

    def encoder(self, pretrained: Any, mode: str) -> Any:
        """Return what turns texts into tokens: the task's own prompt, or for head mode none."""
        limits = Limits(fitting_length(pretrained.tokenizer, self.task.max_length), self.task.text_a_limit)
        settings = {"reading": pretrained.reading(mode), "decoder_start": pretrained.decoder_start}
        if mode == "head":
            return HeadEncoder(pretrained.tokenizer, limits, **settings)
        prompt = self.task.prompt(pretrained.reading("prompt"), None, None)
        return make_prompt_encoder(
            pretrained.tokenizer, (prompt.template,), prompt.label_words, limits, **settings
        )


def labels_of(examples: list[Example]) -> Any:
    """Return class numbers [n]."""
    return np.asarray([example.label for example in examples])
