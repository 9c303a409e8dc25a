"""A session: one run of an experiment, with what all of its steps share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from os.path import abspath
from pathlib import Path

from lmntk.engine.settings import Settings
from lmntk.experiment.configuration import Experiment
from lmntk.experiment.preparation import PreparedTask
from lmntk.experiment.reading import label_of
from lmntk.models.filters import ParameterFilter
from lmntk.models.loading import Pretrained
from lmntk.prompts.encoding import EncodedText, TextEncoder, encode_whole
from lmntk.prompts.remarks import cut_remark, date_remark
from lmntk.runs.keys import SplitKeys
from lmntk.runs.records import FORMAT
from lmntk.runs.split import Split
from lmntk.runs.store import Store
from lmntk.solvers.inputs import Array
from lmntk.solvers.shared import DRAWN, contrasts, is_contrasted, is_shared
from lmntk.system.hashing import Key
from lmntk.system.progress import Progress
from lmntk.tasks.example import Example, digest_examples


@dataclass(frozen=True)
class GivenCheckpoint:
    """A checkpoint that the user fine-tuned, to be diagnosed, and the hash of its files."""

    path: Path
    digest: str

    @property
    def method(self) -> str:
        """Its name beside other ways of fine-tuning; many paths end alike, so some of the digest is in it."""
        end = "/".join(Path(abspath(self.path)).parts[-2:])[-80:]
        return f"given fine-tuning ({end}, {self.digest[:8]})"


@dataclass
class Session:
    """One run of an experiment.

    Attributes:
        experiment: what is asked for.
        pretrained: the model.
        store: the output folder.
        progress: whom the run tells how far it is.
        settings: how kernels are computed.
        chosen: the parameters that count.
        methods: the (formula, solver) pairs that are asked for.
        given: the checkpoint that is diagnosed, if the user gave one.
        tasks: the tasks, read and split.
    """

    experiment: Experiment
    pretrained: Pretrained
    store: Store
    progress: Progress
    settings: Settings
    chosen: ParameterFilter
    methods: list[tuple[str, str]]
    given: GivenCheckpoint | None = None
    tasks: list[PreparedTask] = field(default_factory=list)
    _encoders: dict[tuple[str, str], TextEncoder] = field(default_factory=dict)
    _encoded: dict[tuple[str, str], dict[Example, EncodedText]] = field(default_factory=dict)
    _keys: dict[str, SplitKeys] = field(default_factory=dict)

    def asking_for(self, formulas: tuple[str, ...]) -> Session:
        """Return the same run with the kernels of these formulas alone, and no solver; the keys are the run's own."""
        return replace(self, experiment=self.experiment.model_copy(update={"formulas": formulas}), methods=[])

    @property
    def planned(self) -> list[tuple[PreparedTask, Split]]:
        """Every split that is asked for, with its task."""
        return [(task, split) for task in self.tasks for split in task.splits]

    def encoder(self, task: PreparedTask, mode: str) -> TextEncoder:
        """Return what turns a task's examples into tokens in a mode; it is made once.

        Raises:
            UserError: the mode does not fit the task or the model.
        """
        if (task.name, mode) not in self._encoders:
            reduce = self.experiment.label_words_reduce
            self._encoders[task.name, mode] = task.encoder(self.pretrained, mode, reduce)
        return self._encoders[task.name, mode]

    def encoded(self, task: PreparedTask, mode: str, examples: Sequence[Example]) -> list[EncodedText]:
        """Return the tokens of a task's examples in a mode; each example is encoded once in a session."""
        encoder, known = self.encoder(task, mode), self._encoded.setdefault((task.name, mode), {})
        for example in examples:
            if example not in known:
                known[example] = encode_whole(encoder, example)
        return [known[example] for example in examples]

    def texts(
        self, task: PreparedTask, split: Split, mode: str | None = None
    ) -> dict[str, list[EncodedText]]:
        """Return the tokens of a split's texts by side, in its own mode or another."""
        sides = task.examples(split).items()
        return {side: self.encoded(task, mode or split.mode, examples) for side, examples in sides}

    def cut_remarks(self, task: PreparedTask) -> list[str]:
        """Return how many of the texts of a task's splits were cut to the length limit, in a line for each mode."""
        lines = []
        for mode in dict.fromkeys(split.mode for split in task.splits):
            encoder = self.encoder(task, mode)
            texts: dict[tuple[int, int], EncodedText] = {}
            for split in (split for split in task.splits if split.mode == mode):
                for side, encoded in self.texts(task, split).items():
                    source, rows = task.rows(split)[side]
                    texts |= {(id(source), row): text for row, text in zip(rows, encoded, strict=True)}
            cut = sum(text.was_cut for text in texts.values())
            if line := cut_remark(cut, len(texts), encoder):
                lines.append(f"{task.name}, {mode}: {line}")
        return lines

    def remarks(self, task: PreparedTask) -> list[str]:
        """Return what there is to say on a task's texts: how they were read, and how many were cut."""
        encoders = [self.encoder(task, mode) for mode in self.experiment.modes]
        dates = [f"{task.name}: {line}" for line in map(date_remark, encoders) if line]
        return [*task.remarks, *dates, *self.cut_remarks(task)]

    def labels(self, task: PreparedTask, split: Split) -> dict[str, list[int]]:
        """Return the class numbers of a split's texts by side."""
        sides = task.examples(split).items()
        return {side: [label_of(example, task.name) for example in examples] for side, examples in sides}

    def folds(self, task: PreparedTask) -> bool:
        """Return whether the task's two logits are folded into their difference."""
        return task.classes == 2 and not self.experiment.all_logits

    def shares(self, task: PreparedTask) -> bool:
        """Return whether the task's classes share a kernel."""
        return is_shared(self.experiment.classes, task.classes)

    def contrasts(self, task: PreparedTask) -> Array | None:
        """Return the contrasts [C, C - 1] of the task's logits, where their kernel stands for the full one."""
        return contrasts(task.classes) if is_contrasted(self.experiment.classes, task.classes) else None

    def is_full(self, task: PreparedTask) -> bool:
        """Return whether the task has a kernel for each pair of classes, as it was computed."""
        return not self.shares(task) and self.contrasts(task) is None

    def keys(self, task: PreparedTask, split: Split) -> SplitKeys:
        """Return the keys of a split: of its content, its kernels, its results and their means."""
        if split.name not in self._keys:
            self._keys[split.name] = self._made_keys(task, split)
        return self._keys[split.name]

    def _made_keys(self, task: PreparedTask, split: Split) -> SplitKeys:
        e = self.experiment
        examples = {side: digest_examples(examples) for side, examples in task.examples(split).items()}
        content = Key(
            format=FORMAT,
            weights=self.pretrained.fingerprint,
            encoder=self.encoder(task, split.mode).fingerprint(),
            mode=split.mode,
            features=e.features if split.mode == "head" else None,
            difference=self.folds(task),
            parameters=self.chosen.as_dict(),
            untied=e.untie_head,
            dtype=e.dtype,
            examples=examples,
        )
        settings = Key(groups=e.groups, keep_noise=e.keep_noise, precision=e.precision)
        if self.shares(task):
            settings = settings.also(shared=DRAWN)
        if self.contrasts(task) is not None:
            settings = settings.also(contrasts=True)
        return SplitKeys(content, settings, task.metric, e.test_limit)
