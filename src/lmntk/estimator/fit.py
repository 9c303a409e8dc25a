"""From one labelled file to a folder with a classifier, and what it is worth."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from lmntk.engine.settings import Settings
from lmntk.estimator.choice import Choice, choose_way
from lmntk.estimator.encoders import encoder_of, probe_features
from lmntk.estimator.file_work import FileWork, alone_with, say_remarks, start_work
from lmntk.estimator.given import FitInput
from lmntk.estimator.learning_curve import learning_curve
from lmntk.estimator.predictors import directions_in
from lmntk.estimator.record import ComparedPrompt, FileFindings, FitCost, FitRecord, write_fit
from lmntk.estimator.texts import LabelledTexts
from lmntk.estimator.ways import Measured
from lmntk.experiment.configuration import Fit
from lmntk.models.loading import Pretrained
from lmntk.system.notices import say
from lmntk.system.progress import Progress
from lmntk.tasks.class_words import class_line


@dataclass(frozen=True, eq=False)
class Chosen:
    """A model on its device, the settings it computes with, the texts as it sees them, and the way that they chose.

    Attributes:
        pretrained: the model.
        texts: the labelled ones, by their tokens.
        settings: of the engine.
        choice: what was chosen.
        measured: all ways that it was chosen from, in order.
        work: what they were measured with.
        choice_seconds: that the choice took.
    """

    pretrained: Pretrained
    texts: LabelledTexts
    settings: Settings
    choice: Choice
    measured: tuple[Measured, ...]
    work: FileWork
    choice_seconds: float

    @property
    def compared(self) -> list[ComparedPrompt]:
        """The prompts that it was chosen from, where there were several, each with the share of folds that chose it."""
        taken = self.choice.taken or (0.0,) * len(self.measured)
        prompts = [(each.way.prompt, share) for each, share in zip(self.measured, taken, strict=True)]
        found = [ComparedPrompt.of(prompt, share) for prompt, share in prompts if prompt is not None]
        return found if len(found) > 1 else []


def fit_file(options: Fit, given: FitInput, progress: Progress) -> FitRecord:
    """Write a classifier of one labelled file to a folder, and return what is known of it.

    With label words the prompts and head mode are compared, without them head mode is taken.

    Args:
        options: the configuration.
        given: what ``read_input`` read.
        progress: told how far it is.

    Raises:
        UserError: a mistake in the prompt or the model.
    """
    with choosing(options, given, progress, "fit") as chosen:
        choice = chosen.choice
        progress.phase("the learning curve")
        began = time.monotonic()
        curve = learning_curve(chosen.measured, chosen.texts, choice.held_out, seed=options.seed)
        cost = FitCost(
            texts=len(chosen.texts.examples),
            forward=chosen.work.forward,
            backward=chosen.work.backward,
            kernel_seconds=chosen.work.seconds,
            choice_seconds=chosen.choice_seconds,
            curve_seconds=time.monotonic() - began,
        )
        return write_fit(
            options,
            texts=chosen.texts,
            prompt=choice.measured.way.prompt,
            choice=choice,
            directions=directions_in(choice, chosen.settings),
            pretrained=chosen.pretrained,
            findings=FileFindings(chosen.compared, curve, cost),
        )


@contextmanager
def choosing(
    options: Fit,
    given: FitInput,
    progress: Progress,
    owner_name: str,
    check: Callable[[LabelledTexts], None] = lambda texts: None,
) -> Iterator[Chosen]:
    """Yield the chosen way of a labelled file while its folder is this process's alone; what is left of the work goes afterwards.

    Args:
        options: the configuration.
        given: what ``read_input`` read.
        progress: told how far it is.
        owner_name: of the command, whose unfinished work in the folder is its own.
        check: called once it is known which texts are one to the model.

    Raises:
        UserError: a mistake in the prompt or the model.
    """
    texts, prompts = given.texts, given.prompts
    has_prompt, has_head = bool(prompts) and options.mode != "head", options.mode != "prompt"
    modes = ["prompt"] * has_prompt + ["head"] * has_head
    work, owner = start_work(options, given, progress, owner_name, modes)
    asked = [work.way("prompt", prompt) for prompt in prompts] if has_prompt else []
    ways = asked + ([work.way("head")] if has_head else [])
    for words in dict.fromkeys(prompt.words for prompt in prompts if has_prompt) or (given.words,):
        progress.note(class_line(texts.labels, words))  # after all that can be wrong: a mistake is one line
    say_remarks(texts, ways)
    if texts.are_few and len(asked) > 1:
        say(f"there are too few texts to choose among {len(asked)} prompts: the first is taken")
        ways = [way for way in ways if way not in asked[1:]]
    texts = texts.as_tokens(*(way.encoded(texts.examples) for way in ways))
    check(texts)
    with alone_with(work, owner):
        measured = [
            work.measure(
                way, f"prompt {number + 1} of {len(asked)}" if way in asked and len(asked) > 1 else ""
            )
            for number, way in enumerate(ways)
        ]
        encoder = encoder_of(work.pretrained, "head", work.prompt(None))
        features = probe_features(work.pretrained, encoder, texts.examples, work.settings.batch_size)
        began = time.monotonic()
        choice = choose_way(measured, texts, features, seed=options.seed)
        yield Chosen(
            work.pretrained, texts, work.settings, choice, tuple(measured), work, time.monotonic() - began
        )
