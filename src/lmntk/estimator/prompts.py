"""From one labelled file to prompts ranked by their kernels, without a training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from lmntk.baselines.rivals import ZeroShot
from lmntk.errors import UserError
from lmntk.estimator.choice import candidates_of, folds_of
from lmntk.estimator.file_work import FileWork, alone_with, say_remarks, start_work
from lmntk.estimator.given import FitInput, PromptText
from lmntk.estimator.prompt_ranking import KERNEL, Contender, Ranking, rank
from lmntk.estimator.proposals import Proposer, proposing_folds, vocabulary_of
from lmntk.estimator.standing import TOLD, lead_error
from lmntk.estimator.texts import LabelledTexts
from lmntk.estimator.ways import Measured
from lmntk.experiment.configuration import Prompts
from lmntk.solvers.baselines import CENTRED, FITTED, ZERO_SHOT
from lmntk.solvers.held_out import Candidates, CentredCandidate, Pool
from lmntk.solvers.inputs import Array, Labels
from lmntk.solvers.threshold import FittedThreshold
from lmntk.system.hashing import versions
from lmntk.system.kept import write_record
from lmntk.system.progress import Progress
from lmntk.tasks.class_words import class_line

FORMAT = "lmntk prompts 1"
NAME = "prompts.json"
METHODS = (KERNEL, ZERO_SHOT, CENTRED, FITTED)


class PromptsRecord(BaseModel):
    """The record of a comparison of prompts.

    Attributes:
        format: of this file.
        file: the labelled file.
        counts: texts of each class, in the order of the classes.
        chance: what always saying the largest class comes to.
        rounds, folds: how often texts were held out, and in how many parts.
        prompts: a row each as ``row_of`` has it, the best held out first.
        best: by method the accuracy of the best prompt, chosen anew in each fold, its error and its lead over chance.
        alike: numbers of the prompts that cannot be told from the first.
        recommended: the number of one of these; None where the best is not better than chance.
        sentences: the outcome in words.
        model: its name and fingerprint.
        versions: of what computed it.
    """

    format: str
    file: str
    counts: dict[str, int]
    chance: float
    rounds: int
    folds: int
    prompts: list[dict[str, Any]]
    best: dict[str, dict[str, float]]
    alike: list[int]
    recommended: int | None
    sentences: list[str]
    model: dict[str, Any]
    versions: dict[str, str]


@dataclass(frozen=True, eq=False)
class Compared:
    """A prompt that is compared.

    Attributes:
        text: the template and the words; of words that the model proposes those that all texts make it propose.
        proposed: which of its proposals, from 1; 0 of words that were given.
        contender: as it is ranked.
    """

    text: PromptText
    proposed: int
    contender: Contender


def prompts_file(options: Prompts, given: FitInput, progress: Progress) -> PromptsRecord:
    """Return templates with label words, ranked by the held-out accuracy of their kernels, and write it to a folder.

    Cost: that of a fit for each prompt; of each set of words that is proposed in some fold as much again.

    Raises:
        UserError: a mistake in a prompt or the model, or too few texts to hold any out.
    """
    texts, labels = given.texts, given.texts.numbers
    check_number(texts)
    work, owner = start_work(options, given, progress, "prompts", ["prompt"])
    ways = [work.way("prompt", prompt) for prompt in given.prompts]
    vocabulary = vocabulary_of(work, options.propose) if options.propose else {}
    proposers = [
        Proposer.of(work, template, vocabulary, options.propose)
        for template in (given.templates if options.propose else ())
    ]  # what can be wrong with a prompt is said before any kernel is computed
    for words in given.word_sets:
        progress.note(class_line(texts.labels, words))
    say_remarks(texts, ways)
    # what is the same to the model leaves the folds together
    texts = texts.as_tokens(
        *(way.encoded(texts.examples) for way in ways), *(proposer.encoded for proposer in proposers)
    )
    check_number(texts)
    with alone_with(work, owner):
        compared = []
        for number, (way, prompt) in enumerate(zip(ways, given.prompts, strict=True)):
            measured = work.measure(way, f"prompt {number + 1} of {len(ways)}")
            compared.append(Compared(prompt, 0, contender_of(measured, labels)))
        outputs = ways[0].singles[0].outputs if ways else len(texts.labels)
        rounds = proposing_folds(texts, options.seed) if proposers else folds_of(texts, outputs, options.seed)
        for proposer in proposers:
            compared += proposed_by(proposer, work, rounds, options.propose)
        progress.phase("texts held out")
        ranking = rank([each.contender for each in compared], labels, rounds)
        record = PromptsRecord(
            format=FORMAT,
            file=options.file,
            counts=texts.counts,
            rounds=len(rounds),
            folds=len(rounds[0]),
            model={"name": options.model, "fingerprint": work.pretrained.fingerprint},
            versions=versions(),
            **outcome_of(ranking, compared),
        )
        write_record(Path(options.out) / NAME, record.model_dump())
    return record


def check_number(texts: LabelledTexts) -> None:
    """Refuse texts by which nothing can be compared.

    Raises:
        UserError: there are too few.
    """
    if not texts.are_enough:
        raise UserError(
            "prompts: there are too few texts to compare prompts; give five of each class or more, all different"
        )


def contender_of(measured: Measured, labels: Labels) -> Contender:
    """Return a prompt as it is ranked: by its kernel, the pre-trained logits taking part, and without any training."""
    logits = measured.logits
    by_method: dict[str, Candidates] = {
        KERNEL: Pool(candidates_of(measured, labels)),
        ZERO_SHOT: ZeroShot(logits),
        CENTRED: CentredCandidate(logits),
        FITTED: FittedThreshold(logits, labels),
    }
    return Contender(by_method, float(np.mean([text.length for text in measured.texts])))


def proposed_by(
    proposer: Proposer, work: FileWork, rounds: Sequence[Sequence[Labels]], count: int
) -> list[Compared]:
    """Return so many proposals of a template, the words of each proposed anew for every fold that is held out."""
    labels = work.texts.numbers
    needed = proposer.words_for(rounds, count)
    work.progress.note(
        f"{proposer.template!r}: the texts of all folds propose {len(needed)} different sets of words, each a kernel"
    )
    contenders: dict[tuple[str, ...], Contender] = {}
    for number, words in enumerate(needed):
        way = work.way("prompt", PromptText(proposer.template, words))
        title = f"proposed words, {number + 1} of {len(needed)}"
        contenders[words] = contender_of(work.measure(way, title), labels)
    compared = []
    for place in range(count):
        words = proposer.words(place)
        by_method = {name: proposer.candidates(place, _of_method(contenders, name)) for name in METHODS}
        compared.append(
            Compared(
                PromptText(proposer.template, words),
                place + 1,
                Contender(by_method, contenders[words].tokens),
            )
        )
    return compared


def _of_method(
    contenders: Mapping[tuple[str, ...], Contender], method: str
) -> Callable[[tuple[str, ...]], Candidates]:
    return lambda words: contenders[words].by_method[method]


def outcome_of(ranking: Ranking, compared: Sequence[Compared]) -> dict[str, Any]:
    """Return the fields of a record that say what came out; prompts are numbered from 1 in their order."""
    places = {each.number: place for place, each in enumerate(ranking.prompts)}
    best = {name: _figures(values, ranking.chance) for name, values in ranking.best.items()}
    rows = []
    for each in ranking.prompts:
        prompt = compared[each.number]
        rows.append(
            {
                "number": places[each.number] + 1,
                "template": prompt.text.template,
                "label_words": list(prompt.text.words),
                "proposed": prompt.proposed,
                "tokens": each.tokens,
                **{name: _figures(values) for name, values in each.correct.items()},
                "taken": each.taken,
                "above_chance": each.above_chance,
                "margin": each.margin,
            }
        )
    alike = [places[number] + 1 for number in ranking.alike]
    recommended = None if ranking.recommended is None else places[ranking.recommended] + 1
    outcome = {
        "chance": ranking.chance,
        "prompts": rows,
        "best": best,
        "alike": alike,
        "recommended": recommended,
    }
    return outcome | {"sentences": sentences_of(outcome, len(next(iter(ranking.best.values()))), ranking)}


def _figures(correct: Array, chance: float | None = None) -> dict[str, float]:
    found = {"accuracy": float(correct.mean()), "error": lead_error(correct)}
    return found if chance is None else found | {"lead": found["accuracy"] - chance}


def sentences_of(outcome: Mapping[str, Any], texts: int, ranking: Ranking) -> list[str]:
    """Return the outcome in sentences: what the best is worth, whether training earns anything, what to take."""
    rows, best, chance = outcome["prompts"], outcome["best"], outcome["chance"]
    kernel, several = best[KERNEL], len(rows) > 1
    what = f"the best of {len(rows)} prompts, chosen anew in each fold" if several else "the prompt"
    found = [
        f"Held out, {what}: {_shown(kernel)} % (chance {100 * chance:.1f} %, {texts} texts)"
        + ("; the figure in its own row is too high, because the rows were compared." if several else ".")
    ]
    untrained = max((name for name in best if name != KERNEL), key=lambda name: best[name]["accuracy"])
    leads = ranking.best[KERNEL] - ranking.best[untrained]
    lead, error = 100 * float(leads.mean()), 100 * lead_error(leads)
    told = (
        "cannot be told from"
        if abs(lead) <= TOLD * error or lead == 0
        else "is better than"
        if lead > 0
        else "is worse than"
    )
    found.append(
        f"The best without training, chosen in the same way, is {untrained}: "
        f"{_shown(best[untrained])} %. The kernel {told} it, a difference of {lead:+.1f} ± {error:.1f} points."
    )
    alike = outcome["alike"]
    if len(alike) > 1:
        found.append(
            f"cannot be told apart: {', '.join(map(str, alike))} (each is within {TOLD:g} errors of its difference from the first)."
        )
    number = outcome["recommended"]
    if number is None:
        found.append(
            f"recommended: none; the best differs from chance by {100 * kernel['lead']:+.1f} ± {100 * kernel['error']:.1f} points."
        )
        return found
    row = rows[number - 1]
    why = (
        f"the shortest of these ({row['tokens']:.1f} tokens a text)"
        if len(alike) > 1
        else "no other prompt is as good"
        if several
        else "there is no other"
    )
    found.append(f"recommended: {number}, {why}.")
    if row["proposed"]:
        found.append(
            "These labels chose its words: the accuracy that lmntk fit says on the same file is too high; the first line is not."
        )
    return found


def _shown(figures: Mapping[str, float]) -> str:
    return f"{100 * figures['accuracy']:.1f} ± {100 * figures['error']:.1f}"
