"""Kernels between two lists of labelled texts, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmntk.kernels.kernel import Kernel
from lmntk.kernels.streaming import Report, Settings, stream_kernels, whole
from lmntk.models.building import prompt_model
from lmntk.models.filters import ParameterFilter
from lmntk.models.loading import Pretrained
from lmntk.prompts.encoding import PromptEncoder
from lmntk.prompts.ensemble import EnsembleEncoder
from lmntk.provenance import digest_examples, versions
from lmntk.tangents.coverage import Coverage
from lmntk.tasks import Example


@dataclass(frozen=True)
class Computed:
    """Kernels by formula, pre-trained logits [n, c] of ``train`` and ``eval``, and how the gradients were captured."""

    kernels: dict[str, Kernel]
    logits: dict[str, np.ndarray]
    coverage: Coverage


def origin(
    pretrained: Pretrained,
    encoder: PromptEncoder | EnsembleEncoder,
    train: Sequence[Example],
    evaluate: Sequence[Example],
    *,
    all_logits: bool = False,
    parameters: ParameterFilter | None = None,
    settings: Settings | None = None,
) -> dict[str, Any]:
    """Returns all that a kernel's values depend on, hashed where it is long: two kernels of one origin are the same."""
    network = pretrained.network
    return {
        "model": pretrained.fingerprint,
        "prompt": encoder.fingerprint(),
        "templates": [str(template) for template in encoder.templates],
        "label_words": list(encoder.label_words),
        "difference": encoder.classes == 2 and not all_logits,
        "tied": getattr(network.get_output_embeddings(), "weight", None) is network.get_input_embeddings().weight,
        "parameters": (parameters or ParameterFilter()).as_dict(),
        "drop_noise": (settings or Settings()).drop_noise,
        "dtype": str(next(network.parameters()).dtype).removeprefix("torch."),
        "train": digest_examples(train),
        "eval": digest_examples(evaluate),
    }


def compute_kernels(
    pretrained: Pretrained,
    encoder: PromptEncoder | EnsembleEncoder,
    train: Sequence[Example],
    evaluate: Sequence[Example],
    formulas: Sequence[str] = ("sgd", "signgd", "asigngd"),
    *,
    all_logits: bool = False,
    parameters: ParameterFilter | None = None,
    settings: Settings | None = None,
    report: Report = lambda captured, contracted: None,
) -> Computed:
    """Returns the tangent kernels [n, c, m, c] between training and evaluation texts of a prompted language model.

    Args:
        pretrained: what ``load_pretrained`` returned.
        encoder: the prompt: template, label words, limits.
        train: n texts.
        evaluate: m texts.
        formulas: of ``sgd``, ``signgd``, ``asigngd``.
        all_logits: keep both logits of a two-class prompt; by default they are folded into their difference, c = 1.
        parameters: which parameters count; all by default.
        settings: batch size, memory, noise, groups.
        report: called with the texts captured and the pairs contracted since the last call.

    Cost: (n + m) forward and c (n + m) backward passes, and 2 n m c^2 P operations a kernel. See ``stream_kernels``.

    Example:
        >>> pretrained = load_pretrained("path/to/model")  # doctest: +SKIP
        >>> encoder = PromptEncoder(pretrained.tokenizer, "{a} It was {mask}.", ["terrible", "great"])  # doctest: +SKIP
        >>> compute_kernels(pretrained, encoder, train, test).kernels["sgd"].values.shape  # doctest: +SKIP
        (32, 1, 872, 1)
    """
    chosen = parameters or ParameterFilter()
    model = prompt_model(pretrained, encoder, encoder.classes == 2 and not all_logits)
    texts = {"train": [encoder.encode(e) for e in train], "eval": [encoder.encode(e) for e in evaluate]}
    streamed = stream_kernels(model, texts, [("train", "eval")], formulas, chosen.select(model), pretrained.pad_id, settings, report)
    provenance = {
        **origin(pretrained, encoder, train, evaluate, all_logits=all_logits, parameters=chosen, settings=settings),
        "model_name": pretrained.name,
        "noise_coordinates_left_out": streamed.noise.get("train", 0),
        "versions": versions(),
    }
    found = streamed.kernels["train", "eval"]
    kernels = {}
    for formula in formulas:
        flipped = found.get(f"{formula}_flipped")
        groups = found[formula]
        parts = {name: values.numpy() for name, values in groups.items()} if settings and settings.grouping else {}
        values = None if flipped is None else whole(flipped).numpy()
        kernels[formula] = Kernel(formula, whole(groups).numpy(), values, parts, provenance)
    return Computed(kernels, {side: streamed.logits[side].numpy() for side in ("train", "eval")}, streamed.coverage)
