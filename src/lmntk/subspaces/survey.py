"""All candidates measured on the same labelled texts, their kernels from one pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lmntk.diagnosis.spectrum import shares_of
from lmntk.engine.estimate import Estimate
from lmntk.engine.kernel_work import KernelWork
from lmntk.engine.progress import Listener
from lmntk.engine.settings import Settings
from lmntk.engine.stream import stream_kernels
from lmntk.estimator.choice import folds_of
from lmntk.estimator.texts import LabelledTexts
from lmntk.estimator.ways import Way, key_of
from lmntk.kernels.gram import EVERYTHING as ALL
from lmntk.solvers.inputs import Array, Labels
from lmntk.subspaces.candidates import EVERYTHING, HEAD, Contest, Contestant
from lmntk.subspaces.measures import Measures, Question, measures_of
from lmntk.system.hashing import Key
from lmntk.system.kept import is_whole, load_arrays, metadata_of, or_none, save_tensors

SGD, ADAM = "sgd", "asigngd"


@dataclass(frozen=True, eq=False)
class Entry:
    """A contestant with the measures of each of its draws."""

    contestant: Contestant
    draws: tuple[Measures, ...]

    @property
    def correct(self) -> Array:
        """The share of rounds and draws in which each text is classified rightly, held out [N]."""
        return np.asarray(np.mean([draw.correct for draw in self.draws], axis=0))

    def mean(self, value: Callable[[Measures], float | None]) -> float | None:
        """Return the mean of a measure over the draws; None where one draw has none."""
        values = [each for draw in self.draws if (each := value(draw)) is not None]
        return float(np.mean(values)) if len(values) == len(self.draws) else None

    def deviation(self, value: Callable[[Measures], float | None]) -> float | None:
        """Return the standard deviation of a measure over the draws; None of a single draw."""
        values = [each for draw in self.draws if (each := value(draw)) is not None]
        return float(np.std(values, ddof=1)) if len(values) > 1 else None


@dataclass(frozen=True, eq=False)
class Survey:
    """All entries, all parameters first, and the share of each part in the whole kernel's trace, by its name."""

    entries: tuple[Entry, ...]
    shares: Mapping[str, float]

    @property
    def everything(self) -> Entry:
        """Training of all parameters."""
        return self.entries[0]


@dataclass(frozen=True, eq=False)
class Kernels:
    """Kernels [N, C, N, C] by candidate and formula, and the pre-trained logits [N, C]."""

    values: Mapping[tuple[str, str], Array]
    logits: Array


def kernels_of(
    way: Way,
    texts: LabelledTexts,
    contest: Contest,
    settings: Settings,
    folder: Path,
    *,
    adam: bool = False,
    announce: Callable[[Estimate], None] | None = None,
    report: Callable[[int, int], None] = lambda captured, contracted: None,
) -> Kernels:
    """Return the kernels of all candidates; those that the folder has of an earlier survey are read.

    Cost: a forward and C backward passes a text; for each pair and adapted weight two products of the largest rank.
    """
    formulas = [SGD, ADAM] if adam else [SGD]
    key = survey_key(way, texts, contest, adam=adam)
    path = folder / f"kernels-{key.short}.safetensors"
    kept = _kept(path, key)
    if kept is not None:
        return kept
    work = KernelWork(
        way.model,
        {"train": way.encoded(texts.examples)},
        [("train", "train")],
        formulas,
        way.trainable,
        way.pad_id,
        contest.subspaces,
    )
    streamed = stream_kernels(work, settings, Listener(report, announce), key.digest)
    pair = ("train", "train")
    values = {
        (EVERYTHING, formula): streamed.kernels[pair][formula][ALL].cpu().numpy() for formula in formulas
    }
    for name, by_formula in streamed.subspaces[pair].items():
        values |= {(name, formula): by_formula[formula].cpu().numpy() for formula in formulas}
    logits = streamed.logits["train"].cpu().numpy()
    tensors = {f"{formula}|{name}": array for (name, formula), array in values.items()}
    save_tensors(path, tensors | {"logits": logits}, {"key": key.digest})
    return Kernels(values, logits)


def survey_key(way: Way, texts: LabelledTexts, contest: Contest, *, adam: bool) -> Key:
    """Return all that the kernels depend on."""
    return key_of(way, texts.examples).also(subspaces=contest.subspaces.as_dict(), adam=adam)


def survey(way: Way, texts: LabelledTexts, contest: Contest, kernels: Kernels, seed: int = 0) -> Survey:
    """Return the measures of all candidates on the same texts and folds.

    In head mode the head trains beside LoRA: its kernel is added to each candidate's.
    """
    rounds: Sequence[Sequence[Labels]] = ()
    if texts.are_enough:
        rounds = folds_of(texts, kernels.logits.shape[1], seed)
    question = Question(texts.numbers, kernels.logits, kernels.logits if way.has_logits else None, rounds)
    values = kernels.values
    entries = []
    for contestant in contest.contestants:
        draws = []
        for member in contestant.members:
            mine, adapted, signs = (
                _with_head(values, contestant, name, formula)
                for name, formula in ((member, SGD), (contestant.adapted, SGD), (member, ADAM))
            )
            assert mine is not None  # every member's kernel was asked for
            pair = None if signs is None else (signs, values[EVERYTHING, ADAM])
            draws.append(measures_of(mine, values[EVERYTHING, SGD], question, adapted, pair))
        entries.append(Entry(contestant, tuple(draws)))
    shares = {name: float(np.einsum("ncnc->", values[name, SGD])) for name in contest.shares}
    layers, types = (
        {name: each for name, each in shares.items() if name.startswith(kind)}
        for kind in ("layer: ", "type: ")
    )
    return Survey(tuple(entries), shares_of(layers) | shares_of(types))


def _with_head(
    values: Mapping[tuple[str, str], Array], contestant: Contestant, name: str | None, formula: str
) -> Array | None:
    """Return a candidate's kernel; LoRA's with the head's, where a head trains beside it."""
    if name is None or (name, formula) not in values:
        return None
    kernel = values[name, formula]
    if contestant.rank is not None and (HEAD, formula) in values:
        return np.asarray(kernel + values[HEAD, formula])
    return kernel


def _kept(path: Path, key: Key) -> Kernels | None:
    def read() -> Kernels | None:
        if metadata_of(path).get("key") != key.digest:
            return None
        arrays = load_arrays(path)[0]
        values = {}
        for name, array in arrays.items():
            formula, _, candidate = name.partition("|")
            if candidate:
                values[candidate, formula] = np.asarray(array)
        return Kernels(values, np.asarray(arrays["logits"]))

    return or_none(read) if is_whole(path) else None
