"""``lmntk check``: the doctor. Looks a model over before anything long is computed with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from lmntk.bundled import PROMPTS
from lmntk.checkup.batches import check_batches
from lmntk.checkup.choices import PromptChoice, TextChoice, check_choices, in_order
from lmntk.checkup.findings import Finding, Level, counted
from lmntk.checkup.gradients import check_error, check_gradients, check_noise
from lmntk.checkup.prompt import check_accuracy, check_label_words
from lmntk.checkup.ties import check_ties
from lmntk.errors import UserError
from lmntk.models.build import logit_model, own_classes
from lmntk.models.filters import ParameterFilter
from lmntk.models.invariants import TEXTS, WORDS
from lmntk.models.loading import Pretrained, load_pretrained
from lmntk.models.logit_model import LogitModel, PromptModel
from lmntk.models.probe import frozen_features
from lmntk.models.state import Batch
from lmntk.models.tokenizer import TokenizerAlone, tokenizer_alone
from lmntk.prompts.assembly import Limits
from lmntk.prompts.batching import collate, length_sorted_batches
from lmntk.prompts.chat import check_chats
from lmntk.prompts.encoding import (
    EncodedText,
    HeadEncoder,
    PromptEncoder,
    encode_whole,
    fitting_length,
)
from lmntk.prompts.ensemble import EnsembleEncoder, make_prompt_encoder
from lmntk.prompts.label_words import LabelWords, space_before
from lmntk.prompts.remarks import TextCounts, date_remark
from lmntk.prompts.template import with_new_lines
from lmntk.system.progress import Progress, Silent
from lmntk.tasks import Example, Prompt, get_task
from lmntk.tasks.class_words import class_line
from lmntk.tasks.labels import loose, whole_number

LENGTH = 128
FEW = 4  # texts whose gradients are compared with autograd, whole
BATCH = 32
SILENT = Silent()


def examine(
    model: nn.Module,
    together: Batch,
    alone: Sequence[Batch],
    trainable: Mapping[str, nn.Parameter],
    progress: Progress = SILENT,
) -> list[Finding]:
    """Return the findings on any module from a batch to logits: coupled texts, ties, gradients, noise.

    The module is left as it was.

    Args:
        model: the module.
        together: a few texts, padded to one batch.
        alone: the same texts, each in a batch of its own.
        trainable: the parameters that count.
        progress: whom it tells what it looks at.

    Cost: a few dozen forward and backward passes. Memory: the whole gradients of two texts, a parameter's of
    all.
    """
    progress.phase("checking that texts do not mix in a batch")
    coupling, has_logits = check_batches(model, together, alone)
    findings = [coupling, *check_ties(model, trainable)]
    if not has_logits:
        return findings
    lengths = [next(iter(batch.values())).shape[1] for batch in alone]
    shortest = lengths.index(min(lengths))
    # another text wherever there is one
    longest = max(range(len(alone)), key=lambda index: (index != shortest, lengths[index]))
    extremes = sorted({shortest, longest})
    progress.phase("checking gradients against autograd")
    gradients, coverage = check_gradients(
        model,
        {name: tensor[extremes] for name, tensor in together.items()},
        [alone[index] for index in extremes],
        trainable,
        [alone[index] for index in sorted(range(len(alone)), key=lambda index: -lengths[index])],
    )
    findings += gradients
    if coverage is not None:
        progress.phase("checking the error and the noise of gradients")
        findings.append(check_error(model, together, alone, trainable, coverage))
        findings.append(check_noise(model, together, alone, trainable, coverage))
    return findings


BUNDLED_TEXTS = TextChoice()
USUAL_PROMPT = PromptChoice()


@dataclass(frozen=True)
class Asked:
    """The texts that the model is looked at with, and a prompt or none."""

    mode: str
    examples: list[Example]
    source: str
    classes: tuple[str, ...] | None
    words: tuple[str, ...] | None
    encoder: HeadEncoder | PromptEncoder | EnsembleEncoder
    findings: list[Finding]


def check(
    name: str,
    prompt: PromptChoice = USUAL_PROMPT,
    texts: TextChoice = BUNDLED_TEXTS,
    *,
    parameters: ParameterFilter | None = None,
    dtype: str = "float32",
    progress: Progress = SILENT,
    **loading: Any,
) -> list[Finding]:
    """Return the findings on a model folder or hub name.

    Label words that are no single tokens here: given ones are the user's mistake, a task's a fault, the
    default ones a note; after the latter two the check goes on in head mode. An adapter that is frozen whole
    is a fault, and ends it.

    Args:
        name: of the model.
        prompt: the prompt to look at it with.
        texts: the texts to look at it on.
        parameters: those that count.
        dtype: float32 or float64.
        progress: whom it tells what it looks at.
        loading: further arguments of ``load_pretrained``.

    Raises:
        UserError: a model, a prompt or texts that cannot be read, or options that do not go together.
    """
    progress.phase("reading the texts")
    check_choices(prompt, texts)
    _try_prompt(name, prompt, texts, loading)
    progress.phase("loading the model")
    pretrained = load_pretrained(name, dtype, needs_head=True if prompt.mode == "prompt" else None, **loading)
    is_classifier = pretrained.kind == "classifier"
    if is_classifier:
        prompt.check_mode("a classifier reads its own head")
    findings = [_model_finding(pretrained, dtype)]
    asked = _asked(pretrained, replace(prompt, mode="head") if is_classifier else prompt, texts)
    if is_classifier:
        asked = replace(asked, **_by_own_classes(pretrained, texts))
    findings += asked.findings
    encoded = [encode_whole(asked.encoder, example) for example in asked.examples]
    findings += _text_findings(asked, encoded)
    model = _model(pretrained, asked, encoded, () if texts.known is None else texts.known.labels)
    labels = [example.label for example in asked.examples if example.label is not None]
    has_baseline = (
        (asked.mode == "prompt" or is_classifier)
        and asked.source != "bundled"
        and len(labels) == len(encoded)
    )
    classes = 2 if getattr(model, "difference", False) else model.outputs
    if has_baseline and max(labels) >= classes:
        names = tuple(map(str, range(max(labels) + 1)))
        if asked.classes is not None and len(asked.classes) >= len(names):
            names = asked.classes
        advice = (
            "use a classifier of these classes"
            if is_classifier
            else f"give --label-words {','.join(f'{name}=...' for name in names[:3])}, a word for each class"
        )
        raise UserError(
            f"texts: a label is {names[max(labels)]}, and there are {classes} classes (0 to {classes - 1}); {advice}"
        )
    try:
        trainable = (parameters or ParameterFilter()).select(model)
    except UserError as error:
        if parameters is not None or not pretrained.adapter:
            raise
        return [*findings, Finding("parameters", "fault", str(error).removeprefix("parameters: "))]
    if asked.classes is not None:
        progress.note(class_line(asked.classes, asked.words))
    pad_id = pretrained.pad_id
    few = [encoded[index] for index in _few([text.length for text in encoded])]
    examined = examine(
        model, collate(few, pad_id), [collate([text], pad_id) for text in few], trainable, progress
    )
    findings += examined
    has_logits = any(finding.check in ("coverage", "gradients") for finding in examined)
    if not has_logits:  # nothing to rank or to classify by
        return findings
    batches, order = _batches(encoded, pad_id)
    if isinstance(model, PromptModel) and not isinstance(asked.encoder, HeadEncoder):
        progress.phase("looking at the label words")
        in_chat = asked.encoder.chat is not None
        findings.append(
            check_label_words(model, batches, asked.encoder.labels, pretrained.tokenizer, in_chat)
        )
    if has_baseline and classes > 1:
        whose = "the model's own head" if is_classifier else "zero-shot"
        progress.phase("classifying the texts before any training")
        findings.append(check_accuracy(model, batches, [labels[i] for i in order], whose))
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


def _try_prompt(name: str, prompt: PromptChoice, texts: TextChoice, loading: Mapping[str, Any]) -> None:
    """Put given label words to the tokenizer before the weights are loaded.

    Raises:
        UserError: they do not fit it.
    """
    if prompt.mode == "head" or not prompt.label_words or loading.get("base") or loading.get("gguf"):
        return
    alone = tokenizer_alone(name, loading.get("kind") or "auto", loading.get("revision"))
    if alone is not None and alone.kind != "classifier":
        _asked(alone, prompt, texts)


def _by_own_classes(pretrained: Pretrained, texts: TextChoice) -> dict[str, Any]:
    """Return texts of a table and classes by the numbers of a classifier's own head; its names are the labels, or their numbers.

    Raises:
        UserError: a label is neither.
    """
    own, read = own_classes(pretrained), texts.read
    if read.classes is None or texts.known is not None:
        return {"classes": tuple(own)}
    loosely = {loose(name): number for number, name in enumerate(own)}
    numbers = [loosely.get(loose(name), whole_number(name)) for name in read.classes]
    if None in numbers:
        raise UserError(
            f"texts: the label {read.classes[numbers.index(None)]!r} is none of the classes of {pretrained.name!r}, which are "
            f"{', '.join(own)}; use a classifier of these classes"
        )
    by_number = [int(number or 0) for number in numbers]
    examples = [
        each if each.label is None else replace(each, label=by_number[each.label]) for each in read.examples
    ]
    return {"classes": tuple(own), "examples": examples}


def _asked(reader: Pretrained | TokenizerAlone, prompt: PromptChoice, texts: TextChoice) -> Asked:
    """Return the texts, the mode after a look at the label words, its encoder, and the findings on them."""
    known, mode = texts.known, prompt.mode
    prompt, read = in_order(prompt, texts)
    findings: list[Finding] = []
    if prompt.chat:
        reading: Any = reader.reading(mode)
        check_chats(reader.tokenizer, reading)
    default = get_task("sst-2").causal if prompt.chat else Prompt(*PROMPTS["reviews"])
    if known is not None and mode == "prompt":
        default = known.prompt(reader.reading(mode), prompt.template, prompt.label_words)
    words = default.label_words
    if prompt.label_words is None:
        _, read = in_order(prompt, texts, words)
    examples, source = read.examples, read.source
    if mode == "prompt" and prompt.label_words is None:
        try:
            LabelWords.read(reader.tokenizer, words, prompt.reduce, space_before(prompt.chat))
        except UserError as error:
            whose = "the default" if known is None else f"{known.name}'s"
            level: Level = "note" if known is None else "fault"
            # the line has its own advice
            reason = str(error).split(": choose")[0].removeprefix("label word ")
            line = (
                f"{whose} {', '.join(words)} do not suit this model: {reason}; give --label-words; "
                "head mode is checked instead"
            )
            findings.append(Finding(WORDS.name, level, line, {"words": list(words)}))
            mode = "head"
    limits = Limits(fitting_length(reader.tokenizer, LENGTH if known is None else known.max_length))
    settings: Any = {"reading": reader.reading(mode), "decoder_start": reader.decoder_start}
    encoder: HeadEncoder | PromptEncoder | EnsembleEncoder
    details: dict[str, Any]
    if mode == "head":
        encoder = HeadEncoder(reader.tokenizer, limits, **settings)
        shown, details = "without a prompt", {}
    else:
        chosen, given = prompt.template or default.template, prompt.label_words or words
        encoder = make_prompt_encoder(
            reader.tokenizer, chosen, given, limits, reduce=prompt.reduce, chat=prompt.chat, **settings
        )
        written = [with_new_lines(each) for each in ([chosen] if isinstance(chosen, str) else chosen)]
        shown = f"{' and '.join(repr(each) for each in written)} with {', '.join(given)}"
        details = {"templates": written, "words": [*given]}
        if encoder.chat is not None:
            details |= {"chat": encoder.chat, "date": encoder.date}
            shown += f", as a chat: {encoder.chat!r}" + (
                f"; {remark}" if (remark := date_remark(encoder)) else ""
            )
    count = counted(len(examples), "bundled review" if source == "bundled" else "text")
    line = f"{count}{'' if source == 'bundled' else f' of {source}'}, {shown}"
    details = {"mode": mode, "texts": len(examples), "source": source, **details}
    findings = [Finding("input", "fine", line, details), *findings]
    by_class = None if mode == "head" else tuple(prompt.label_words or words)
    classes = read.classes
    if classes is not None and by_class is not None and len(classes) != len(by_class):
        by_class = None  # an error, where the texts are classified
    elif classes is None and by_class is not None:
        classes = tuple(map(str, range(len(by_class))))
    return Asked(mode, examples, source, classes, by_class, encoder, findings)


def _text_findings(asked: Asked, encoded: Sequence[EncodedText]) -> list[Finding]:
    """Return notes on texts that are empty, or were cut to the length limit."""
    counts = TextCounts()
    for example, text in zip(asked.examples, encoded, strict=True):
        counts.add(example, text)
    return [Finding(TEXTS.name, "note", line) for line in counts.remarks(asked.encoder, option="")]


def _few(lengths: Sequence[int]) -> list[int]:
    """Return the numbers of a few texts: the first ones, the shortest and the longest.

    Padding and long texts are to be seen.
    """
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
    """Return batches of similar lengths, and the texts' order in them."""
    chosen = length_sorted_batches([text.length for text in encoded], BATCH)
    return [collate([encoded[i] for i in part], pad_id) for part in chosen], [
        i for part in chosen for i in part
    ]
