"""``lmntk predict``: from texts in a file of any length to classes and probabilities, in constant memory."""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any

from lmntk.errors import UserError
from lmntk.models.apart import MIXES
from lmntk.prediction.files import LoadedPredictor, WantedPredictor, find_predictor, load_predictor
from lmntk.prediction.predictor import PassLimits
from lmntk.prediction.texts import STANDARD, TextSource
from lmntk.prompts.encoding import EncodedText, encode_whole
from lmntk.prompts.remarks import TextCounts
from lmntk.solvers.selection import predict_labels
from lmntk.system.files import replacing
from lmntk.system.memory import default_memory
from lmntk.tasks.example import Example

WINDOW = 64  # batches that are sorted by length together, and held at once

Report = Callable[[int], None]  # texts done since the last call


def predict_file(
    model_dir: Path,
    source: str | TextSource,
    target: str,
    wanted: WantedPredictor | None = None,
    limits: PassLimits | None = None,
    *,
    device: str = "auto",
    note: Callable[[str], None] = lambda line: None,
    report: Report = lambda texts: None,
) -> dict[str, Any]:
    """Write one JSON line a text: ``class``, ``label``, ``probabilities``, ``decisions``; returns what was done.

    Args:
        model_dir: a run's folder, or one predictor's.
        source: JSON lines with ``text_a`` (or ``text``) and perhaps ``text_b``; also with ``.gz``; ``-`` is stdin. Or a table.
        target: where the lines go; a file appears whole, at the end; ``-`` is stdout, window by window.
        wanted: which predictor of a run's folder, and where its pre-trained model is now; the best on dev by default.
        limits: texts in one pass, and the memory; by default half of the machine's.
        device: where to compute.
        note: told what is worth reading once.
        report: told how many texts are done.

    Cost: about three forward passes a text. Memory: the model, v, and ``WINDOW`` batches of texts; of CSV, TSV and Parquet all texts.

    Raises:
        UserError: no predictor, another model, a line that is no text; the target is not written then.
    """
    texts = source if isinstance(source, TextSource) else TextSource(source)
    if target != STANDARD and Path(target).is_dir():
        raise UserError(f"output: {target!r} is a folder; name a file")
    if target != STANDARD and texts.name != STANDARD and Path(target).resolve() == Path(texts.name).resolve():
        raise UserError(f"output: {target!r} is the input; name another file")
    wanted, limits = wanted or WantedPredictor(), limits or PassLimits(memory=default_memory())
    folder, others = find_predictor(model_dir, wanted)
    if others:
        note(
            f"{folder.name} of {len(others) + 1} predictors, the best on dev; choose with --split and --method"
        )
    loaded = load_predictor(folder, wanted.model, device, limits)
    started, counts = time.monotonic(), TextCounts()
    with ExitStack() as stack:
        out = stack.enter_context(_writing(target))
        examples = texts.examples()
        while window := list(itertools.islice(examples, WINDOW * limits.batch_size)):
            encoded = _encoded(loaded, window)
            for line in _classified(loaded, encoded):
                out.write(line)
            for (_, example), text in zip(window, encoded, strict=True):
                counts.add(example, text)
            out.flush()
            report(len(window))
        if not counts.total:
            raise UserError(f"input: {texts.name!r} holds no text; write one JSON object a line")
    for line in counts.remarks(loaded.encoder, option=""):
        note(line)
    if loaded.predictor.apart.mixes:
        note(MIXES)
    if loaded.predictor.by_two_backward_passes:
        note(
            "the model has a step without a forward-mode derivative: two backward passes a text, about twice the time"
        )
    seconds = time.monotonic() - started
    return {
        "predictor": str(folder),
        "texts": counts.total,
        "output": target,
        "seconds": seconds,
        "texts_per_second": counts.total / seconds,
    }


def _encoded(loaded: LoadedPredictor, window: list[tuple[str, Example]]) -> list[EncodedText]:
    encoded = []
    for where, example in window:
        try:
            encoded.append(encode_whole(loaded.encoder, example))
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
    return encoded


def _classified(loaded: LoadedPredictor, encoded: list[EncodedText]) -> Iterator[str]:
    decisions, _ = loaded.predictor.evaluate(encoded)
    probabilities = loaded.predictor.probabilities(decisions)
    for label, decision, probability in zip(
        predict_labels(decisions).tolist(), decisions.tolist(), probabilities.tolist(), strict=True
    ):
        line = {
            "class": label,
            "label": loaded.labels[label],
            "probabilities": [round(value, 6) for value in probability],
            "decisions": decision,
        }
        yield json.dumps(line, ensure_ascii=False) + "\n"


@contextmanager
def _writing(target: str) -> Iterator[IO[str]]:
    path = Path(target).resolve()  # of a link, what it points to
    is_pipe = (
        target != STANDARD and path.exists() and not path.is_file()
    )  # or a device: written to, not replaced
    with (
        nullcontext(path if is_pipe else None)
        if target == STANDARD or is_pipe
        else replacing(path) as temporary
    ):
        if temporary is None:
            yield sys.stdout
            return
        try:
            with temporary.open("w", encoding="utf-8") as out:
                yield out
        except OSError as error:
            raise UserError(f"output: cannot write {target!r} ({error.strerror})") from error
