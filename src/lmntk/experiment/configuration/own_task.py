"""A task of the user's own."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from lmntk.experiment.configuration.parts import (
    CHAT,
    LABEL_COLUMN,
    LABEL_WORDS,
    LABELS,
    MAX_LENGTH,
    TEMPLATE,
    TEXT_B_COLUMN,
    TEXT_COLUMN,
    ClassWords,
    Part,
    Words,
)
from lmntk.tasks import TASKS

OF_RUN = {"no_option": "the option of this name is the experiment's field"}
OF_PROMPTS = {"no_option": "prompts of one task are compared in a file, where there are several tasks"}


class OwnTask(Part):
    """A task of the user's own: where its texts are, and its prompt.

    Either ``train`` (and ``test``), or ``texts_of``: one of the 14 tasks, whose texts, splits, labels and metric it takes, with a prompt of
    its own.
    """

    GROUP: ClassVar[str] = "Data"

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="a name for your own task",
        json_schema_extra={"unset": "own"},
    )
    train: str = Field(default="", description="your own texts: CSV, TSV, JSONL, Parquet, or hf:NAME")
    test: str | None = Field(default=None, description="your own test texts")
    texts_of: str | None = Field(
        default=None,
        description="take the texts of this task, one of the 14",
        json_schema_extra=dict(OF_PROMPTS),
    )
    text_column: str = Field(default="text", description=TEXT_COLUMN)
    text_b_column: str | None = Field(default=None, description=TEXT_B_COLUMN)
    label_column: str = Field(default="label", description=LABEL_COLUMN)
    labels: Words | None = Field(default=None, description=LABELS)
    template: str | tuple[str, ...] | None = Field(
        default=None, description=TEMPLATE, json_schema_extra=dict(OF_RUN)
    )
    chat: bool = Field(default=False, description=CHAT, json_schema_extra=dict(OF_RUN))
    label_words: ClassWords | None = Field(
        default=None, description=LABEL_WORDS, json_schema_extra=dict(OF_RUN)
    )
    metric: Literal["accuracy", "f1"] = Field(
        default="accuracy", description="metric of your own task: accuracy or f1"
    )
    max_length: int | None = Field(default=None, gt=0, description=MAX_LENGTH, json_schema_extra=dict(OF_RUN))
    text_a_limit: int | None = Field(
        default=None, gt=0, description="longest first text in tokens", json_schema_extra=dict(OF_PROMPTS)
    )

    @model_validator(mode="after")
    def _has_texts(self) -> OwnTask:
        if bool(self.train) == bool(self.texts_of):
            raise ValueError("train: give the file of its texts, or with texts_of one of the 14 tasks")
        if self.texts_of is not None and self.texts_of not in TASKS:
            raise ValueError(f"texts_of: {self.texts_of!r} is not one of {', '.join(TASKS)}")
        return self
