"""``lmntk check``: the doctor. Looks a model over before anything long is computed with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from lmntk.bundled import EXAMPLES, PROMPTS
from lmntk.checkup.batches import check_batches
from lmntk.checkup.findings import Finding
from lmntk.checkup.gradients import check_error, check_gradients, check_noise, check_ties
from lmntk.checkup.prompt import check_accuracy, check_label_words
from lmntk.errors import UserError
from lmntk.models.building import own_head_model, prompt_model
from lmntk.models.filters import ParameterFilter
from lmntk.models.loading import Pretrained, load_pretrained
from lmntk.models.logit_model import HeadModel, LogitModel, PromptModel
from lmntk.models.probe import frozen_features
from lmntk.models.state import Batch
from lmntk.prompts.batching import collate, length_sorted_batches
from lmntk.prompts.encoding import EncodedText, HeadEncoder, PromptEncoder, fitting_length
from lmntk.prompts.ensemble import EnsembleEncoder, make_prompt_encoder
from lmntk.tasks import Example, get_task, read_data, read_jsonl
from lmntk.tasks.splits import cut_test

LENGTH = 128
FEW = 4  # texts whose gradients are compared with autograd, whole
MOST = 200  # texts for ranks and accuracy
BATCH = 32


def examine(model: nn.Module, together: Batch, alone: Sequence[Batch], trainable: Mapping[str, nn.Parameter]) -> list[Finding]:
    """Returns what is found on any module from a batch to logits: coupled texts, ties, gradients, noise.

    Args:
        model: the module.
        together: a few texts, padded to one batch.
        alone: the same texts, each in a batch of its own.
        trainable: the parameters that count.

    Cost: a few dozen forward and backward passes; two whole gradients in memory.
    """
    findings = check_batches(model, together, alone)
    findings += check_ties(model, getattr(model, "network", model))
    lengths = [next(iter(batch.values())).shape[1] for batch in alone]
    extremes = sorted({lengths.index(min(lengths)), lengths.index(max(lengths))})
    pair = {name: tensor[extremes] for name, tensor in together.items()}
    found, coverage = check_gradients(model, pair, trainable)
    findings += found
    if coverage is not None:
        findings.append(check_error(model, alone, trainable, coverage))
        findings.append(check_noise(model, alone, trainable, coverage))
    return findings


def check(
    name: str,
    *,
    mode: str = "prompt",
    template: str | Sequence[str] | None = None,
    label_words: Sequence[str] | None = None,
    label_words_reduce: Any = None,
    task: str | None = None,
    data: str | None = None,
    texts: Path | None = None,
    dtype: str = "float32",
    attention: str | None = None,
    parameters: ParameterFilter | None = None,
    **loading: Any,
) -> list[Finding]:
    """Returns what is found on a model folder or hub name; the arguments are those of ``lmntk check``.

    Raises:
        UserError: a model, a prompt or texts that cannot be read.
    """
    pretrained = load_pretrained(name, dtype, attention, needs_head=mode == "prompt", **loading)
    if pretrained.kind == "classifier":
        mode = "head"
    known = None if task is None else get_task(task)
    prompts, words = PROMPTS["reviews"]
    if known is not None:
        prompts, words = known.prompt(pretrained.reading("prompt")) if mode == "prompt" else "", known.label_words
    examples, names = _examples(known, data, texts)
    kinds = f"{pretrained.kind} language model" if pretrained.kind != "classifier" else "classifier"
    network = pretrained.network
    size = sum(parameter.numel() for parameter in network.parameters())
    line = f"{type(network).__name__}, a {kinds} of {size:,} parameters"
    line += ", with an adapter" if pretrained.adapter else ""
    if pretrained.stored_dtype != dtype:
        line += f", stored in {pretrained.stored_dtype}, computed with in {dtype}"
    findings = [Finding("model", "fine", line, {"kind": pretrained.kind, "parameters": size, "fingerprint": pretrained.fingerprint})]
    length = fitting_length(pretrained.tokenizer, LENGTH if known is None else known.max_length)
    reading: Any = pretrained.reading(mode)
    encoder: HeadEncoder | PromptEncoder | EnsembleEncoder
    if mode == "head":
        encoder = HeadEncoder(pretrained.tokenizer, length, reading=reading, decoder_start=pretrained.decoder_start)
    else:
        encoder = make_prompt_encoder(
            pretrained.tokenizer,
            template or prompts,
            label_words or words,
            length,
            reading=reading,
            decoder_start=pretrained.decoder_start,
            reduce=label_words_reduce,
        )
    encoded = [encoder.encode(example) for example in examples]
    model = _model(pretrained, mode, encoder, encoded, names)
    trainable = (parameters or ParameterFilter()).select(model)
    few = encoded[:FEW]
    alone = [collate([text], pretrained.pad_id) for text in few]
    findings += examine(model, collate(few, pretrained.pad_id), alone, trainable)
    batches, order = _batches(encoded, pretrained.pad_id)
    if isinstance(model, PromptModel) and not isinstance(encoder, HeadEncoder):
        findings.append(check_label_words(model, batches, encoder.labels, pretrained.tokenizer))
    labels = [examples[index].label for index in order]
    has_baseline = mode == "prompt" or pretrained.kind == "classifier"
    if has_baseline and (known is not None or texts is not None) and all(label is not None for label in labels):
        classes = 2 if model.outputs == 1 else model.outputs
        if any(label is not None and label >= classes for label in labels):
            raise UserError(f"label-words: the texts have more classes than the {classes} of the model; give a word for each class")
        truth = [label for label in labels if label is not None]
        findings.append(check_accuracy(model, batches, truth, "zero-shot" if mode == "prompt" else "the head as it is"))
    return findings


def _examples(known: Any, data: str | None, texts: Path | None) -> tuple[list[Example], tuple[str, ...]]:
    """Returns at most ``MOST`` texts: the task's test texts, the user's, or the bundled ones; and the classes' names, if known."""
    if known is not None:
        if data is None:
            raise UserError("data: a task needs the folder that holds <task>/test.jsonl.gz; give --data")
        found = read_data(data, known, k=1, seed=13)
        return [found.test[row] for row in cut_test(len(found.test), MOST, known.csv_style)], known.labels
    examples = read_jsonl(texts or EXAMPLES / "reviews" / "test.jsonl", require_label=False)
    return examples[:MOST], ()


def _model(pretrained: Pretrained, mode: str, encoder: Any, encoded: Sequence[EncodedText], names: tuple[str, ...]) -> LogitModel:
    if pretrained.kind == "classifier":
        found = pretrained.network.config.id2label.values()
        return own_head_model(pretrained, names or [str(label) for label in found], pretrained.network.config.num_labels == 2)
    if mode == "prompt":
        return prompt_model(pretrained, encoder, encoder.classes == 2)
    width = frozen_features(pretrained.network, [collate(encoded[:1], pretrained.pad_id)]).shape[1]
    head = nn.Linear(width, 2, dtype=next(pretrained.network.parameters()).dtype)
    for index, parameter in enumerate((head.weight, head.bias)):  # any head will do to look at gradients; always the same one
        nn.init.constant_(parameter, 0.1 * (index + 1))
    nn.init.eye_(head.weight)
    return HeadModel(pretrained.network, head, difference=True)


def _batches(encoded: Sequence[EncodedText], pad_id: int) -> tuple[list[Batch], list[int]]:
    """Returns batches of similar lengths, and the texts' order in them."""
    chosen = length_sorted_batches([text.length for text in encoded], BATCH)
    return [collate([encoded[i] for i in part], pad_id) for part in chosen], [i for part in chosen for i in part]
