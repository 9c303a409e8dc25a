"""From one labelled file to a folder with a classifier, and what it is worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lmntk.engine.batches import Capturer
from lmntk.engine.settings import Settings
from lmntk.engine.work import WorkOwner
from lmntk.engine.work_folder import WorkFolder
from lmntk.estimator.choice import Choice, choose_way
from lmntk.estimator.encoders import Prompt, encoder_of, probe_features
from lmntk.estimator.given import FitInput
from lmntk.estimator.record import FitRecord, write_fit
from lmntk.estimator.texts import LabelledTexts
from lmntk.estimator.ways import Measured, Way, measure, pieces_of, way_of
from lmntk.experiment.configuration import Fit
from lmntk.experiment.start import filter_of, load, settings_of
from lmntk.prediction.direction_memory import DirectionMemory
from lmntk.prediction.directions import directions_of
from lmntk.prompts.remarks import TextCounts
from lmntk.system.files import alone_in
from lmntk.system.notices import say
from lmntk.system.progress import Progress
from lmntk.tasks.class_words import class_line

KERNELS = "kernels"  # the name of the folder in a fit's


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
    texts, words = given.texts, given.words
    prompt = Prompt(options.template, words, options.label_words_reduce, options.max_length, options.chat)
    modes = prompt.modes(options.mode)
    owner = WorkOwner(options.out, ("fit",))
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
        choice = choose_way(measured, texts, features, seed=options.seed)
        directions = [direction_of(choice, settings)] if choice.has_direction else []
        record = write_fit(
            options,
            texts=texts,
            words=words,
            choice=choice,
            directions=directions,
            pretrained=pretrained,
        )
        for way in ways:
            for piece in pieces_of(way, texts.examples):
                WorkFolder.finish(settings, piece)
        WorkFolder.sweep(owner, settings.scratch)
    return record


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
