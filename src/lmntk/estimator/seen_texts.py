"""Gradients and kernel entries of the texts that a process has seen, each computed once, whichever estimator asks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from threading import RLock
from typing import ParamSpec, TypeVar

import numpy as np

from lmntk.engine.batches import Capturer
from lmntk.engine.settings import Settings
from lmntk.engine.stream import stream_kernels
from lmntk.estimator.ways import Way
from lmntk.finetuning.logits import logits_of
from lmntk.kernels.gram import EVERYTHING, Panel, gram
from lmntk.models.loading import Pretrained, load_pretrained
from lmntk.models.logit_model import LogitModel
from lmntk.prompts.encoding import EncodedText
from lmntk.solvers.inputs import Array
from lmntk.system.devices import move_to
from lmntk.tangents.factors import Tangents
from lmntk.tasks.example import Example

SHARE = 4  # of the memory that an estimator may take, one part in so many goes to gradients and the kernel
MOST_TEXTS = 4096  # whose kernel entries are kept
MOST_WAYS, MOST_MODELS = 4, 2

Text = tuple[str, str | None]


class SeenTexts:
    """The ``sgd`` kernel and the pre-trained logits of texts, as they come.

    What is known of a text stays until the gradients and the kernel of all take more than a quarter of the memory, or there are more than
    4,096 texts; then all is forgotten, and what is asked for is computed anew.

    Args:
        way: which.
        settings: batches and memory.
        model: the way's model, or one of those whose kernels are added up.

    Attributes:
        differentiated: texts whose gradients were taken so far.
    """

    def __init__(self, way: Way, settings: Settings, model: LogitModel | None = None) -> None:
        self.way, self.settings = way, settings
        self.model = way.model if model is None else model
        self.differentiated = 0
        self._capturer: Capturer | None = None
        self._forget()

    def kernel(self, rows: Sequence[Example], columns: Sequence[Example]) -> Array:
        """Return K [n, c, m, c] between texts, float64, c being the outputs of the way's model."""
        if not self._see([*rows, *columns]):
            return self._streamed(rows, columns)
        chosen = np.ix_(self._numbers_of(rows), range(self._c), self._numbers_of(columns), range(self._c))
        return np.asarray(self._values[chosen])

    def logits(self, examples: Sequence[Example]) -> Array:
        """Return the pre-trained logits [n, C] of texts, float64."""
        if not self._see(examples):
            return self._streamed_logits(examples)
        return self.way.of_classes(self._logits[self._numbers_of(examples)])

    def knows(self, examples: Sequence[Example]) -> int:
        """Return how many of the texts are known."""
        return sum(_name(example) in self._numbers for example in examples)

    def adopt(self, settings: Settings) -> None:
        """Go on with other settings, such as less memory."""
        self.settings = settings

    @property
    def _c(self) -> int:
        return self.model.outputs

    def _forget(self) -> None:
        self._numbers: dict[Text, int] = {}
        self._batches: list[Tangents] = []
        self._values = np.zeros((0, self._c, 0, self._c))
        self._logits = np.zeros((0, self._c))

    def _numbers_of(self, examples: Sequence[Example]) -> list[int]:
        return [self._numbers[_name(example)] for example in examples]

    def _see(self, examples: Sequence[Example]) -> bool:
        """Compute what is not known of the texts, and return whether there is room for all of it."""
        asked = {_name(example): example for example in examples}
        if len(asked) > MOST_TEXTS:
            return False
        for _ in range(2):
            missing = {name: example for name, example in asked.items() if name not in self._numbers}
            if not missing:
                return True
            if len(self._numbers) + len(missing) <= MOST_TEXTS and self._take_in(missing):
                return True
            self._forget()
        return False

    def _take_in(self, missing: dict[Text, Example]) -> bool:
        names, texts = list(missing), self.way.encoded(list(missing.values()))
        capturer = self._capturer_for(texts)
        held, most = sum(batch.nbytes for batch in self._batches), self.settings.memory // SHARE
        held += (
            8 * ((len(self._numbers) + len(names)) * self._c) ** 2
        )  # K, which of many texts or classes is the larger part
        batches: list[Tangents] = []
        order: list[int] = []
        for chosen in capturer.batches(texts):
            captured = capturer.of_batch([texts[number] for number in chosen])
            batches += [self.way.own(tangents) for tangents in captured]
            order += chosen
            self.differentiated += len(chosen)
            if held + sum(batch.nbytes for batch in batches) > most:
                return False
        before, new = len(self._numbers), Panel(batches)
        within = gram(new, new, ["sgd"])["sgd"][EVERYTHING].cpu().numpy()
        size = before + len(order)
        values = np.zeros((size, self._c, size, self._c))
        values[:before, :, :before] = self._values
        values[before:, :, before:] = within
        if before:
            across = gram(Panel(self._batches), new, ["sgd"])["sgd"][EVERYTHING].cpu().numpy()
            values[:before, :, before:] = across
            values[before:, :, :before] = across.transpose(2, 3, 0, 1)
        logits = [batch.logits.double().cpu().numpy() for batch in batches]
        self._values, self._logits = values, np.concatenate([self._logits, *logits])
        self._batches += batches
        self._numbers |= {names[number]: before + place for place, number in enumerate(order)}
        return True

    def _capturer_for(self, texts: Sequence[EncodedText]) -> Capturer:
        """Return what captures texts; it is compared with autograd anew where a text is longer than all before."""
        longest = max(text.length for text in texts)
        if self._capturer is None or longest > self._capturer.longest[-1].length:
            way = self.way
            self._capturer = Capturer(
                self.model, way.trainable, way.pad_id, texts, self.settings.batch_size, gpu=self.settings.gpu
            )
        return self._capturer

    def _streamed(self, rows: Sequence[Example], columns: Sequence[Example]) -> Array:
        way = self.way
        self._forget()
        texts = {"rows": way.encoded(rows), "columns": way.encoded(columns)}
        self.differentiated += len(rows) + len(columns)
        pair = ("rows", "columns")
        return way.kernel_in(stream_kernels(way.work(self.model, texts, pair), self.settings), pair)

    def _streamed_logits(self, examples: Sequence[Example]) -> Array:
        encoded = self.way.encoded(examples)
        logits = logits_of(self.model, encoded, self.way.pad_id, self.settings.batch_size).numpy()
        return self.way.of_classes(logits)


class SharedTexts(SeenTexts):
    """The same of a kernel that many classes share: the sum over combinations of their logits."""

    def __init__(self, way: Way, settings: Settings) -> None:
        super().__init__(way, settings)
        self.singles = [SeenTexts(way, settings, single) for single in way.singles]

    def adopt(self, settings: Settings) -> None:
        """Go on with other settings, such as less memory."""
        super().adopt(settings)
        for single in self.singles:
            single.adopt(settings)

    def kernel(self, rows: Sequence[Example], columns: Sequence[Example]) -> Array:
        """Return the shared kernel [n, 1, m, 1] between texts, float64."""
        parts = [single.kernel(rows, columns) for single in self.singles]
        self.differentiated = sum(single.differentiated for single in self.singles)
        return np.asarray(sum(parts) / self.way.divisor)

    def logits(self, examples: Sequence[Example]) -> Array:
        """Return the pre-trained logits [n, C] of texts, float64."""
        return self._streamed_logits(examples)

    def knows(self, examples: Sequence[Example]) -> int:
        """Return how many of the texts are known."""
        return self.singles[0].knows(examples)


_MODELS: OrderedDict[tuple[object, ...], Pretrained] = OrderedDict()
_SEEN: OrderedDict[str, SeenTexts] = OrderedDict()
_TURN = RLock()
Given = ParamSpec("Given")
Got = TypeVar("Got")


def one_at_a_time(method: Callable[Given, Got]) -> Callable[Given, Got]:
    """Return a function that waits until no other of its kind is at work: what threads share is one network and what it has seen."""

    @wraps(method)
    def alone(*arguments: Given.args, **named: Given.kwargs) -> Got:
        with _TURN:
            return method(*arguments, **named)

    return alone


def shared_model(name: str, dtype: str = "float32", device: str = "auto") -> Pretrained:
    """Return a model; of the last two that were asked for the process keeps what it loaded, as long as its files are the same."""
    key = (name, dtype, device, *_files_of(name))
    if key not in _MODELS:
        pretrained = load_pretrained(name, dtype)
        move_to(pretrained, device)
        _MODELS[key] = pretrained
        while len(_MODELS) > MOST_MODELS:
            _MODELS.popitem(last=False)
    _MODELS.move_to_end(key)
    return _MODELS[key]


def _files_of(name: str) -> list[tuple[str, int, int]]:
    """Return path, size and time of the files of a local model: of one that was trained again they are others."""
    path = Path(name).expanduser().resolve()
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    found = [(str(file), file.stat()) for file in files if file.is_file()]
    return [(file, stat.st_size, stat.st_mtime_ns) for file, stat in found]


def shared_texts(way: Way, settings: Settings) -> SeenTexts:
    """Return what the process has seen of a way; of the last four ways it is kept."""
    key = f"{way.key.digest} {next(way.model.parameters()).device}"
    if key not in _SEEN:
        made = SeenTexts if way.combinations is None else SharedTexts
        _SEEN[key] = made(way, settings)
        while len(_SEEN) > MOST_WAYS:
            _SEEN.popitem(last=False)
    _SEEN.move_to_end(key)
    _SEEN[key].adopt(settings)
    return _SEEN[key]


def forget() -> None:
    """Let go of all models and gradients that the process's estimators share."""
    _MODELS.clear()
    _SEEN.clear()


def _name(example: Example) -> Text:
    return example.text_a, example.text_b
