"""Checks of a prompt: the label words' ranks among the vocabulary, and the prompt's accuracy alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lmntk.checkup.findings import Finding, Level, counted
from lmntk.models.invariants import ACCURACY, WORDS
from lmntk.models.logit_model import LogitModel, PromptModel
from lmntk.models.state import Batch, frozen
from lmntk.prompts.label_words import LabelWords, spelling_line, spellings
from lmntk.tasks.metrics import score

LIKELIEST = 5
LATE = 10  # a word behind the first tenth of the vocabulary is hardly expected


def check_label_words(
    model: PromptModel, batches: Sequence[Batch], labels: LabelWords, tokenizer: Any, in_chat: bool = False
) -> Finding:
    """Return each label token's rank and probability where the word is predicted, in the first template.

    The rank of a text is one more than the number of tokens that are likelier; of the texts' ranks it is the
    median, the lower one of two. The probability is the mean. In a chat a word begins the answer; what it is after a space is
    said too.
    """
    ids = torch.tensor(labels.ids)
    parts, total = [], torch.zeros(())
    with frozen(model), torch.no_grad():
        for batch in batches:
            logits = model.vocabulary_logits(batch).double().cpu()  # (n, v)
            parts.append((logits[:, None, :] > logits[:, ids, None]).sum(-1) + 1)  # (n, u)
            total = total + logits.softmax(-1).sum(0)  # (v,)
    ranks = torch.cat(parts)
    means = total / len(ranks)
    medians = ranks.median(0).values.tolist()
    tokens = [str(token) for token in tokenizer.convert_ids_to_tokens(list(labels.ids))]
    words = []
    for index, (token, rank) in enumerate(zip(tokens, medians, strict=True)):
        classes = (
            [index]
            if labels.weights is None
            else [c for c, row in enumerate(labels.weights) if row[index] != 0]
        )
        probability = float(means[labels.ids[index]])
        words.append(
            {
                "token": token,
                "id": labels.ids[index],
                "classes": classes,
                "median_rank": rank,
                "mean_probability": probability,
            }
        )
    vocabulary = len(means)
    top = [
        str(token)
        for token in tokenizer.convert_ids_to_tokens(means.topk(min(LIKELIEST, vocabulary)).indices.tolist())
    ]
    shown = ", ".join(f"{token!r} {rank:,}" for token, rank in zip(tokens, medians, strict=True))
    line = (
        f"median rank among {vocabulary:,} tokens: {shown}; likeliest there: "
        f"{', '.join(repr(token) for token in top)}"
    )
    level: Level = "note" if max(medians) > max(vocabulary // LATE, LIKELIEST) else "fine"
    if level == "note":
        line += "; the model does not expect this word there: try others"
    details = {"words": words, "vocabulary": vocabulary, "likeliest": top}
    if in_chat:
        details["spellings"] = found = spellings(tokenizer, labels.words)
        line += "; " + "; ".join(f"{word!r}: {spelling_line(tokens)}" for word, tokens in found.items())
    return Finding(WORDS.name, level, line, details)


def check_accuracy(model: LogitModel, batches: Sequence[Batch], labels: Sequence[int], name: str) -> Finding:
    """Return the accuracy before any training, beside that of always saying the commonest class.

    For a difference of two logits also the accuracy when its median over these very texts is the threshold: what is gained is a
    biased threshold's, and no result, for the texts that are scored have chosen it.
    """
    with frozen(model), torch.no_grad():
        logits = torch.cat([model(batch) for batch in batches]).double().cpu()
    truth = list(labels)
    predicted = (logits[:, 0] > 0).long() if model.outputs == 1 else logits.argmax(1)
    accuracy = score("accuracy", truth, predicted.tolist())
    commonest = max(truth.count(label) for label in set(truth)) / len(truth)
    details: dict[str, Any] = {"accuracy": accuracy, "commonest_class": commonest, "texts": len(truth)}
    line = (
        f"{name} gets {100 * accuracy:.1f} % of {counted(len(truth), 'text')} right (the largest class "
        f"alone {100 * commonest:.1f} %)"
    )
    if model.outputs == 1:
        centred = (logits[:, 0] > logits[:, 0].median()).long()
        biased = score("accuracy", truth, centred.tolist())
        details["accuracy_with_the_median_over_the_scored_texts_as_threshold"] = biased
        line += f"; with the median over these same {len(truth)} texts as threshold, which is no result, {100 * biased:.1f} %"
    return Finding(ACCURACY.name, "fine", line, details)
