"""Which unlabelled texts to label next, and on which to abstain, by the posterior of a fit's kernel."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from lmntk.attribution.posterior import Posterior
from lmntk.errors import UserError
from lmntk.estimator.new_texts import among, with_training_texts
from lmntk.estimator.solved import plain_text
from lmntk.estimator.trust import regime_entry
from lmntk.explanation.asked import Machine, Question
from lmntk.explanation.of_fit import FitSource
from lmntk.prediction.texts import TextSource
from lmntk.solvers.shared import in_classes
from lmntk.system.files import write_text
from lmntk.system.hashing import versions
from lmntk.system.kept import write_record
from lmntk.system.progress import Progress
from lmntk.tasks.example import Example
from lmntk.tasks.remarks import is_empty

FORMAT = "lmntk next 1"
NAME, TABLE = "next.json", "next.csv"
CANDIDATES = 200  # of the pool: those with the smallest margins, whose kernel with each other is computed
ABSTAIN = 0.75  # sureness below which no class should be said: half way from a coin toss to certainty
COLUMNS = ("rank", "row", "text", "predicted", "runner_up", "margin", "sure")


class NextText(BaseModel):
    """An unlabelled text.

    Attributes:
        rank: in which order to label, from 1; None of the others.
        row: in the file, from 1.
        text: its words.
        predicted: the class so far.
        runner_up: the second; of two classes the other one.
        margin: over the runner-up.
        sure: the probability that the class is above the runner-up.
        abstain: whether no class should be said.
    """

    rank: int | None
    row: int
    text: str
    predicted: str
    runner_up: str
    margin: float
    sure: float
    abstain: bool


class NextRecord(BaseModel):
    """The record of what to label next.

    Attributes:
        format: of this file.
        name: whose classifier it is.
        settings: how it was trained.
        pool: texts that could be labelled; repeated ones, and those that were trained on, are left out.
        texts: the candidates, those to label first, then by sureness.
        amplitude: of the prior.
        noise: of the labels.
        regime: whether the kernel regime holds, and how that is known.
        versions: of what computed it.
    """

    format: str = FORMAT
    name: str
    settings: dict[str, Any]
    pool: int
    texts: list[NextText]
    amplitude: float
    noise: float
    regime: dict[str, Any]
    versions: dict[str, str]


@dataclass(frozen=True)
class Pool:
    """A fit's folder, a table of unlabelled texts, and how many of them can be labelled."""

    folder: Path
    source: TextSource
    count: int
    machine: Machine = field(default_factory=Machine)


def next_texts(pool: Pool, progress: Progress) -> NextRecord:
    """Return which texts to label next.

    Cost: gradients of the pool's and the training texts, their products, and those of 200 texts with each other.

    Raises:
        UserError: no fit, or one that trained nothing; or no text that is new.
    """
    source = FitSource(Question(pool.folder, machine=pool.machine), progress)
    solved, trained = source.solved, source.trained
    solved.refits()  # a fit that trained nothing is a mistake before the model is loaded
    rows, examples = unlabelled(
        pool, source.columns, {(text_a, text_b) for text_a, text_b in solved.record.texts}
    )
    loaded, settings = source.loaded, source.settings()
    progress.phase(f"kernels of {len(examples)} unlabelled texts")
    new = with_training_texts(loaded, solved, examples, settings)
    margin = solved.parts_alone(new.cross, new.logits).margin
    chosen = np.argsort(margin, kind="stable")[:CANDIDATES].tolist()
    candidates = [examples[number] for number in chosen]
    refits = solved.refits(new.cross[:, :, chosen], new.logits[chosen])
    progress.phase(f"kernels of {len(candidates)} of them with each other")
    kernel = in_classes(among(loaded, solved, candidates, settings), solved.basis)
    posterior = Posterior.of(refits, kernel, solved.intercept, solved.basis)
    to_label, sureness, margins = posterior.batch(pool.count), posterior.sureness(), posterior.margins
    others = [number for number in np.argsort(sureness, kind="stable").tolist() if number not in to_label]
    along, labels = margins.along(posterior.mean), trained.labels
    texts = [
        NextText(
            rank=rank + 1 if rank < len(to_label) else None,
            row=rows[chosen[number]],
            text=plain_text(candidates[number]),
            predicted=labels[int(margins.predicted[number])],
            runner_up=labels[int(margins.runner_up[number])],
            margin=float(along[number]),
            sure=float(sureness[number]),
            abstain=bool(sureness[number] < ABSTAIN),
        )
        for rank, number in enumerate([*to_label, *others])
    ]
    return NextRecord(
        name=trained.name,
        settings=dict(trained.settings),
        pool=len(examples),
        texts=texts,
        amplitude=posterior.amplitude,
        noise=posterior.noise,
        regime=regime_entry(source.regime()),
        versions=versions(),
    )


def unlabelled(
    pool: Pool, columns: dict[str, str | None], known: set[tuple[str, str | None]]
) -> tuple[list[int], list[Example]]:
    """Return the rows and the texts that could be labelled: each once, and none that was trained on.

    Raises:
        UserError: there is none.
    """
    rows, examples, seen = [], [], set(known)
    for row, (_, example) in enumerate(pool.source.with_columns(columns).examples(), 1):
        name = example.text_a, example.text_b
        if name not in seen and not is_empty(example):
            seen.add(name)
            rows.append(row)
            examples.append(Example(*name))
    if not examples:
        raise UserError(
            f"next: {pool.source.name!r} holds no new text; give texts that are not among the {len(known)} labelled ones"
        )
    return rows, examples


def write_next(record: NextRecord, folder: Path) -> None:
    """Write the record, and a table of the texts to label, to a folder."""
    write_record(folder / NAME, record.model_dump())
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(text.model_dump() for text in record.texts if text.rank is not None)
    write_text(folder / TABLE, out.getvalue())
