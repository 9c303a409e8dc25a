"""``lmntk predict``: from texts in a file of any length to classes and probabilities, in constant memory."""

from __future__ import annotations

import gzip
import itertools
import json
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any

from lmntk.errors import UserError
from lmntk.prediction.files import LoadedPredictor, WantedPredictor, find_predictor, load_predictor
from lmntk.prediction.predictor import PassLimits
from lmntk.solvers.selection import predict_labels
from lmntk.system.files import replacing
from lmntk.system.memory import default_memory
from lmntk.tasks.example import Example
from lmntk.tasks.rows import Row, missing

WINDOW = 64  # batches that are sorted by length together, and held at once
STANDARD = "-"  # stdin, stdout

Report = Callable[[int], None]  # texts done since the last call


def predict_file(
    model_dir: Path,
    source: str,
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
        source: JSON lines with ``text_a`` (or ``text``) and perhaps ``text_b``; also with ``.gz``; ``-`` is stdin.
        target: where the lines go; a file appears whole, at the end; ``-`` is stdout, window by window.
        wanted: which predictor of a run's folder, and where its pre-trained model is now; the best on dev by default.
        limits: texts in one pass, and the memory; by default half of the machine's.
        device: where to compute.
        note: told what is worth reading once.
        report: told how many texts are done.

    Cost: about three forward passes a text. Memory: the model, v, and ``WINDOW`` batches of texts.

    Raises:
        UserError: no predictor, another model, a line that is no text; the target is not written then.
    """
    if source != STANDARD and (
        not Path(source).exists() or Path(source).is_dir()
    ):  # a pipe is read as it comes
        raise UserError(f"input: {missing(Path(source))}")
    if target != STANDARD and Path(target).is_dir():
        raise UserError(f"output: {target!r} is a folder; name a file")
    if target != STANDARD and source != STANDARD and Path(target).resolve() == Path(source).resolve():
        raise UserError(f"output: {target!r} is the input; name another file")
    wanted, limits = wanted or WantedPredictor(), limits or PassLimits(memory=default_memory())
    folder, others = find_predictor(model_dir, wanted)
    if others:
        note(
            f"{folder.name} of {len(others) + 1} predictors, the best on dev; choose with --split and --method"
        )
    loaded = load_predictor(folder, wanted.model, device, limits)
    started, count = time.monotonic(), 0
    with ExitStack() as stack:
        lines = stack.enter_context(_reading(source))
        out = stack.enter_context(_writing(target))
        examples = _examples(lines, source)
        while window := list(itertools.islice(examples, WINDOW * limits.batch_size)):
            for line in _classified(loaded, window):
                out.write(line)
            out.flush()
            count += len(window)
            report(len(window))
        if count == 0:
            raise UserError(f"input: {source!r} holds no text; write one JSON object a line")
    if loaded.predictor.by_two_backward_passes:
        note(
            "the model has a step without a forward-mode derivative: two backward passes a text, about twice the time"
        )
    seconds = time.monotonic() - started
    return {
        "predictor": str(folder),
        "texts": count,
        "output": target,
        "seconds": seconds,
        "texts_per_second": count / seconds,
    }


def _classified(loaded: LoadedPredictor, window: list[tuple[str, Example]]) -> Iterator[str]:
    encoded = []
    for where, example in window:
        try:
            encoded.append(loaded.encoder.encode(example))
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
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
def _reading(source: str) -> Iterator[IO[str]]:
    if source == STANDARD:
        yield sys.stdin
        return
    if source.lower().endswith(".gz"):
        with gzip.open(source, "rt", encoding="utf-8-sig") as lines:
            yield lines
    else:
        with Path(source).open(encoding="utf-8-sig") as lines:
            yield lines


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


def _examples(lines: IO[str], source: str) -> Iterator[tuple[str, Example]]:
    """Yield each line's text with its place, as it comes."""
    name = "stdin" if source == STANDARD else source
    numbered = enumerate(lines, start=1)
    while True:
        try:
            number, line = next(numbered)
        except StopIteration:
            return
        except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"input: {name} cannot be read ({reason}); save it as UTF-8 text, or copy it again"
            ) from error
        if not line.strip():
            continue
        where = f"{name} line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{where}: not JSON ({' '.join(str(error).split())}); write one object a line"
            ) from error
        if not isinstance(record, dict):
            raise UserError(f"{where}: a JSON object is needed, with text_a and perhaps text_b")
        row = Row(where, record)
        text_b = row.text("text_b") if record.get("text_b") is not None else None
        yield (
            where,
            Example(row.text("text" if "text" in record and "text_a" not in record else "text_a"), text_b),
        )
