"""Label words that the model itself proposes at the mask, anew for whatever texts are left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from lmntk.errors import UserError
from lmntk.estimator.file_work import FileWork
from lmntk.estimator.given import PromptText
from lmntk.estimator.texts import LabelledTexts
from lmntk.finetuning.logits import logits_of
from lmntk.models.logit_model import PromptModel
from lmntk.models.vocabulary import head_weight
from lmntk.prompts.encoding import EncodedText
from lmntk.prompts.label_words import space_before
from lmntk.prompts.tokenization import PieceEncoder, Space
from lmntk.solvers.folds import deal_folds
from lmntk.solvers.held_out import Candidates
from lmntk.solvers.inputs import Array, Labels

FOLDS, ROUNDS = 5, 2  # each fold, and each pair of them, may have words of its own, and so a kernel
LIKELIEST = 100  # words of a class from which those are taken that it says more than the others do
LETTERS = 3  # of the shortest word


def proposing_folds(texts: LabelledTexts, seed: int) -> list[list[Labels]]:
    """Return the rounds of folds where words are proposed in each: fewer and larger ones than a fit's."""
    return deal_folds(texts.numbers, texts.names, rounds=ROUNDS, most=FOLDS, seed=seed)


def real_words(tokenizer: Any, space: Space, rows: int) -> dict[int, str]:
    """Return the tokens that are whole words of letters, in small ones: what the token is cut from is that word again.

    No dictionary is asked: a name or a foreign word is a word too, and some vocabularies have beginnings of words that stand alone.

    Args:
        tokenizer: the model's.
        space: what is before a label word.
        rows: how many tokens the network knows.
    """
    pieces, found = PieceEncoder(tokenizer), {}
    for number in range(min(len(tokenizer), rows)):
        token = tokenizer.convert_ids_to_tokens(number)
        if token is None:
            continue
        word = str(tokenizer.convert_tokens_to_string([token])).strip()
        is_word = len(word) >= LETTERS and word.isalpha() and word == word.lower()
        if is_word and pieces.encode(word, space) == [number]:
            found[number] = word
    return found


def vocabulary_of(work: FileWork, count: int) -> dict[int, str]:
    """Return the words that a model can propose so many sets of.

    Raises:
        UserError: it has too few.
    """
    tokenizer, head = work.pretrained.tokenizer, head_weight(work.pretrained.network)
    rows = len(tokenizer) if head is None else len(head)
    words, classes = real_words(tokenizer, space_before(work.options.chat), rows), len(work.texts.labels)
    # of a class's likeliest words all but its own may be another's already
    if count * classes > min(len(words), LIKELIEST):
        raise UserError(
            f"propose: {count} sets of {classes} words are too many; the vocabulary has {len(words)} whole words, and the likeliest "
            f"{LIKELIEST} of each class are looked at"
        )
    return words


def propose(logs: Array, labels: Labels, left_out: Labels, count: int) -> list[tuple[int, ...]]:
    """Return for each of so many sets the number of each class's word, all different.

    Of the words that a class's texts make likeliest, by their mean log-probability, those come first that they make likelier than the
    other classes' texts do. Texts that are left out take no part.

    Args:
        logs: of each word's probability at the mask [n, v]; what is added to all words of a text changes nothing.
        labels: class numbers [n].
        left_out: numbers of texts.
        count: how many sets.
    """
    stays = np.ones(len(labels), dtype=bool)
    stays[left_out] = False
    classes = range(int(labels.max()) + 1)
    means = np.stack([logs[stays & (labels == c)].mean(axis=0) for c in classes])  # (c, v)
    others = (means.sum(axis=0) - means) / (len(means) - 1)
    orders = []
    for mean, lead in zip(means, means - others, strict=True):
        likeliest = np.argsort(-mean, kind="stable")[:LIKELIEST]
        orders.append(likeliest[np.argsort(-lead[likeliest], kind="stable")].tolist())
    used: set[int] = set()
    sets = []
    for _ in range(count):
        words = []
        for order in orders:
            word = next(number for number in order if number not in used)
            used.add(word)
            words.append(word)
        sets.append(tuple(words))
    return sets


@dataclass(frozen=True, eq=False)
class Proposer:
    """A model at the mask of one template: the words that it says there.

    Attributes:
        template: the prompt.
        vocabulary: the words that can be proposed.
        logs: of their probabilities, of each text [n, v].
        labels: class numbers [n].
        count: sets that are proposed.
        encoded: the texts as the model sees them.
    """

    template: str
    vocabulary: tuple[str, ...]
    logs: Array
    labels: Labels
    count: int
    encoded: tuple[EncodedText, ...] = ()
    _known: dict[bytes, list[tuple[int, ...]]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, work: FileWork, template: str, vocabulary: Mapping[int, str], count: int) -> Proposer:
        """Return what a model says, from one forward pass a text.

        Raises:
            UserError: the template does not fit the model.
        """
        stand_ins = tuple(vocabulary.values())[
            : len(work.texts.labels)
        ]  # any words, for the encoder wants some
        texts = work.way("prompt", PromptText(template, stand_ins)).encoded(work.texts.examples)
        model = PromptModel(work.pretrained.network, tuple(vocabulary))
        work.progress.phase(f"words at the mask of {template!r}")
        logits = logits_of(model, texts, work.pretrained.pad_id, work.settings.batch_size).numpy()
        logs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        return cls(template, tuple(vocabulary.values()), logs, work.texts.numbers, count, tuple(texts))

    def words(self, place: int, left_out: Labels | None = None) -> tuple[str, ...]:
        """Return the words of one proposal by all texts but those left out, a class each."""
        group = np.zeros(0, dtype=np.int64) if left_out is None else np.sort(left_out)
        key = group.tobytes()
        if key not in self._known:
            self._known[key] = propose(self.logs, self.labels, group, self.count)
        return tuple(self.vocabulary[number] for number in self._known[key][place])

    def words_for(self, rounds: Sequence[Sequence[Labels]], count: int) -> list[tuple[str, ...]]:
        """Return all words that some fold of these rounds, or some pair of folds, makes the model propose."""
        groups: list[Labels | None] = [None]
        for folds in rounds:
            groups += [*folds, *(np.concatenate(pair) for pair in combinations(folds, 2))]
        return list(dict.fromkeys(self.words(place, group) for group in groups for place in range(count)))

    def candidates(self, place: int, of_words: Callable[[tuple[str, ...]], Candidates]) -> ProposedCandidates:
        """Return one proposal as candidates of ``held_out``."""
        return ProposedCandidates(self, place, of_words)


class ProposedCandidates:
    """A proposal: for each group of texts that is left out, the words are those that the other texts make the model propose."""

    def __init__(
        self, proposer: Proposer, place: int, of_words: Callable[[tuple[str, ...]], Candidates]
    ) -> None:
        self.proposer, self.place, self.of_words = proposer, place, of_words
        self.settings = of_words(proposer.words(place)).settings

    def leave_out(self, groups: Labels) -> Array:
        """Return decisions [G, g, C, settings] on groups [G, g] of texts."""
        by_words: dict[tuple[str, ...], list[int]] = {}
        for number, group in enumerate(groups):
            by_words.setdefault(self.proposer.words(self.place, group), []).append(number)
        decisions: Array | None = None
        for words, numbers in by_words.items():
            values = self.of_words(words).leave_out(groups[numbers])
            decisions = np.empty((len(groups), *values.shape[1:])) if decisions is None else decisions
            decisions[numbers] = values
        assert decisions is not None
        return decisions
