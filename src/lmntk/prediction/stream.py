"""``lmntk predict``: from texts in a table of any length to answers, in constant memory where the format allows.

The user's mistakes are found before torch is imported: what is heavy comes in with the model.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from lmntk.errors import UserError
from lmntk.prediction.description import WantedPredictor, find_predictor, read_description
from lmntk.prediction.limits import PassLimits
from lmntk.prediction.shares import compare_shares, sentence_of
from lmntk.prediction.table_out import writer_for
from lmntk.prediction.texts import STANDARD, TextSource
from lmntk.system.files import replacing
from lmntk.system.memory import default_memory
from lmntk.tasks.example import Example
from lmntk.tasks.remarks import is_empty
from lmntk.tasks.rows import Row

if TYPE_CHECKING:
    from lmntk.prediction.answers import Answer
    from lmntk.prediction.files import LoadedPredictor
    from lmntk.prompts.encoding import EncodedText

WINDOW = 64  # batches that are sorted by length together, and held at once

Report = Callable[[int], None]  # texts done since the last call
Window = list[tuple[Row, Example]]


def predict_file(
    folder: Path,
    source: str | TextSource,
    target: str,
    wanted: WantedPredictor | None = None,
    limits: PassLimits | None = None,
    *,
    device: str = "auto",
    note: Callable[[str], None] = lambda line: None,
    report: Report = lambda texts: None,
) -> dict[str, Any]:
    """Write the answers on texts, in a table beside their columns or in lines of JSON; returns what was done.

    Args:
        folder: a run's folder, or one predictor's.
        source: a table with the texts; ``-`` is JSON lines on stdin.
        target: where the answers go, in the format of its ending; a file appears whole, at the end; ``-`` is stdout, window by window.
        wanted: which predictor of a run's folder, and where its pre-trained model is now; the best on dev by default.
        limits: texts in one pass, and the memory; by default half of the machine's.
        device: where to compute.
        note: told what is worth reading once.
        report: told how many texts are done.

    Cost: about three forward passes a text, one where the predictor has no direction. Memory: the model, v, and ``WINDOW`` batches of
    rows; of CSV and TSV all rows.

    Raises:
        UserError: no predictor, another model, a row that is no text; the target is not written then.
    """
    texts = source if isinstance(source, TextSource) else TextSource(source)
    writer = writer_for(target)
    _check_target(target, texts.name)
    wanted, limits = wanted or WantedPredictor(), limits or PassLimits(memory=default_memory())
    predictor, others = find_predictor(folder, wanted)
    description = read_description(predictor)
    windows = _windows(texts.with_columns(description["columns"]), WINDOW * limits.batch_size)
    windows = itertools.chain([next(windows)], windows)
    with _writing(target) as out:  # what cannot be written is better said now
        if others:
            note(
                f"{predictor.name} of {len(others) + 1} predictors, the best on dev; choose with --split and --method"
            )

        from lmntk.prediction.files import load_predictor
        from lmntk.prompts.remarks import TextCounts

        loaded, started = load_predictor(predictor, wanted.model, device, limits), time.monotonic()
        counts, looks, predicted = TextCounts(), 0, [0] * len(loaded.labels)
        for window in windows:
            encoded = _encoded(loaded, window)
            answers = _answers(loaded, window, encoded)
            with _reporting(target):
                writer.write(out, [row for row, _ in window], answers)
                out.flush()
            for (_, example), text in zip(window, encoded, strict=True):
                counts.add(example, text)
            looks += sum(answer.look for answer in answers)
            for answer in answers:
                predicted[answer.index] += 1
            report(len(window))
    seconds = time.monotonic() - started
    for line in (*counts.remarks(loaded.encoder, option=""), *writer.remarks(), *_remarks(loaded)):
        note(line)
    labelled = loaded.description["counts"]
    shares = (
        None
        if labelled is None
        else compare_shares(loaded.labels, predicted, labelled, loaded.description["decided"])
    )
    if shares is not None and shares["differ"]:
        note(sentence_of(shares))
    return {
        "predictor": str(predictor),
        "texts": counts.total,
        "look": looks,
        "output": target,
        "shares": shares,
        "seconds": seconds,
        "texts_per_second": counts.total / seconds,
    }


def _check_target(target: str, source: str) -> None:
    """Refuse to write over a folder or the input, or into what is no folder.

    Raises:
        UserError: so it would.
    """
    if target == STANDARD:
        return
    path, other = Path(target), Path(source)
    if path.is_dir():
        raise UserError(f"out: {target!r} is a folder; name a file")
    if source != STANDARD and path.is_file() and other.exists() and path.samefile(other):
        raise UserError(f"out: {target!r} is the input; name another file")
    above = next(parent for parent in path.absolute().parents if parent.exists())
    if not above.is_dir():
        raise UserError(f"out: {target!r} is in {above.name!r}, which is not a folder; name another file")


def _windows(texts: TextSource, size: int) -> Iterator[Window]:
    """Yield the texts by so many; at least one window.

    Raises:
        UserError: there is no text, or the first window holds nothing but empty ones.
    """
    examples, is_first = texts.examples(), True
    while window := list(itertools.islice(examples, size)):
        if is_first and all(is_empty(example) for _, example in window):
            raise UserError(
                f"predict: {texts.name!r}: each of the first {len(window)} texts is empty; name another column with --text-column"
            )
        is_first = False
        yield window
    if is_first:
        raise UserError(f"predict: {texts.name!r} holds no text; it needs at least one row")


def _encoded(loaded: LoadedPredictor, window: Window) -> list[EncodedText]:
    from lmntk.prompts.encoding import encode_whole

    encoded = []
    for row, example in window:
        try:
            encoded.append(encode_whole(loaded.encoder, example))
        except UserError as error:
            raise UserError(f"{row.where}: {error}") from None
    return encoded


def _answers(loaded: LoadedPredictor, window: Window, encoded: list[EncodedText]) -> list[Answer]:
    from lmntk.prediction.answers import answers_of

    decisions, _ = loaded.predictor.evaluate(encoded)
    return answers_of(
        [example for _, example in window],
        decisions,
        loaded.predictor.probabilities(decisions),
        loaded.labels,
        loaded.description["solution"]["look_below"],
    )


def _remarks(loaded: LoadedPredictor) -> list[str]:
    """Return what there is to say of the predictor, in a line each."""
    from lmntk.models.apart import MIXES

    predictor = loaded.predictor
    lines = {
        "the probabilities are rough: the labelled texts were too few to fit them": loaded.description["solution"]["rough"],
        MIXES: predictor.apart.mixes,
        "the model has a step without a forward-mode derivative: two backward passes a text, about twice the time":
            predictor.by_two_backward_passes,
    }  # fmt: skip
    return [line for line, holds in lines.items() if holds]


@contextmanager
def _writing(target: str) -> Iterator[IO[str]]:
    """Open the target; a file takes its place when the body has ended without an error.

    Raises:
        UserError: it cannot be written.
    """
    if target == STANDARD:
        yield sys.stdout
        return
    path = Path(target).resolve()  # of a link, what it points to
    is_stream = path.exists() and not path.is_file()  # a pipe or a device: written to, not replaced
    with ExitStack() as stack:
        with _reporting(target):
            temporary = path if is_stream else stack.enter_context(replacing(path))
            # half a character of JSON (\ud800) is no UTF-8; line ends in cells stay as they are
            out = temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="")
        try:
            yield out
        except BaseException:
            with suppress(OSError):  # the first error says it
                out.close()
            raise
        with _reporting(target):
            out.close()
            stack.close()


@contextmanager
def _reporting(target: str) -> Iterator[None]:
    """Turn what the system says of a target into a line.

    Raises:
        UserError: it cannot be written.
    """
    try:
        yield
    except BrokenPipeError as error:
        if target == STANDARD:  # python would try once more at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise UserError(f"out: nobody reads {target!r} any more") from error
    except OSError as error:
        raise UserError(f"out: cannot write {target!r} ({error.strerror}); name another file") from error
