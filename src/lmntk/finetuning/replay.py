"""A chosen training, done once more to see its weights along the way.

Training is deterministic, so nothing of it has to be kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import BaseModel
from torch import Tensor, nn

from lmntk.finetuning.settings import TrainingData, TrainingSettings
from lmntk.finetuning.training import fine_tune
from lmntk.system import kept

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
            yield step, kept.load_tensors(self.folder / f"step-{step}.safetensors")[0]


def replay(
    model: nn.Module,
    trained: Mapping[str, nn.Parameter],
    data: TrainingData,
    settings: TrainingSettings,
    best_step: int | None,
    folder: Path,
    on_step: Callable[[int], None],
) -> Replay:
    """Return the replay of a training: from the folder if it is there, else trained.

    Args:
        model: at theta_0, where it is again afterwards.
        trained: the parameters that train.
        data: texts to train on, and texts that choose the step.
        settings: those of the training that is done once more.
        best_step: the step that was best then; kept beside ``POINTS`` steps that are evenly spread over its
            looks at dev.
        folder: of this replay alone; the caller removes it.
        on_step: called with the number of steps done.

    Cost: one training, and for each step kept the trained parameters on disk.
    """
    earlier = _read(folder)
    if earlier is not None:
        on_step(settings.steps)
        return earlier
    wanted = {*points(looks(settings), POINTS), *([] if best_step is None else [best_step])}
    at: list[int] = []

    def keep(step: int, module: nn.Module) -> None:
        if step in wanted:
            _save(folder / f"step-{step}.safetensors", trained)
            at.append(step)

    tuned = fine_tune(model, data, trained, settings, on_evaluation=keep, on_step=partial(on_step, 1))
    if tuned.best_step is not None:
        _save(folder / BEST, tuned.weights)
    kept.write_record(folder / DONE, {"steps": at, "best_step": tuned.best_step, "dev": tuned.dev})
    return Replay(folder, tuple(at), tuned.best_step, tuned.dev)


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
    names = [f"step-{step}.safetensors" for step in earlier.steps] + [BEST] * (earlier.best_step is not None)
    return earlier if all(kept.is_whole(folder / name) for name in names) else None
