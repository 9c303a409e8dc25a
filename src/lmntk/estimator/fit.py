"""From one labelled file to a folder with a classifier, and what it is worth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lmntk.engine.batches import Capturer
from lmntk.engine.settings import Settings
from lmntk.engine.work import WorkOwner
from lmntk.engine.work_folder import WorkFolder
from lmntk.estimator.choice import Choice, choose_way
from lmntk.estimator.encoders import Prompt, encoder_of, probe_features
from lmntk.estimator.given import FitInput
from lmntk.estimator.record import FitRecord, write_fit
from lmntk.estimator.solved import KERNELS
from lmntk.estimator.texts import LabelledTexts
from lmntk.estimator.ways import Measured, Way, measure, pieces_of, way_of
from lmntk.experiment.configuration import Fit
from lmntk.experiment.start import filter_of, load, settings_of
from lmntk.models.loading import Pretrained
from lmntk.prediction.direction_memory import DirectionMemory
from lmntk.prediction.directions import directions_of
from lmntk.prompts.remarks import TextCounts
from lmntk.system.files import alone_in
from lmntk.system.notices import say
from lmntk.system.progress import Progress
from lmntk.tasks.class_words import class_line


@dataclass(frozen=True, eq=False)
class Chosen:
    """A model on its device, the settings it computes with, and the way that was chosen by held-out texts."""

    pretrained: Pretrained
    settings: Settings
    choice: Choice


def fit_file(options: Fit, given: FitInput, progress: Progress) -> FitRecord:
    """Write a classifier of one labelled file to a folder, and return what is known of it.

    With label words the prompt and head mode are compared, without them head mode is taken.

    Args:
        options: the configuration.
        given: what ``read_input`` read.
        progress: told how far it is.

    Raises:
        UserError: a mistake in the prompt or the model.
    """
    with choosing(options, given, progress, "fit") as chosen:
        choice = chosen.choice
        return write_fit(
            options,
            texts=given.texts,
            words=given.words,
            choice=choice,
            directions=[direction_of(choice, chosen.settings)] if choice.has_direction else [],
            pretrained=chosen.pretrained,
        )


@contextmanager
def choosing(options: Fit, given: FitInput, progress: Progress, owner_name: str) -> Iterator[Chosen]:
    """Yield the chosen way of a labelled file while its folder is this process's alone; what is left of the work goes afterwards.

    Args:
        options: the configuration.
        given: what ``read_input`` read.
        progress: told how far it is.
        owner_name: of the command, whose unfinished work in the folder is its own.

    Raises:
        UserError: a mistake in the prompt or the model.
    """
    texts, words = given.texts, given.words
    prompt = Prompt(options.template, words, options.label_words_reduce, options.max_length, options.chat)
    modes = prompt.modes(options.mode)
    owner = WorkOwner(options.out, (owner_name,))
    settings = settings_of(options, options.out, owner)
    pretrained = load(options, modes)
    encoders = {mode: encoder_of(pretrained, mode, prompt) for mode in dict.fromkeys((*modes, "head"))}
    chosen = filter_of(options)
    ways = [
        way_of(
            pretrained, mode, encoders[mode], texts.labels, chosen, seed=options.seed, sharing=options.classes
        )
        for mode in modes
    ]
    progress.note(class_line(texts.labels, words))  # after all that can be wrong: a mistake is one line
    _say_remarks(texts, ways)
    with alone_in(options.out):
        measured = [_measured(way, texts, settings, options, progress) for way in ways]
        features = probe_features(pretrained, encoders["head"], texts.examples, settings.batch_size)
        yield Chosen(pretrained, settings, choose_way(measured, texts, features, seed=options.seed))
        for way in ways:
            for piece in pieces_of(way, texts.examples):
                WorkFolder.finish(settings, piece)
        WorkFolder.sweep(owner, settings.scratch)


def _say_remarks(texts: LabelledTexts, ways: Sequence[Way]) -> None:
    for way in ways:
        counts = TextCounts()
        for example, encoded in zip(texts.examples, way.encoded(texts.examples), strict=True):
            counts.add(example, encoded)
        for line in counts.remarks(way.encoder):
            say(f"{way.mode}: {line}")


def _measured(
    way: Way, texts: LabelledTexts, settings: Settings, options: Fit, progress: Progress
) -> Measured:
    n, c, lengths = (
        len(texts.examples),
        way.singles[0].outputs,
        [text.length for text in way.encoded(texts.examples)],
    )
    # in operations of a parameter: passes of a text, and the product of a pair
    per_text, per_pair = 6.0 * c * sum(lengths) / n, 2.0 * c * c
    progress.work(f"{way.mode}: {n} texts", len(way.singles) * (per_text * n + per_pair * n * n))
    return measure(
        way,
        texts.examples,
        settings,
        options.out / KERNELS,
        lambda estimate: progress.note(f"{way.mode}: {estimate.describe()}"),
        lambda captured, contracted: progress.advance(per_text * captured + per_pair * contracted),
    )


def direction_of(choice: Choice, settings: Settings) -> dict[str, Any]:
    """Return the direction of the chosen solution, which is no lack of training."""
    assert choice.form is not None
    way, texts = choice.measured.way, choice.measured.texts
    capturer = Capturer(way.model, way.trainable, way.pad_id, texts, settings.batch_size, gpu=settings.gpu)
    cut = DirectionMemory(capturer, settings).cut(1, settings.batch_size, signs=False)
    capturer.batch_size = cut.batch_size
    (direction,) = directions_of(capturer, texts, choice.form, "sgd", at_once=cut.at_once)
    return direction
