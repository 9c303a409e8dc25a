"""Fine-tuning of a LogitModel, or of its linearization, on encoded texts.

Afterwards the model is what it was before.
"""

from __future__ import annotations

import importlib
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lmntk.errors import UserError
from lmntk.finetuning.settings import (
    Checkpoints,
    FineTuned,
    Labelled,
    OnEvaluation,
    Status,
    TrainingData,
    TrainingSettings,
)
from lmntk.models.state import frozen
from lmntk.models.weights import at_weights
from lmntk.prompts.batching import collate
from lmntk.tangents.linearized import LinearizedModel


def fine_tune(
    model: nn.Module,
    data: TrainingData,
    trainable: Mapping[str, nn.Parameter],
    settings: TrainingSettings,
    *,
    checkpoints: Checkpoints | None = None,
    on_evaluation: OnEvaluation | None = None,
    on_step: Callable[[], None] | None = None,
) -> FineTuned:
    """Return the record of a training of the model, and its weights at the step that was best on dev.

    Args:
        model: a LogitModel; trained in place and put back: values to the bit, ``requires_grad`` and training
            flags.
        data: texts to train on, and texts that choose the step; the first of equals.
        trainable: the parameters that train, as ``ParameterFilter.select`` returns them. A tied weight stays
            tied.
        settings: how.
        checkpoints: an interrupted training goes on from there, to the same bits as in one piece.
        on_evaluation: called as ``on_evaluation(step, model)`` at step 0 and whenever dev is looked at, with
            the model at that step's weights and in eval mode; what it draws at random does not change the
            training. With it a training always begins anew, since earlier steps' calls cannot be made again; unless it
            has ``resumes = True``, which says that it needs them no more.
        on_step: called after each step.

    Cost: a forward and a backward pass a text and step. Memory: that of training, and the trained parameters
    twice more.

    A training whose loss or logits are no numbers any more is stopped at once and has the status
    ``diverged``; it still has the best weights from before.

    Raises:
        UserError: accelerate, which transformers' Trainer needs, is not installed; a label that the model has
            no logit for.
    """
    with at_weights(model, {name: parameter.detach() for name, parameter in trainable.items()}):
        return _train(model, trainable, data, settings, checkpoints, on_evaluation, on_step)


def fine_tune_linearized(
    model: nn.Module,
    data: TrainingData,
    trainable: Mapping[str, nn.Parameter],
    settings: TrainingSettings,
    *,
    checkpoints: Checkpoints | None = None,
    on_evaluation: OnEvaluation | None = None,
    on_step: Callable[[], None] | None = None,
) -> FineTuned:
    """Return the record of a training of the linearized model f(x; theta_0) + <grad f(x; theta_0), v>.

    v starts at zero. As ``fine_tune``, but: in eval mode, without dropout, whatever the settings say, since
    the linearization is that of the model in eval mode; ``on_evaluation`` gets the ``LinearizedModel``;
    ``weights`` are theta_0 + v.

    Cost: three forward passes and their backward pass a text and step.
    """
    linearized = linearized_at(model, data.train, trainable, data.pad_id)
    direction = {name.replace("/", "."): v for name, v in linearized.direction.items()}
    tuned = _train(linearized, direction, data, settings, checkpoints, on_evaluation, on_step)
    moved = {name: trainable[name].detach().cpu() + v for name, v in tuned.weights.items()}
    return replace(tuned, weights=moved)


def linearized_at(
    model: nn.Module, train: Labelled, trainable: Mapping[str, nn.Parameter], pad_id: int
) -> LinearizedModel:
    """Return the linearized model with v = 0.

    Its way (forward or backward) is settled on a v that is not zero, which would fit any way.
    """
    generator = torch.Generator().manual_seed(0)
    device = next(iter(trainable.values())).device
    draws = {name: torch.randn(p.shape, generator=generator).to(p) for name, p in trainable.items()}
    linearized = LinearizedModel(model, draws)
    batch = {name: tensor.to(device) for name, tensor in collate(train.texts[:2], pad_id).items()}
    with torch.no_grad():
        linearized.taylor(batch)
        for v in linearized.direction.values():
            v.zero_()
    return linearized


def _train(
    module: nn.Module,
    trained: Mapping[str, nn.Parameter],
    data: TrainingData,
    settings: TrainingSettings,
    checkpoints: Checkpoints | None,
    on_evaluation: OnEvaluation | None,
    on_step: Callable[[], None] | None,
) -> FineTuned:
    if not trained:
        raise UserError("finetune: no parameter is left to train; loosen the filter")
    need_accelerate()
    from lmntk.finetuning.trainer import DivergedError, Loop, last_checkpoint

    status: Status = "finished"
    reason = ""
    parameters = list(trained.values())
    device = parameters[0].device
    with ExitStack() as stack:
        stack.enter_context(own_randomness(device))
        stack.enter_context(frozen(module, parameters))
        prepare = getattr(module, "prepare", None)
        if prepare is not None:  # in eval mode: with dropout no two passes agree
            batch = collate(data.train.texts[:1], data.pad_id)
            prepare({name: tensor.to(device) for name, tensor in batch.items()})
        if device.type == "cuda":
            stack.enter_context(torch.cuda.device(device))
        if checkpoints is None:  # the Trainer wants a folder, which stays empty
            empty = stack.enter_context(tempfile.TemporaryDirectory(prefix="lmntk-"))
            checkpoints = Checkpoints(Path(empty), None)
        elif on_evaluation is not None and not getattr(on_evaluation, "resumes", False):
            checkpoints = replace(checkpoints, seconds=None)
        loop = Loop(module, trained, data, settings, checkpoints, on_evaluation, on_step)
        resumed = None if checkpoints.seconds is None else last_checkpoint(checkpoints.folder)
        try:
            loop.train(resume_from_checkpoint=None if resumed is None else str(resumed))
        except DivergedError as error:
            status, reason = "diverged", str(error)
        finally:
            for parameter in parameters:
                parameter.grad = None
    best_look = next((look for look in loop.curve if look.step == loop.best_step), None)
    return FineTuned(
        settings=settings,
        status=status,
        reason=reason,
        curve=tuple(loop.curve),
        best_step=loop.best_step,
        dev=None if best_look is None else best_look.dev,
        weights=loop.best,
        dev_logits=loop.best_logits,
        trained=sum(parameter.numel() for parameter in parameters),
        seconds=loop.seconds(),
    )


def need_accelerate() -> None:
    """Import accelerate, which transformers' Trainer needs.

    Raises:
        UserError: it is not installed.
    """
    try:
        importlib.import_module("accelerate")
    except ImportError as error:
        raise UserError(
            "finetune: transformers' Trainer needs accelerate; install it with pip install 'lmntk[finetune]'"
        ) from error


@contextmanager
def own_randomness(device: torch.device) -> Iterator[None]:
    """Put the generators of Python, numpy and torch back afterwards, whatever the body seeds and draws."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[] if device.type != "cuda" else [device]):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
