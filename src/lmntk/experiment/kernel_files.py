"""``lmntk kernel``: kernels of texts in files, written to a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lmntk.engine.compute import PromptedTexts, kernels_of_prompt
from lmntk.engine.progress import Listener
from lmntk.engine.settings import NOT_KEPT, SCRATCH
from lmntk.engine.work import WorkOwner
from lmntk.engine.work_folder import WorkFolder
from lmntk.experiment.configuration import TextKernels
from lmntk.experiment.kernel_labels import KernelLabels
from lmntk.experiment.kernel_texts import KernelTexts, read_kernel_texts
from lmntk.experiment.preparation import DEFAULT_LENGTH, ReadsTexts
from lmntk.experiment.start import filter_of, load, reader_alone, settings_of
from lmntk.kernels.formulas import FORMULAS, kernel_names
from lmntk.kernels.kernel import Kernel
from lmntk.prompts.assembly import Limits
from lmntk.prompts.encoding import PromptEncoder, fitting_length
from lmntk.prompts.ensemble import EnsembleEncoder, make_prompt_encoder
from lmntk.prompts.remarks import TextCounts, date_remark
from lmntk.system.files import alone_in
from lmntk.system.kept import is_whole, or_none, save_tensors
from lmntk.system.notices import say
from lmntk.system.progress import Progress

LOGITS = "logits.safetensors"


def kernels_of_texts(
    wanted: TextKernels, progress: Progress, read: KernelTexts | None = None
) -> dict[str, Any]:
    """Write kernels, logits and labels of the texts in two files; those of an earlier run are kept.

    Args:
        wanted: what is asked for.
        progress: whom it tells how far it is; the first line is which word stands for which class.
        read: the texts, where ``read_kernel_texts`` has read them already.

    Returns:
        The files with their shapes, a line on the coverage, and of kernels that were computed the provenance that is in the files.

    Raises:
        UserError: a mistake in the files, the prompt or the model; a kernel of something else in ``out``.
    """
    out = wanted.out
    read = read_kernel_texts(wanted) if read is None else read
    owner = WorkOwner(out, ("kernel",))
    settings = settings_of(wanted, out, owner, wanted)
    alone = reader_alone(wanted)
    if alone is not None:
        _encoder(wanted, read.words, alone)
    pretrained = load(wanted, ["prompt"])
    encoder, parameters = _encoder(wanted, read.words, pretrained), filter_of(wanted)
    texts = PromptedTexts(pretrained, encoder, read.train, read.evaluate, wanted.all_logits, parameters)
    expected = texts.origin(settings)
    files = _kept_files(wanted, expected)
    labels = KernelLabels.of(read, expected)
    if texts.encoded:  # after all that can be wrong: a mistake is one line
        progress.note(read.line)
    _say_remarks(texts)
    formulas = [formula for formula in wanted.formulas if str(kernel_path(out, formula)) not in files]
    if not formulas and not is_whole(out / LOGITS):
        formulas = list(wanted.formulas)
    if not formulas:
        if wanted.keep_factors:
            progress.note(NOT_KEPT)
        if any(root.is_dir() for root in (out / SCRATCH, settings.scratch) if root is not None):
            with alone_in(out):  # of a run that was cut short at its end
                WorkFolder.sweep(owner, settings.scratch)
        labels.write(out)
        return {"files": files, "coverage": "all there from an earlier run"}
    if pretrained.stored_dtype != wanted.dtype:
        progress.note(f"weights stored in {pretrained.stored_dtype}, computed with in {wanted.dtype}")
    per_text, per_pair = _amounts(texts, formulas)
    n, m = len(read.train), len(read.evaluate)
    progress.work(f"{n} x {m} texts", per_text * (n + m) + per_pair * n * m)
    with alone_in(out):
        listener = Listener(
            report=lambda captured, contracted: progress.advance(per_text * captured + per_pair * contracted)
        )
        computed = kernels_of_prompt(texts, formulas, settings, listener)
        if computed.precision_loss is not None:
            progress.note(computed.precision_loss.describe())
        provenance = next(iter(computed.kernels.values())).provenance
        files |= save_logits(out, computed.logits, provenance)
        files |= save_kernels(out, computed.kernels)
        labels.write(out)
        WorkFolder.finish(settings, computed.work)
        WorkFolder.sweep(owner, settings.scratch)
    return {"files": files, "coverage": computed.coverage.describe(), "provenance": provenance}


def _say_remarks(texts: PromptedTexts) -> None:
    """Say how many of the texts are empty, and how many are cut to the length limit."""
    for side, examples in (("train", texts.train), ("eval", texts.evaluate)):
        counts = TextCounts()
        for example, encoded in zip(examples, texts.encoded[side], strict=True):
            counts.add(example, encoded)
        for line in counts.remarks(texts.encoder):
            say(f"{side}: {line}")
    if date := date_remark(texts.encoder):
        say(date)


def kernel_path(out: Path, formula: str) -> Path:
    """Return the file of a formula's kernel in a folder."""
    return out / f"{formula}.safetensors"


def _encoder(
    wanted: TextKernels, words: Sequence[str], reader: ReadsTexts
) -> PromptEncoder | EnsembleEncoder:
    reading: Any = reader.reading("prompt")
    reduce: Any = wanted.label_words_reduce  # which the encoder checks
    return make_prompt_encoder(
        reader.tokenizer,
        wanted.template,
        words,
        Limits(wanted.max_length or fitting_length(reader.tokenizer, DEFAULT_LENGTH)),
        reading=reading,
        decoder_start=reader.decoder_start,
        reduce=reduce,
        chat=wanted.chat,
    )


def _kept_files(wanted: TextKernels, expected: Mapping[str, Any]) -> dict[str, list[int]]:
    """Return the kernels of an earlier run that can be kept, with their shapes.

    Raises:
        UserError: a kernel of something else, which is neither overwritten nor left beside the new ones.
    """
    files = {}
    as_written = json.loads(json.dumps(expected))
    for formula in FORMULAS:
        path = kernel_path(wanted.out, formula)
        if path.exists():
            kernel = or_none(partial(Kernel.load, path, as_written))
            if kernel is not None and formula in wanted.formulas and bool(kernel.groups) == wanted.groups:
                files[str(path)] = list(kernel.values.shape)
    return files


def _amounts(texts: PromptedTexts, formulas: Sequence[str]) -> tuple[float, float]:
    """Return how much work a text is, and a pair of texts, in units of a parameter's operations."""
    c = 1 if texts.folds else texts.encoder.classes
    lengths = [text.length for encoded in texts.encoded.values() for text in encoded]
    tokens = sum(lengths) / len(lengths)
    return 6 * tokens * c, 2.0 * c * c * len(kernel_names(formulas))


def save_kernels(out: Path, kernels: Mapping[str, Kernel]) -> dict[str, list[int]]:
    """Write kernels by formula to a folder; return the files with their shapes."""
    for formula, kernel in kernels.items():
        kernel.save(kernel_path(out, formula))
    return {str(kernel_path(out, formula)): list(kernel.values.shape) for formula, kernel in kernels.items()}


def save_logits(out: Path, logits: dict[str, Any], provenance: Mapping[str, Any]) -> dict[str, list[int]]:
    """Write the logits of both sides to a folder; return the file with its shape."""
    save_tensors(out / LOGITS, logits, {"provenance": json.dumps(provenance, sort_keys=True)})
    return {str(out / LOGITS): list(logits["eval"].shape)}
