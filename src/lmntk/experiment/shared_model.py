"""The model that the splits of one task and mode share, with their texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from lmntk.engine.batches import Capturer
from lmntk.engine.kernel_work import groups_of
from lmntk.engine.phases import result_bytes
from lmntk.experiment.preparation import PreparedTask
from lmntk.experiment.session import Session
from lmntk.models.build import Probe, logit_model
from lmntk.models.logit_model import LogitModel, combined
from lmntk.prediction.direction_memory import DirectionMemory
from lmntk.prompts.encoding import EncodedText
from lmntk.runs.split import Split
from lmntk.solvers.shared import SIGNS, sign_combinations

Sides = dict[str, list[EncodedText]]


@dataclass
class SharedModel:
    """A model, and every split of one task and mode whose kernels are its own.

    The splits of a prompt, or of a classifier with its own head, share the model, and so the gradients of their
    test texts. A linear probe is fitted to the training texts, so each split has a model of its own.

    Attributes:
        session: of the run.
        task: of the splits.
        splits: all that share the model, the finished ones too.
        mode: prompt or head; by default that of the splits.
    """

    session: Session
    task: PreparedTask
    splits: Sequence[Split]
    mode: str = ""

    def __post_init__(self) -> None:
        self.mode = self.mode or self.splits[0].mode

    @property
    def title(self) -> str:
        """The beginning of a line about it."""
        return f"{self.task.title} {self.mode}"

    def texts(self, split: Split) -> Sides:
        """Return a split's texts by side, encoded."""
        return self.session.texts(self.task, split, self.mode)

    def labels(self, split: Split) -> dict[str, list[int]]:
        """Return a split's class numbers by side."""
        return self.session.labels(self.task, split)

    @cached_property
    def model(self) -> LogitModel:
        """The prompt's model, the checkpoint with its own head, or one with a probe on the split's train texts."""
        session, task = self.session, self.task
        encoder = session.encoder(task, self.mode)
        probe = None
        if self.mode == "head" and session.pretrained.kind != "classifier":
            (split,) = self.splits
            texts, labels = self.texts(split)["train"], self.labels(split)["train"]
            probe = Probe(texts, labels, task.classes, session.settings.batch_size)
        return logit_model(
            session.pretrained,
            encoder,
            session.folds(task),
            labels=task.labels,
            features=session.experiment.features,
            head=probe,
        )

    @property
    def kernel_model(self) -> LogitModel:
        """The model whose kernels are computed.

        Of classes that share one its outputs are two random sign combinations of the logits; of contrasts, those.
        """
        weights = self.session.contrasts(self.task)
        if self.session.shares(self.task):
            weights = sign_combinations(self.task.classes, SIGNS)
        return self.model if weights is None else combined(self.model, torch.from_numpy(weights))

    def release(self) -> None:
        """Let go of the model and of what is known of its memory; they are made anew when they are asked for."""
        for name in ("model", "capturer", "direction_memory"):
            self.__dict__.pop(name, None)

    @cached_property
    def capturer(self) -> Capturer:
        """The capturer of the training texts, once more, for the directions of solutions."""
        settings = self.session.settings
        train = [text for split in self.splits for text in self.texts(split)["train"]]
        trainable = self.session.chosen.select(self.model)
        pad_id = self.session.pretrained.pad_id
        return Capturer(self.model, trainable, pad_id, train, settings.batch_size, gpu=settings.gpu)

    @cached_property
    def direction_memory(self) -> DirectionMemory:
        """The memory that is left for directions of solutions."""
        return DirectionMemory(self.capturer, self.session.settings)

    def kernel_bytes(self, splits: Sequence[Split], sides: Sequence[str]) -> int:
        """Return the bytes of the splits' kernels, each group of parameters its own, which are held until they are solved."""
        formulas, grouping = self.session.experiment.formulas, self.session.settings.grouping
        groups = groups_of(grouping, self.capturer.trainable, alone=0)
        pairs = sum(
            len(texts["train"]) * len(texts[side]) for texts in map(self.texts, splits) for side in sides
        )
        return result_bytes(pairs, self.model.outputs, formulas, groups)

    def check_directions(self, splits: Sequence[Split], sides: Sequence[str]) -> None:
        """Refuse directions of solutions that would not fit beside the kernels, before those are computed.

        Raises:
            UserError: it cannot be done in so little; says the least that works.
        """
        coming = self.kernel_bytes(splits, sides)
        self.direction_memory.check(self.session.methods, self.model.outputs, coming)


def shared_models(session: Session) -> Iterator[SharedModel]:
    """Yield the models of a session, each with all the splits that share it."""
    for task in session.tasks:
        for mode in session.experiment.modes:
            splits = [split for split in task.splits if split.mode == mode]
            if mode == "prompt" or session.pretrained.kind == "classifier":
                yield SharedModel(session, task, splits)
            else:
                yield from (SharedModel(session, task, [split]) for split in splits)


def shared_model_of(session: Session, task: PreparedTask, split: Split, mode: str) -> SharedModel:
    """Return the model of one split alone, in its own mode or another."""
    return SharedModel(session, task, [split], mode)
