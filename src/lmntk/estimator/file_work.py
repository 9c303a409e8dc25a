"""The work on one labelled file: a model, its settings, and the ways in which the texts are put to it, measured in a folder."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from lmntk.engine.estimate import Estimate
from lmntk.engine.settings import Settings
from lmntk.engine.work import WorkOwner
from lmntk.engine.work_folder import WorkFolder
from lmntk.estimator.encoders import Prompt, encoder_of
from lmntk.estimator.given import FitInput, PromptText
from lmntk.estimator.texts import LabelledTexts
from lmntk.estimator.ways import Measured, Way, can_be_shared, measure, pieces_of, way_of
from lmntk.experiment.configuration import Fit, Prompts
from lmntk.experiment.start import filter_of, load, settings_of
from lmntk.kernels.low_rank import TrainedPart
from lmntk.models.loading import Pretrained
from lmntk.prompts.remarks import TextCounts
from lmntk.solvers.shared import SIGNS
from lmntk.system.files import alone_in
from lmntk.system.notices import say
from lmntk.system.progress import Progress

KERNELS = "kernels"  # the name of the folder in a fit's
LONG = 600.0  # seconds of a kernel, from which on a cheaper form is named


@dataclass(frozen=True, eq=False)
class FileWork:
    """A model on its device, and what one labelled file's texts are measured with.

    Attributes:
        options: the configuration.
        texts: the labelled ones.
        pretrained: the model.
        settings: of the engine.
        progress: told how far it is.
        measured: the ways so far.
        spent: of each way the seconds that its kernel took, and its forward and backward passes of a text; none of one that was read.
    """

    options: Fit | Prompts
    texts: LabelledTexts
    pretrained: Pretrained
    settings: Settings
    progress: Progress
    measured: list[Way] = field(default_factory=list)
    spent: list[tuple[float, int, int]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """The seconds of all kernels."""
        return sum(seconds for seconds, _, _ in self.spent)

    @property
    def forward(self) -> int:
        """The forward passes of a text."""
        return sum(forward for _, forward, _ in self.spent)

    @property
    def backward(self) -> int:
        """The backward passes of a text."""
        return sum(backward for _, _, backward in self.spent)

    def prompt(self, given: PromptText | None) -> Prompt:
        """Return a prompt with the options that all share; without a template and words it is head mode's."""
        template, words = (None, None) if given is None else (given.template, given.words)
        options = self.options
        return Prompt(template, words, options.label_words_reduce, options.max_length, options.chat)

    def way(self, mode: str, given: PromptText | None = None) -> Way:
        """Return a way in which the texts are put to the model.

        Raises:
            UserError: the prompt does not fit the model.
        """
        options, prompt = self.options, self.prompt(given)
        way = way_of(
            self.pretrained, mode, encoder_of(self.pretrained, mode, prompt), self.texts.labels, filter_of(options),
            seed=options.seed, sharing=options.classes, trained=trained_of(options),
        )  # fmt: skip
        return way if given is None else replace(way, prompt=prompt)

    def measure(self, way: Way, title: str = "") -> Measured:
        """Return a way's kernel and logits, read from the folder where an earlier call left them."""
        name, examples = title or way.mode, self.texts.examples
        n, c, length = (
            len(examples),
            way.singles[0].outputs,
            sum(text.length for text in way.encoded(examples)),
        )
        # in operations of a parameter: passes of a text, and the product of a pair
        per_text, per_pair = 6.0 * c * length / n, 2.0 * c * c
        self.progress.work(f"{name}: {n} texts", len(way.singles) * (per_text * n + per_pair * n * n))

        def announce(estimate: Estimate) -> None:
            self.progress.note(f"{name}: {estimate.describe()}")
            shareable = self.options.classes == "auto" and can_be_shared(way)
            shareable &= getattr(self.options, "trust", None) is None  # no training has a shared kernel
            if estimate.seconds > LONG and shareable:
                self.progress.note(
                    f"{name}: a kernel that all classes share takes {SIGNS} products of two texts instead of {c * c}, and is rougher: "
                    "--classes shared"
                )

        captured_texts = 0

        def report(captured: int, contracted: int) -> None:
            nonlocal captured_texts
            captured_texts += captured
            self.progress.advance(per_text * captured + per_pair * contracted)

        began = time.monotonic()
        found = measure(
            way,
            examples,
            self.settings,
            self.options.out / KERNELS,
            None if any(each.mode == way.mode for each in self.measured) else announce,
            report,
        )
        self.spent.append((time.monotonic() - began, captured_texts, c * captured_texts))
        self.measured.append(way)
        return found


@contextmanager
def alone_with(work: FileWork, owner: WorkOwner) -> Iterator[None]:
    """Keep the folder to this process; what is left of the engine's work goes afterwards."""
    with alone_in(work.options.out):
        yield
        for way in work.measured:
            for piece in pieces_of(way, work.texts.examples):
                WorkFolder.finish(work.settings, piece)
        WorkFolder.sweep(owner, work.settings.scratch)


def start_work(
    options: Fit | Prompts, given: FitInput, progress: Progress, owner_name: str, modes: Sequence[str]
) -> tuple[FileWork, WorkOwner]:
    """Return the work on a labelled file, with the model loaded, and the owner of what the engine leaves.

    Raises:
        UserError: a mistake in the model.
    """
    owner = WorkOwner(options.out, (owner_name,))
    settings = settings_of(options, options.out, owner)
    return FileWork(options, given.texts, load(options, modes), settings, progress), owner


def say_remarks(texts: LabelledTexts, ways: Sequence[Way]) -> None:
    """Say what there is to be said of the texts in each way, the same line once."""
    said = set()
    for way in ways:
        counts = TextCounts()
        for example, encoded in zip(texts.examples, way.encoded(texts.examples), strict=True):
            counts.add(example, encoded)
        for line in counts.remarks(way.encoder):
            if (way.mode, line) not in said:
                said.add((way.mode, line))
                say(f"{way.mode}: {line}")


def trained_of(options: Fit | Prompts) -> TrainedPart:
    """Return what trains by the options; of LoRA's A the fit's own seed. Prompts are compared with all parameters."""
    if not isinstance(options, Fit):
        return TrainedPart()
    return TrainedPart(
        options.lora_rank, options.lora_targets, options.lora_alpha, options.train_only, options.seed
    )
