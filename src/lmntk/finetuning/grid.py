"""A grid of trainings, learning rates x batch sizes, of which the best on dev is chosen; what is finished is kept on disk."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lmntk.finetuning.logits import logits_of
from lmntk.finetuning.settings import Labelled, TrainingSettings
from lmntk.finetuning.subsets import Subset
from lmntk.finetuning.training import CHECKPOINT_SECONDS, fine_tune, fine_tune_linearized
from lmntk.models.logit_model import LogitModel
from lmntk.models.weights import at_weights
from lmntk.prompts.encoded_text import EncodedText
from lmntk.system.files import replacing, write_text
from lmntk.tangents.linearized import LinearizedModel

BEST = "best.safetensors"
_LOGITS = "dev logits"  # no parameter's name


@dataclass(frozen=True)
class Search:
    """What a grid came to.

    Attributes:
        runs: each training as plain data, in the order of the grid; see ``FineTuned.as_dict``.
        chosen: the number of the first with the best dev metric among those that did not diverge; None if all did.
        weights: of the chosen one, by the names of the model's own parameters (LoRA's merged), on the processor.
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


def cut_batch_sizes(sizes: Sequence[int], count: int) -> list[int]:
    """Returns the sizes, none larger than there are texts, each once."""
    return list(dict.fromkeys(min(size, count) for size in sizes))


def search(
    model: LogitModel,
    train: Labelled,
    dev: Labelled,
    test: Labelled | None,
    subset: Subset,
    settings: TrainingSettings,
    learning_rates: Sequence[float],
    batch_sizes: Sequence[int],
    pad_id: int,
    *,
    metric: str = "accuracy",
    linearized: bool = False,
    folder: Path | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    on_step: Callable[[int], None] | None = None,
) -> Search:
    """Returns what every training of a grid came to, and the one that is best on dev.

    Args:
        model: a LogitModel, left as it was.
        train: texts to train on.
        dev: texts that choose the step of each training, and the training.
        test: texts whose logits are wanted at the best weights.
        subset: what trains.
        settings: of all trainings, but for the rate and the batch size.
        learning_rates: the outer axis of the grid.
        batch_sizes: the inner one; larger ones than there are texts are cut.
        pad_id: the padding token.
        metric: of dev.
        linearized: train the linearized model.
        folder: of this grid alone: trainings that an earlier call finished there are not done again, one that it did not finish goes on.
            The caller removes it.
        checkpoint_seconds: between a training's checkpoints.
        on_step: called with the number of steps that are done since the last call.

    Memory: that of one training, and the best weights once more.
    """
    points = [(rate, size) for rate in learning_rates for size in cut_batch_sizes(batch_sizes, len(train))]
    runs = _finished(folder)
    best = _load_best(folder, runs)
    if best is None and best_of(runs) is not None:  # its weights are lost, or damaged
        runs = []
    if on_step is not None and runs:
        on_step(settings.steps * len(runs))
    with subset.chosen(model) as trained:
        count = sum(parameter.numel() for parameter in trained.parameters.values())
    for index, (rate, size) in enumerate(points[len(runs) :], len(runs)):
        how = replace(settings, learning_rate=rate, batch_size=size)
        place = None if folder is None else folder / f"run-{index}"
        with subset.chosen(model) as trained:
            train_one = fine_tune_linearized if linearized else fine_tune
            found = train_one(
                model, train, dev, trained.parameters, how, pad_id,
                metric=metric, checkpoints=place, checkpoint_seconds=checkpoint_seconds,
                on_step=None if on_step is None else partial(on_step, 1),
            )  # fmt: skip
            run = found.as_dict()
            if (
                found.dev is not None
                and found.status == "finished"
                and (best is None or found.dev > best.dev)
            ):
                assert found.dev_logits is not None
                best = _Best(index, found.dev, trained.own(found.weights), found.dev_logits)
                _save_best(folder, best)
        runs.append(run)
        if place is not None:  # after the weights: what is written down as finished needs them
            write_text(place.with_suffix(".json"), json.dumps(run))
            shutil.rmtree(place, ignore_errors=True)
    if best is None:
        return Search(tuple(runs), None, {}, {}, count)
    logits = {"dev": best.dev_logits}
    if test is not None:
        logits["test"] = logits_at(model, best.weights, test.texts, pad_id, linearized)
    return Search(tuple(runs), best.index, best.weights, logits, count)


def logits_at(
    model: LogitModel,
    weights: Mapping[str, Tensor],
    texts: Sequence[EncodedText],
    pad_id: int,
    linearized: bool,
) -> Tensor:
    """Returns the logits [n, c], float64, of the model at other weights.

    With ``linearized`` f(x; theta_0) + <grad f(x; theta_0), weights - theta_0>.
    """
    if not linearized:
        with at_weights(model, weights):
            return logits_of(model, texts, pad_id)
    before = dict(model.named_parameters())
    change = {name: value - before[name].detach().cpu() for name, value in weights.items()}
    return logits_of(LinearizedModel(model, change), texts, pad_id)


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
    with replacing(folder / BEST) as temporary:
        contents = {name: value.contiguous() for name, value in best.weights.items()} | {
            _LOGITS: best.dev_logits
        }
        save_file(contents, temporary, {"facts": json.dumps(facts)})


def _load_best(folder: Path | None, runs: Sequence[Mapping[str, Any]]) -> _Best | None:
    """Returns the best training if the file is of the best finished one, or of the next, which was cut short after it was written."""
    with suppress(SafetensorError, OSError, KeyError, ValueError):
        if folder is not None and (folder / BEST).is_file():
            with safe_open(folder / BEST, "pt") as file:
                facts = json.loads((file.metadata() or {})["facts"])
                weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if facts["index"] in (best_of(runs), len(runs)):
                return _Best(facts["index"], facts["dev"], weights, weights.pop(_LOGITS))
    return None


def best_of(runs: Sequence[Mapping[str, Any]]) -> int | None:
    """Returns the number of the first run with the best dev metric that did not diverge."""
    finished = [index for index, run in enumerate(runs) if run["status"] == "finished"]
    return max(finished, key=lambda index: float(runs[index]["dev"]), default=None)


def _finished(folder: Path | None) -> list[dict[str, Any]]:
    """Returns the trainings that an earlier call finished, from the first on."""
    found: list[dict[str, Any]] = []
    while folder is not None:
        try:
            found.append(json.loads((folder / f"run-{len(found)}.json").read_text(encoding="utf8")))
        except (OSError, ValueError):
            break
    return found
