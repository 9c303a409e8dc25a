"""The weights along a training: kept while it goes, or seen by doing it once more.

Training is deterministic, so nothing of it has to be kept. Weights that are small are kept all the same, which saves a training.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel
from torch import Tensor, nn

from lmntk.finetuning.settings import FineTuned, TrainingData, TrainingSettings
from lmntk.finetuning.training import fine_tune
from lmntk.system import kept

SMALL = 2**28  # bytes: the most that is kept of a training while it goes
ROOM = 100  # such trainings must fit on the disk: those of all splits and arms lie there until they are diagnosed
POINTS = 4  # along a training, at each of which the model is looked at: its weights are on disk until then
BEST, DONE = "best.safetensors", "done.json"  # the word that all is there is written last


@dataclass(frozen=True)
class Replay:
    """The weights of a training done once more, in a folder, by the names of the parameters that trained.

    Attributes:
        folder: of the files.
        steps: of the weights that were kept along the way.
        best_step: the step that was best on dev; None where there was none.
        dev: the metric there.
    """

    folder: Path
    steps: tuple[int, ...]
    best_step: int | None
    dev: float | None

    @property
    def best(self) -> dict[str, Tensor] | None:
        """The weights that were best on dev."""
        return None if self.best_step is None else kept.load_tensors(self.folder / BEST)[0]

    def along(self) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """Yield each step that was kept and its weights, one after the other from disk."""
        for step in self.steps:
            yield step, kept.load_tensors(self.folder / _name(step))[0]


@dataclass(frozen=True)
class Keeper:
    """Keeps the weights of a training while it goes: called at each look at dev, with the step and the module.

    Attributes:
        folder: of this training alone.
        trained: the parameters that train, by name.
        settings: of the training.
        best_step: a step that is kept beside ``POINTS`` steps, which are evenly spread over the looks at dev.
        resumes: a training that goes on from a checkpoint finds on disk what it has kept before.
    """

    folder: Path
    trained: Mapping[str, nn.Parameter]
    settings: TrainingSettings
    best_step: int | None = None
    resumes: ClassVar[bool] = True

    @property
    def is_small(self) -> bool:
        """Return whether all that will be kept is small, also beside what the disk has left."""
        files = len(self.steps) + 2  # the best weights twice: as a step, and as the best
        size = files * sum(parameter.nbytes for parameter in self.trained.values())
        return size <= SMALL and ROOM * size <= _free(self.folder)

    @cached_property
    def steps(self) -> list[int]:
        """The steps that are kept."""
        best = [] if self.best_step is None else [self.best_step]
        return sorted({*points(looks(self.settings), POINTS), *best})

    def __call__(self, step: int, module: nn.Module) -> None:
        """Keep the weights, if this is one of the steps."""
        if step in self.steps:
            _save(self.folder / _name(step), self.trained)

    def finish(self, tuned: FineTuned) -> Replay | None:
        """Keep the best weights, and return all that was kept; None where something is missing.

        The best step is one of the steps that were kept then, whether it was known before or not.
        """
        last = tuned.curve[-1].step if tuned.curve else 0
        steps = {step for step in self.steps if step <= last}
        if tuned.best_step is not None:
            _save(self.folder / BEST, tuned.weights)
            if tuned.best_step not in steps:
                _save(self.folder / _name(tuned.best_step), tuned.weights)
                steps.add(tuned.best_step)
        if not all((self.folder / _name(step)).is_file() for step in steps):
            return None
        record = {"steps": sorted(steps), "best_step": tuned.best_step, "dev": tuned.dev}
        kept.write_record(self.folder / DONE, record)
        return Replay(self.folder, tuple(sorted(steps)), tuned.best_step, tuned.dev)


def replay(
    model: nn.Module,
    trained: Mapping[str, nn.Parameter],
    data: TrainingData,
    settings: TrainingSettings,
    best_step: int | None,
    folder: Path,
    on_step: Callable[[int], None],
) -> Replay:
    """Return the weights along a training: from the folder if they are there, else trained once more.

    Args:
        model: at theta_0, where it is again afterwards.
        trained: the parameters that train.
        data: texts to train on, and texts that choose the step.
        settings: those of the training that is done once more.
        best_step: the step that was best then; kept beside ``POINTS`` steps that are evenly spread over its
            looks at dev.
        folder: of this training alone, as a ``Keeper`` may have left it; the caller removes it.
        on_step: called with the number of steps done.

    Cost: one training, and for each step kept the trained parameters on disk.
    """
    earlier = _read(folder)
    if earlier is not None:
        on_step(settings.steps)
        return earlier
    keeper = Keeper(folder, trained, settings, best_step)
    tuned = fine_tune(model, data, trained, settings, on_evaluation=keeper, on_step=partial(on_step, 1))
    replayed = keeper.finish(tuned)
    assert replayed is not None
    return replayed


def looks(settings: TrainingSettings) -> list[int]:
    """Return the steps after which a training looks at dev."""
    every = range(settings.eval_every, settings.steps, settings.eval_every)
    return [*every, settings.steps]


def points(steps: Sequence[int], most: int) -> list[int]:
    """Return at most ``most`` of the steps, evenly spread, the last one among them.

    >>> points([100, 200, 300, 400, 500, 600, 700, 800, 900, 1000], 4)
    [300, 500, 800, 1000]
    """
    count = min(most, len(steps))
    return [steps[-(-len(steps) * (turn + 1) // count) - 1] for turn in range(count)]


def _free(folder: Path) -> int:
    """Return the bytes that are free where a folder is, or will be."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free


def _name(step: int) -> str:
    return f"step-{step}.safetensors"


def _save(path: Path, values: Mapping[str, Tensor]) -> None:
    copies = {name: value.detach().to("cpu", copy=True) for name, value in values.items()}
    kept.save_tensors(path, copies)


class _Done(BaseModel):
    steps: list[int]
    best_step: int | None
    dev: float | None


def _read(folder: Path) -> Replay | None:
    """Return the replay that is in a folder, if all of it is there, and whole."""
    record = kept.or_none(lambda: kept.read_form(folder / DONE, _Done))
    if record is None:
        return None
    earlier = Replay(folder, tuple(record.steps), record.best_step, record.dev)
    names = [_name(step) for step in earlier.steps] + [BEST] * (earlier.best_step is not None)
    return earlier if all(kept.is_whole(folder / name) for name in names) else None
