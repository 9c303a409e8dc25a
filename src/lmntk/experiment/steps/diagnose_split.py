"""The diagnosis of one split of an experiment: (task, k, seed, mode) and its fine-tuned weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lmntk.diagnosis.before import Kernels
from lmntk.diagnosis.diagnosis import Diagnosis, diagnose
from lmntk.diagnosis.examples import Examples, logits_of
from lmntk.diagnosis.training import Training
from lmntk.engine.settings import Settings
from lmntk.errors import UserError
from lmntk.experiment.preparation import PreparedTask, label_of
from lmntk.models.build import head_model, own_head_model, prompt_model
from lmntk.models.filters import ParameterFilter
from lmntk.models.loading import Pretrained
from lmntk.models.logit_model import Features, LogitModel
from lmntk.prompts.encoding import EncodedText, PromptEncoder
from lmntk.prompts.ensemble import EnsembleEncoder
from lmntk.prompts.label_words import Reduce
from lmntk.runs.store import Split
from lmntk.solvers.inputs import Array


@dataclass(frozen=True, eq=False)
class CellModel:
    """A split's model at theta_0, its encoded texts and their labels by side."""

    model: LogitModel
    texts: Mapping[str, Sequence[EncodedText]]
    labels: Mapping[str, Sequence[int]]


def cell_model(
    pretrained: Pretrained,
    task: PreparedTask,
    split: Split,
    mode: str | None = None,
    *,
    difference: bool | None = None,
    features: Features = "read",
    reduce: Reduce | None = None,
    batch_size: int = 32,
) -> CellModel:
    """Returns the model whose fine-tuning a split is about, with its texts, in the split's own mode or another.

    Args:
        pretrained: the network and tokenizer.
        task: with its data.
        split: which of its splits.
        mode: ``prompt`` or ``head``; by default the split's.
        difference: fold two classes into one output; by default where there are two.
        features: what head mode reads.
        reduce: what stands for a label word of several tokens.
        batch_size: of the probe's features.

    Raises:
        UserError: the mode does not fit the task or the model.
    """
    mode = mode or split.mode
    folds = task.classes == 2 if difference is None else difference
    encoder = task.encoder(pretrained, mode, reduce)
    examples = task.examples(split)
    texts = {side: [encoder.encode(example) for example in part] for side, part in examples.items()}
    labels = {side: [label_of(example, task.name) for example in part] for side, part in examples.items()}
    model: LogitModel
    if isinstance(encoder, PromptEncoder | EnsembleEncoder):
        model = prompt_model(pretrained, encoder, folds)
    elif pretrained.kind == "classifier":
        model = own_head_model(pretrained, task.labels, folds)
    else:
        model = head_model(
            pretrained, texts["train"], labels["train"], task.classes, folds, features, batch_size
        )
    return CellModel(model, texts, labels)


def diagnose_split(
    pretrained: Pretrained,
    task: PreparedTask,
    split: Split,
    weights: Mapping[str, Tensor] | None,
    *,
    method: str = "sgd fine-tuning",
    at_start: CellModel | None = None,
    parameters: ParameterFilter | None = None,
    trainable: Mapping[str, nn.Parameter] | None = None,
    difference: bool | None = None,
    features: Features = "read",
    reduce: Reduce | None = None,
    kernels: Kernels | None = None,
    formula: str = "sgd",
    training: Training | None = None,
    trajectory: Iterable[tuple[int, Mapping[str, Tensor]]] = (),
    diverged: str = "",
    settings: Settings | None = None,
) -> Diagnosis:
    """Returns the diagnosis of a split's fine-tuning; see ``diagnose`` for what is not said here.

    Args:
        pretrained: the network at theta_0, and its tokenizer.
        task: the split's task.
        split: one of its splits.
        weights: fine-tuned, by the names of the split's model; None if training diverged.
        method: the name of the fine-tuning.
        at_start: the split's model and texts, if they are there already; else ``cell_model`` makes them.
        parameters: which parameters were trained.
        trainable: those parameters themselves, in place of a filter; of a model that has a LoRA on it for now, the LoRA's.
        difference: as for ``cell_model``.
        features: the same.
        reduce: the same.
        kernels: by (side, formula), of theta_0, of these texts in this order.
        formula: of the kernel whose solution is held against fine-tuning.
        training: how it was trained.
        trajectory: (step, weights) along the training.
        diverged: why there are no weights.
        settings: batch size, memory, scratch folder.

    Mean |chi| without the prompt is that of the linear probe's logits, with the prompt zero-shot's; where a task or model has only one
    mode there is only one.
    """
    settings = settings or Settings()
    how: dict[str, Any] = {
        "difference": difference,
        "features": features,
        "reduce": reduce,
        "batch_size": settings.batch_size,
    }
    start = at_start or cell_model(pretrained, task, split, **how)
    chosen = (parameters or ParameterFilter()).select(start.model) if trainable is None else trainable
    examples = {
        side: Examples.of_texts(part, pretrained.pad_id, settings.batch_size)
        for side, part in start.texts.items()
    }
    return diagnose(
        start.model,
        examples,
        start.labels,
        weights,
        trainable=chosen,
        metric=task.metric,
        mode=split.mode,
        kernels=kernels,
        formula=formula,
        training=training,
        trajectory=trajectory,
        other_mode=_other_mode(pretrained, task, split, how),
        diverged=diverged,
        identity={"cell": split.name, "task": task.name, "k": split.k, "seed": split.seed, "method": method},
        settings=settings,
    )


def _other_mode(
    pretrained: Pretrained, task: PreparedTask, split: Split, how: Mapping[str, Any]
) -> Array | None:
    """Returns the test texts' logits before training in the mode that is not the split's, if the task and the model have it."""
    if pretrained.kind == "classifier":
        return None
    try:
        other = cell_model(pretrained, task, split, "head" if split.mode == "prompt" else "prompt", **how)
    except UserError:
        return None
    return logits_of(
        other.model, Examples.of_texts(other.texts["test"], pretrained.pad_id, how["batch_size"])
    )
