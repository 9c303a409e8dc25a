"""A grid of trainings, learning rates x batch sizes, of which the best on dev is chosen.

Finished trainings are kept on disk.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from lmntk.finetuning.logits import logits_of
from lmntk.finetuning.method import FineTuningMethod
from lmntk.finetuning.replay import Keeper
from lmntk.finetuning.settings import CHECKPOINT_SECONDS, Checkpoints, Status, TrainingData
from lmntk.finetuning.training import fine_tune, fine_tune_linearized
from lmntk.models.logit_model import LogitModel
from lmntk.models.weights import at_weights
from lmntk.prompts.encoded_text import EncodedText
from lmntk.system import kept
from lmntk.tangents.linearized import LinearizedModel

BEST = "best.safetensors"
_LOGITS = "dev logits"  # no parameter's name


@dataclass(frozen=True)
class Search:
    """The result of a grid.

    Attributes:
        runs: each training as plain data, in the order of the grid; see ``FineTuned.as_dict``.
        chosen: the number of the first with the best dev metric among those that did not diverge; None if all
            did.
        weights: of the chosen one, by the names of the model's own parameters (LoRA's merged), on the
            processor.
        logits: [n, c] of dev and test there, float64.
        trained: the number of trained parameters.
    """

    runs: tuple[dict[str, Any], ...]
    chosen: int | None
    weights: Mapping[str, Tensor] = field(repr=False)
    logits: Mapping[str, Tensor] = field(repr=False)
    trained: int

    @property
    def dev(self) -> float | None:
        """The chosen run's dev metric."""
        return None if self.chosen is None else float(self.runs[self.chosen]["dev"])


def cut_batch_sizes(sizes: Sequence[int | Literal["all"]], count: int) -> list[int]:
    """Return the sizes, none larger than there are texts, each once; ``all`` is all texts.

    >>> cut_batch_sizes((2, "all", 64), 32)
    [2, 32]
    """
    return list(dict.fromkeys(count if size == "all" else min(size, count) for size in sizes))


def search(
    model: LogitModel,
    data: TrainingData,
    method: FineTuningMethod,
    *,
    folder: Path | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    on_step: Callable[[int], None] | None = None,
    path: Path | None = None,
) -> Search:
    """Return every training of a method's grid as plain data, and the one that is best on dev.

    Args:
        model: a LogitModel, left as it was.
        data: the texts to train on, to choose by, and to test on.
        method: what trains, how, and the grid.
        folder: of this grid alone: trainings that an earlier call finished there are not done again, one
            that it did not finish goes on. The caller removes it.
        checkpoint_seconds: between a training's checkpoints.
        on_step: called with the number of steps that are done since the last call.
        path: a folder for the weights along the way, for ``replay``; of a grid of one point alone, whose training is
            the chosen one, and only where they are small.

    Memory: that of one training, and the best weights once more.
    """
    sizes = cut_batch_sizes(method.batch_sizes, len(data.train))
    points = [(rate, size) for rate in method.learning_rates for size in sizes]
    runs = _finished(folder)
    best = _load_best(folder, runs)
    if best is None and best_of(runs) is not None:  # its weights are lost, or damaged
        runs = []
    if on_step is not None and runs:
        on_step(method.settings.steps * len(runs))
    with method.subset.chosen(model) as trained:
        count = sum(parameter.numel() for parameter in trained.parameters.values())
    train_once = fine_tune_linearized if method.linearized else fine_tune
    for index, (rate, size) in enumerate(points[len(runs) :], len(runs)):
        settings = replace(method.settings, learning_rate=rate, batch_size=size)
        checkpoints = None if folder is None else Checkpoints(folder / f"run-{index}", checkpoint_seconds)
        with method.subset.chosen(model) as trained:
            keeper = None
            if path is not None and len(points) == 1 and not method.linearized:
                keeper = Keeper(path, trained.parameters, settings)
                keeper = keeper if keeper.is_small else None
            tuned = train_once(
                trained.module,
                data,
                trained.parameters,
                settings,
                checkpoints=checkpoints,
                on_evaluation=keeper,
                on_step=None if on_step is None else partial(on_step, 1),
            )
            if keeper is not None:
                keeper.finish(tuned)
            is_best = (
                tuned.dev is not None
                and tuned.status == "finished"
                and (best is None or tuned.dev > best.dev)
            )
            if is_best:
                assert tuned.dev is not None
                assert tuned.dev_logits is not None
                best = _Best(index, tuned.dev, trained.own(tuned.weights), tuned.dev_logits)
                _save_best(folder, best)
        runs.append(tuned.as_dict())
        if checkpoints is not None:  # after the weights: what is written down as finished needs them
            kept.write_record(checkpoints.folder.with_suffix(".json"), runs[-1])
            shutil.rmtree(checkpoints.folder, ignore_errors=True)
    if best is None:
        return Search(tuple(runs), None, {}, {}, count)
    logits = {"dev": best.dev_logits}
    if data.test is not None:
        logits["test"] = logits_at(model, best.weights, data.test.texts, data.pad_id, method.linearized)
    return Search(tuple(runs), best.index, best.weights, logits, count)


def logits_at(
    model: LogitModel,
    weights: Mapping[str, Tensor],
    texts: Sequence[EncodedText],
    pad_id: int,
    linearized: bool,
) -> Tensor:
    """Return the logits [n, c], float64, of the model at other weights.

    With ``linearized`` f(x; theta_0) + <grad f(x; theta_0), weights - theta_0>.
    """
    if not linearized:
        with at_weights(model, weights):
            return logits_of(model, texts, pad_id)
    before = dict(model.named_parameters())
    change = {name: value - before[name].detach().cpu() for name, value in weights.items()}
    return logits_of(LinearizedModel(model, change), texts, pad_id)


class _Finished(BaseModel):
    """A training as it is written down; see ``FineTuned.as_dict``."""

    model_config = ConfigDict(extra="allow")

    learning_rate: float
    batch_size: int
    status: Status
    reason: str
    curve: list[dict[str, float | None]]
    best_step: int | None
    dev: float | None


@dataclass(frozen=True)
class _Best:
    """The best training so far: its number, dev metric, weights and dev logits."""

    index: int
    dev: float
    weights: Mapping[str, Tensor]
    dev_logits: Tensor


def _save_best(folder: Path | None, best: _Best) -> None:
    if folder is None:
        return
    facts = {"index": best.index, "dev": best.dev}
    contents = {**best.weights, _LOGITS: best.dev_logits}
    kept.save_tensors(folder / BEST, contents, {"facts": json.dumps(facts)})


def _load_best(folder: Path | None, runs: Sequence[Mapping[str, Any]]) -> _Best | None:
    """Return the best training so far, from its file.

    The file is of the best finished training, or of the next one, which was cut short after it was written.
    """
    if folder is None:
        return None
    path = folder / BEST

    def read() -> _Best:
        weights, metadata = kept.load_tensors(path)
        try:
            facts = json.loads(metadata["facts"])
            return _Best(int(facts["index"]), float(facts["dev"]), weights, weights.pop(_LOGITS))
        except (KeyError, ValueError, TypeError) as error:
            raise kept.DamagedError(path, "it does not say which training it belongs to") from error

    best = kept.or_none(read)
    return best if best is not None and best.index in (best_of(runs), len(runs)) else None


def best_of(runs: Sequence[Mapping[str, Any]]) -> int | None:
    """Return the number of the first run with the best dev metric that did not diverge."""
    finished = [index for index, run in enumerate(runs) if run["status"] == "finished"]
    return max(finished, key=lambda index: float(runs[index]["dev"]), default=None)


def _finished(folder: Path | None) -> list[dict[str, Any]]:
    """Return the trainings that an earlier call finished, from the first on."""
    runs: list[dict[str, Any]] = []
    while folder is not None:
        path = folder / f"run-{len(runs)}.json"
        run = kept.or_none(partial(kept.read_form, path, _Finished))
        if run is None:
            break
        runs.append(run.model_dump())
    return runs
