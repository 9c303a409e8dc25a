"""Checks of a prompt: where the label words stand among the vocabulary, and how well the prompt alone classifies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lmntk.checkup.findings import Finding, Level
from lmntk.models.logit_model import LogitModel, PromptModel
from lmntk.models.state import Batch, frozen
from lmntk.prompts.label_words import LabelWords
from lmntk.tasks.metrics import score


def check_label_words(model: PromptModel, batches: Sequence[Batch], labels: LabelWords, tokenizer: Any) -> Finding:
    """Returns each label token's median rank (1 is the likeliest) and mean probability where the word is predicted."""
    with frozen(model), torch.no_grad():
        logits = torch.cat([model.vocabulary_logits(batch) for batch in batches]).double()  # (n, v)
    ids = torch.tensor(labels.ids, device=logits.device)
    chosen = logits[:, ids]
    ranks = (logits[:, None, :] > chosen[:, :, None]).sum(-1) + 1  # (n, u)
    probabilities = logits.softmax(-1)[:, ids].mean(0)
    medians = ranks.double().median(0).values.long().tolist()
    words = []
    for index, (token, rank, probability) in enumerate(zip(labels.ids, medians, probabilities.tolist(), strict=True)):
        weights = labels.weights
        classes = [index] if weights is None else [c for c, row in enumerate(weights) if row[index] != 0]
        shown = tokenizer.convert_ids_to_tokens(token)
        words.append({"token": shown, "id": token, "classes": classes, "median_rank": rank, "mean_probability": probability})
    top = logits.mean(0).topk(5).indices.tolist()
    vocabulary = logits.shape[1]
    shown = ", ".join(f"{word['token']!r} {word['median_rank']:,}" for word in words)
    line = f"label words' median rank among {vocabulary:,} tokens: {shown}; likeliest there: {_shown(tokenizer, top)}"
    worst = max(medians)
    level: Level = "note" if worst > vocabulary // 10 else "fine"
    if level == "note":
        line += "; a word that nobody expects there carries little of what the model knows: try others"
    return Finding("label words", level, line, {"words": words, "vocabulary": vocabulary, "likeliest": _tokens(tokenizer, top)})


def _tokens(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    return [str(token) for token in tokenizer.convert_ids_to_tokens(list(ids))]


def _shown(tokenizer: Any, ids: Sequence[int]) -> str:
    return ", ".join(repr(token) for token in _tokens(tokenizer, ids))


def check_accuracy(model: LogitModel, batches: Sequence[Batch], labels: Sequence[int], name: str) -> Finding:
    """Returns the accuracy before any training, beside that of always saying the commonest class.

    For a difference of two logits also the accuracy when its median is the threshold: how much is only a biased threshold.
    """
    with frozen(model), torch.no_grad():
        logits = torch.cat([model(batch) for batch in batches]).double().cpu()
    truth = list(labels)
    predicted = (logits[:, 0] > 0).long() if model.outputs == 1 else logits.argmax(1)
    accuracy = score("accuracy", truth, predicted.tolist())
    commonest = max(truth.count(label) for label in set(truth)) / len(truth)
    details: dict[str, Any] = {"accuracy": accuracy, "commonest_class": commonest, "texts": len(truth)}
    line = f"{name} {100 * accuracy:.1f} % right on {len(truth)} texts (the commonest class alone: {100 * commonest:.1f} %)"
    if model.outputs == 1:
        centred = (logits[:, 0] > logits[:, 0].median()).long()
        details["accuracy_with_the_median_as_threshold"] = score("accuracy", truth, centred.tolist())
        line += f"; with the median as threshold {100 * details['accuracy_with_the_median_as_threshold']:.1f} %"
    return Finding("accuracy", "fine", line, details)
