"""``lmntk check``: the doctor. Looks a model over before anything long is computed with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from lmntk.bundled import EXAMPLES, PROMPTS
from lmntk.checkup.batches import check_batches
from lmntk.checkup.findings import Finding, Level, counted
from lmntk.checkup.gradients import check_error, check_gradients, check_noise
from lmntk.checkup.prompt import check_accuracy, check_label_words
from lmntk.checkup.ties import check_ties
from lmntk.errors import UserError
from lmntk.models.build import logit_model, own_classes
from lmntk.models.filters import ParameterFilter
from lmntk.models.loading import Pretrained, load_pretrained
from lmntk.models.logit_model import LogitModel, PromptModel
from lmntk.models.probe import frozen_features
from lmntk.models.state import Batch
from lmntk.prompts.batching import collate, length_sorted_batches
from lmntk.prompts.encoding import EncodedText, HeadEncoder, PromptEncoder, fitting_length
from lmntk.prompts.ensemble import EnsembleEncoder, make_prompt_encoder
from lmntk.prompts.label_words import LabelWords
from lmntk.tasks import Example, get_task, read_data, read_jsonl
from lmntk.tasks.catalog import Task
from lmntk.tasks.splits import cut_test

LENGTH = 128
FEW = 4  # texts whose gradients are compared with autograd, whole
MOST = 200  # texts for ranks and accuracy
BATCH = 32


def examine(
    model: nn.Module, together: Batch, alone: Sequence[Batch], trainable: Mapping[str, nn.Parameter]
) -> list[Finding]:
    """Returns what is found on any module from a batch to logits: coupled texts, ties, gradients, noise. It is left as it was.

    Args:
        model: the module.
        together: a few texts, padded to one batch.
        alone: the same texts, each in a batch of its own.
        trainable: the parameters that count.

    Cost: a few dozen forward and backward passes. Memory: the whole gradients of two texts, a parameter's of all.
    """
    found, has_logits = check_batches(model, together, alone)
    findings = [found, *check_ties(model, trainable)]
    if not has_logits:
        return findings
    lengths = [next(iter(batch.values())).shape[1] for batch in alone]
    shortest = lengths.index(min(lengths))
    longest = max(
        range(len(alone)), key=lambda index: (index != shortest, lengths[index])
    )  # another text wherever there is one
    extremes = sorted({shortest, longest})
    gradients, coverage = check_gradients(
        model, {name: tensor[extremes] for name, tensor in together.items()}, trainable
    )
    findings += gradients
    if coverage is not None:
        findings.append(check_error(model, together, alone, trainable, coverage))
        findings.append(check_noise(model, together, alone, trainable, coverage))
    return findings


@dataclass(frozen=True)
class Asked:
    """What the model is looked at with: texts, and a prompt or none."""

    mode: str
    examples: list[Example]
    source: str
    encoder: HeadEncoder | PromptEncoder | EnsembleEncoder
    findings: list[Finding]


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

    Label words that are no single tokens here: given ones are the user's mistake, a task's a fault, the default ones a note; after
    the latter two the check goes on in head mode. An adapter that is frozen whole is a fault, and ends it.

    Raises:
        UserError: a model, a prompt or texts that cannot be read, or options that do not go together.
    """
    if data is not None and task is None:
        raise UserError("data: it is a task's; give --task too, or your own texts with --texts")
    if task is not None and texts is not None:
        raise UserError("texts: a task has texts of its own; give --task or --texts")
    known = None if task is None else get_task(task)
    if known is not None and data is None:
        raise UserError(
            f"data: {known.name} needs the folder that holds {known.name}/test.jsonl.gz; give --data"
        )
    pretrained = load_pretrained(
        name, dtype, attention, needs_head=True if mode == "prompt" else None, **loading
    )
    is_classifier = pretrained.kind == "classifier"
    given = [flag for flag, value in (("--template", template), ("--label-words", label_words)) if value]
    if given and (mode == "head" or is_classifier):
        reads = "a classifier reads its own head" if is_classifier else "head mode reads no prompt"
        raise UserError(f"{' and '.join(given)}: {reads}; leave the option out")
    findings = [_model_finding(pretrained, dtype)]
    asked = _asked(
        pretrained,
        "head" if is_classifier else mode,
        template,
        label_words,
        label_words_reduce,
        known,
        data,
        texts,
    )
    findings += asked.findings
    encoded = [asked.encoder.encode(example) for example in asked.examples]
    model = _model(pretrained, asked, encoded, () if known is None else known.labels)
    labels = [example.label for example in asked.examples if example.label is not None]
    has_baseline = (
        (asked.mode == "prompt" or is_classifier)
        and asked.source != "bundled"
        and len(labels) == len(encoded)
    )
    classes = 2 if getattr(model, "difference", False) else model.outputs
    if has_baseline and max(labels) >= classes:
        advice = (
            "use a classifier of these classes"
            if is_classifier
            else "give --label-words with a word for each class"
        )
        raise UserError(
            f"texts: a label is {max(labels)}, and there are {classes} classes (0 to {classes - 1}); {advice}"
        )
    try:
        trainable = (parameters or ParameterFilter()).select(model)
    except UserError as error:
        if parameters is not None or not pretrained.adapter:
            raise
        return [*findings, Finding("parameters", "fault", str(error).removeprefix("parameters: "))]
    few = [encoded[index] for index in _few([text.length for text in encoded])]
    found = examine(
        model,
        collate(few, pretrained.pad_id),
        [collate([text], pretrained.pad_id) for text in few],
        trainable,
    )
    findings += found
    if not any(
        finding.check in ("coverage", "gradients") for finding in found
    ):  # no logits to rank or to classify by
        return findings
    batches, order = _batches(encoded, pretrained.pad_id)
    if isinstance(model, PromptModel) and not isinstance(asked.encoder, HeadEncoder):
        findings.append(check_label_words(model, batches, asked.encoder.labels, pretrained.tokenizer))
    if has_baseline and classes > 1:
        findings.append(
            check_accuracy(
                model,
                batches,
                [labels[i] for i in order],
                "the model's own head" if is_classifier else "zero-shot",
            )
        )
    return findings


def _model_finding(pretrained: Pretrained, dtype: str) -> Finding:
    network = pretrained.network
    size = sum(parameter.numel() for parameter in network.parameters())
    kind = "classifier" if pretrained.kind == "classifier" else f"{pretrained.kind} language model"
    line = f"{type(network).__name__}, a {kind} with {size:,} parameters" + (
        ", an adapter's among them" if pretrained.adapter else ""
    )
    if pretrained.stored_dtype != dtype:
        line += f", stored in {pretrained.stored_dtype}, computed in {dtype}"
    return Finding(
        "model",
        "fine",
        line,
        {"kind": pretrained.kind, "entries": size, "fingerprint": pretrained.fingerprint},
    )


def _asked(
    pretrained: Pretrained,
    mode: str,
    template: str | Sequence[str] | None,
    label_words: Sequence[str] | None,
    reduce: Any,
    known: Task | None,
    data: str | None,
    texts: Path | None,
) -> Asked:
    """Returns the texts, the mode after a look at the label words, its encoder, and what there is to say about them."""
    examples, source = _examples(known, data, texts)
    findings: list[Finding] = []
    prompts, words = (
        PROMPTS["reviews"]
        if known is None or mode == "head"
        else (known.prompt(pretrained.reading(mode)), known.label_words)
    )
    if mode == "prompt" and label_words is None:
        try:
            LabelWords.read(pretrained.tokenizer, words, reduce)
        except UserError as error:
            whose = "the default" if known is None else f"{known.name}'s"
            level: Level = "note" if known is None else "fault"
            reason = (
                str(error).split(": choose")[0].removeprefix("label word ")
            )  # its advice is the line's own
            line = f"{whose} {', '.join(words)} do not suit this model: {reason}; give --label-words; looked at in head mode instead"
            findings.append(Finding("label words", level, line, {"words": list(words)}))
            mode = "head"
    length = fitting_length(pretrained.tokenizer, LENGTH if known is None else known.max_length)
    settings: Any = {"reading": pretrained.reading(mode), "decoder_start": pretrained.decoder_start}
    encoder: HeadEncoder | PromptEncoder | EnsembleEncoder
    details: dict[str, Any]
    if mode == "head":
        encoder = HeadEncoder(pretrained.tokenizer, length, **settings)
        shown, details = "without a prompt", {}
    else:
        chosen, given = template or prompts, label_words or words
        encoder = make_prompt_encoder(pretrained.tokenizer, chosen, given, length, reduce=reduce, **settings)
        written = [chosen] if isinstance(chosen, str) else list(chosen)
        shown, details = (
            f"{' and '.join(repr(each) for each in written)} with {', '.join(given)}",
            {"templates": written, "words": [*given]},
        )
    what = counted(len(examples), "bundled review" if source == "bundled" else "text") + (
        "" if source == "bundled" else f" of {source}"
    )
    findings.insert(
        0,
        Finding(
            "input",
            "fine",
            f"{what}, {shown}",
            {"mode": mode, "texts": len(examples), "source": source, **details},
        ),
    )
    return Asked(mode, examples, source, encoder, findings)


def _examples(known: Task | None, data: str | None, texts: Path | None) -> tuple[list[Example], str]:
    """Returns at most ``MOST`` texts and where they are from: the task's test texts, the user's, or the bundled ones."""
    if known is not None:
        found = read_data(data or "", known, k=1, seed=13)
        return [found.test[row] for row in cut_test(len(found.test), MOST, known.csv_style)], known.name
    if texts is not None:
        return read_jsonl(texts, require_label=False)[:MOST], str(texts)
    return read_jsonl(EXAMPLES / "reviews" / "test.jsonl")[:MOST], "bundled"


def _few(lengths: Sequence[int]) -> list[int]:
    """Returns the first texts, with the shortest and the longest of all among them: padding and long texts are to be seen."""
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    chosen = dict.fromkeys([order[0], order[-1], *range(min(FEW, len(lengths)))])
    return sorted(list(chosen)[:FEW])


def _model(
    pretrained: Pretrained, asked: Asked, encoded: Sequence[EncodedText], names: Sequence[str]
) -> LogitModel:
    if pretrained.kind == "classifier":
        classes = pretrained.network.config.num_labels
        return logit_model(pretrained, asked.encoder, classes == 2, labels=names or own_classes(pretrained))
    if not isinstance(asked.encoder, HeadEncoder):
        return logit_model(pretrained, asked.encoder, asked.encoder.classes == 2)
    network = pretrained.network
    width = frozen_features(network, [collate(encoded[:1], pretrained.pad_id)]).shape[1]
    head = nn.Linear(width, 2, dtype=next(network.parameters()).dtype)
    nn.init.eye_(head.weight)  # any head will do to look at gradients; always the same one
    nn.init.constant_(head.bias, 0.1)
    return logit_model(pretrained, asked.encoder, True, head=head)


def _batches(encoded: Sequence[EncodedText], pad_id: int) -> tuple[list[Batch], list[int]]:
    """Returns batches of similar lengths, and the texts' order in them."""
    chosen = length_sorted_batches([text.length for text in encoded], BATCH)
    return [collate([encoded[i] for i in part], pad_id) for part in chosen], [
        i for part in chosen for i in part
    ]
