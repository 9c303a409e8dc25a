"""What every step of an experiment shares: its configuration, the model, the output folder, and whom to tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from os.path import abspath
from pathlib import Path
from typing import Any, Protocol

from lmntk.engine.settings import Settings
from lmntk.experiment.configuration import Experiment
from lmntk.experiment.preparation import PreparedTask
from lmntk.kernels.kernel import KERNEL_VERSION
from lmntk.models.filters import ParameterFilter
from lmntk.models.loading import Pretrained
from lmntk.prompts.encoding import TextEncoder
from lmntk.runs.store import Split, Store
from lmntk.solvers.grid import SOLVER_VERSION, SOLVERS, default_grid
from lmntk.system.hashing import content_key
from lmntk.tasks.example import digest_examples

SIDES = ("train", "dev", "test")


class Progress(Protocol):
    """What an experiment tells while it runs."""

    def start(self, splits: int, finished: int) -> None:
        """Says how many splits there are, and how many an earlier run has finished."""

    def work(self, description: str, total: float | None) -> None:
        """Says what is computed now, and how much of it there is, if that is known."""

    def advance(self, amount: float) -> None:
        """Says that this much of it is done."""

    def finished(self, split: Split, rows: Sequence[Mapping[str, Any]]) -> None:
        """Says what a split came to."""

    def note(self, line: str) -> None:
        """Says something worth reading once."""


class Silent:
    """Tells nothing."""

    def start(self, splits: int, finished: int) -> None: ...  # noqa: D102
    def work(self, description: str, total: float | None) -> None: ...  # noqa: D102
    def advance(self, amount: float) -> None: ...  # noqa: D102
    def finished(self, split: Split, rows: Sequence[Mapping[str, Any]]) -> None: ...  # noqa: D102
    def note(self, line: str) -> None: ...  # noqa: D102


@dataclass(frozen=True)
class Given:
    """A checkpoint that the user fine-tuned, to be diagnosed, and the hash of its files."""

    path: Path
    digest: str

    @property
    def method(self) -> str:
        """How it is called beside other ways of fine-tuning, of other checkpoints too: many paths end alike, contents do not."""
        return f"given fine-tuning ({'/'.join(Path(abspath(self.path)).parts[-2:])[-80:]}, {self.digest[:8]})"


@dataclass
class Session:
    """One run of an experiment."""

    experiment: Experiment
    pretrained: Pretrained
    store: Store
    progress: Progress
    settings: Settings
    chosen: ParameterFilter
    methods: list[tuple[str, str]]
    given: Given | None = None
    encoders: dict[tuple[str, str], TextEncoder] = field(default_factory=dict)

    def asking_for(self, formulas: tuple[str, ...]) -> Session:
        """Returns the same run with these formulas' kernels alone, and no solver; their keys are the run's own."""
        return replace(self, experiment=self.experiment.model_copy(update={"formulas": formulas}), methods=[])

    def encoder(self, task: PreparedTask, mode: str) -> TextEncoder:
        """Returns a task's encoder in a mode, made once."""
        if (task.name, mode) not in self.encoders:
            self.encoders[task.name, mode] = task.encoder(
                self.pretrained, mode, self.experiment.label_words_reduce
            )
        return self.encoders[task.name, mode]

    def key(self, task: PreparedTask, split: Split) -> str:
        """Returns the hash of all that the split's kernels depend on."""
        e = self.experiment
        return content_key(
            version=KERNEL_VERSION,
            groups=e.groups,
            keep_noise=e.keep_noise,
            precision=e.precision,
            **self._content(task, split),
        )

    def content_key(self, task: PreparedTask, split: Split) -> str:
        """Returns the hash of a split's model, texts and parameters: what its fine-tuning and its baseline depend on."""
        return content_key(**self._content(task, split))

    def setup(self, task: PreparedTask, mode: str, of: str, **more: Any) -> str:
        """Returns the hash of what results of a task and mode must share to be splits of one method; see ``setups``.

        Args:
            task: whose results they are.
            mode: prompt or head.
            of: kernel, baseline, or training.
            more: what they depend on beside the split's content.
        """
        e = self.experiment
        if of == "kernel":
            more |= {"keep_noise": e.keep_noise, "precision": e.precision}
        return content_key(
            of=of, metric=task.metric, test_limit=e.test_limit, **self._but_texts(task, mode), **more
        )[:16]

    def _content(self, task: PreparedTask, split: Split) -> dict[str, Any]:
        return self._but_texts(task, split.mode) | {
            "examples": {side: digest_examples(examples) for side, examples in task.examples(split).items()}
        }

    def _but_texts(self, task: PreparedTask, mode: str) -> dict[str, Any]:
        e = self.experiment
        return {
            "weights": self.pretrained.fingerprint,
            "encoder": self.encoder(task, mode).fingerprint(),
            "mode": mode,
            "features": e.features if mode == "head" else None,
            "difference": self.folds(task),
            "parameters": self.chosen.as_dict(),
            "untied": e.untie_head,
            "dtype": e.dtype,
        }

    def folds(self, task: PreparedTask) -> bool:
        """True when the task's two logits are folded into their difference."""
        return task.classes == 2 and not self.experiment.all_logits

    def result_key(self, task: PreparedTask, split: Split) -> str:
        """Returns the hash of all that a method's results in the split depend on, whatever other methods are asked for."""
        grids = {solver: default_grid(solver) for solver in SOLVERS}
        return content_key(
            version=SOLVER_VERSION, kernels=self.key(task, split), grids=grids, metric=task.metric
        )

    def finished(self, planned: Sequence[tuple[PreparedTask, Split]]) -> dict[str, dict[str, Any]]:
        """Returns the results of the splits that are finished, by name."""
        found = {split.name: self.is_finished(task, split) for task, split in planned}
        return {name: result for name, result in found.items() if result is not None}

    def is_finished(self, task: PreparedTask, split: Split) -> dict[str, Any] | None:
        """Returns a split's results if they and the files that go with them are there from an earlier run."""
        e, folder = self.experiment, self.store.folder
        if self.methods:
            found = self.store.result(split, self.result_key(task, split))
            if found is None or not set(self.methods) <= {
                (row["formula"], row["solver"]) for row in found["rows"]
            }:
                return None
        else:  # nothing but fine-tuning is asked for, beside whatever kernels there are
            found = self.store.read_json(f"cells/{split.name}.json")
            if not isinstance(found, dict) or found.get("content") != self.content_key(task, split):
                return None
            if any(row["metric"] != task.metric for row in found["rows"]):
                return None
        paths = [folder / "predictions" / f"{split.name}.tsv"]
        if e.keep_kernels:
            paths += [
                self.store.kernel_path(split, side, formula) for side in SIDES for formula in e.formulas
            ]
        if e.save_models and self.methods:
            if not set(self.methods) <= set(map(tuple, found["saved_models"])):
                return None
            paths += [folder / "models" / name / "predictor.json" for name in found["predictors"]]
        return found if all(path.is_file() for path in paths) else None
