"""The four parts of ``lmntk demo``: a task that the model learns, its predictions explained, a wrong label, and a task to leave alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmntk.bundled import EXAMPLES, PRODUCTS
from lmntk.cli.printing import with_progress
from lmntk.cli.running import run_experiment
from lmntk.system.files import write_text

if TYPE_CHECKING:
    from lmntk.estimator.audit import AuditRecord
    from lmntk.estimator.record import FitRecord
    from lmntk.experiment.configuration import Experiment
    from lmntk.explanation.records import ExplanationRecord

ERRORS = 2  # standard errors that a lead must exceed to be one
PROMPT, SGD = "prompt", "sgd fine-tuning"


@dataclass(frozen=True)
class Scale:
    """The size of the demonstration, as a model allows it.

    Attributes:
        model: its path.
        template: of the prompt.
        rates: the learning rate of each optimizer, fixed before any test text was looked at.
        shots: labelled texts a class to train on, and as many to choose the ridge by.
        steps: of each training, with eight texts each.
        looks: how often its learning curve is looked at.
        test_texts: most of them.
        labelled: texts of the other task, and of the one with a wrong label, the first ones of each.
    """

    model: Path
    template: str
    rates: Mapping[str, float]
    shots: int
    steps: int
    looks: int
    test_texts: int
    labelled: int


@dataclass(frozen=True)
class Shown:
    """The results: rows and verdicts of the run, the explanation, the fit of the other task, the audit.

    Attributes:
        rows: of ``results.csv``.
        verdicts: of the trainings.
        explanation: of three messages.
        rooms: the fit that says no.
        audit: of the texts with a wrong label.
        planted: the row of that label, from 1.
        trained: the folder of the run.
    """

    rows: Sequence[Mapping[str, Any]]
    verdicts: Mapping[str, Any]
    explanation: ExplanationRecord
    rooms: FitRecord
    audit: AuditRecord
    planted: int
    trained: Path


def show(scale: Scale, out: Path, seed: int) -> Shown:
    """Return what the four parts come to; each has a folder of its own, which a rerun resumes.

    Verdicts are over all splits of a folder, so each seed has its own.

    Raises:
        UserError: a folder is a file, or cannot be written to; before anything is computed.
    """
    from lmntk.estimator.given import check_folder

    trained = out / f"products-{seed}"
    folders = {name: out / name for name in ("probe", "predictions", "rooms", "labels")}
    for folder in (trained, *folders.values()):
        check_folder(folder)
    rows = run_experiment(products_of(scale, trained, seed))
    rows += run_experiment(probed(scale, folders["probe"], seed))
    from lmntk.experiment.report import verdicts_of

    verdicts = verdicts_of(trained)
    explanation = explained(trained, folders["predictions"])
    rooms, audit = fitted(scale, folders["rooms"]), audited(scale, folders["labels"])
    return Shown(rows, verdicts, explanation, rooms, audit, planted_row(), trained)


def products_of(scale: Scale, out: Path, seed: int) -> Experiment:
    """Return the experiment on the products: kernels, the linear probe, and real trainings beside them."""
    from lmntk.experiment.configuration import make_experiment

    prompt = {"template": scale.template, "label_words": {product: product for product in PRODUCTS}}
    training = {
        "learning_rates": {name: [rate] for name, rate in scale.rates.items()},
        "batch_sizes": [8],
        "steps": scale.steps,
        "eval_every": scale.steps // scale.looks,
    }
    values = _split(scale, out, seed, prompt) | {"modes": [PROMPT], "formulas": ["sgd"]}
    return make_experiment(values | {"finetune": list(scale.rates), "finetuning": training, "diagnose": True})


def probed(scale: Scale, out: Path, seed: int) -> Experiment:
    """Return the experiment of the linear probe alone, on the same texts."""
    from lmntk.experiment.configuration import make_experiment

    return make_experiment(_split(scale, out, seed, {}) | {"modes": ["head"], "formulas": []})


def _split(scale: Scale, out: Path, seed: int, prompt: Mapping[str, Any]) -> dict[str, Any]:
    folder = EXAMPLES / "products"
    texts = {
        "train": str(folder / "train.jsonl"),
        "test": str(folder / "test.jsonl"),
        "text_column": "text_a",
    }
    return {
        "model": str(scale.model),
        "own_tasks": [{"name": "products", **texts, **prompt}],
        "k": [scale.shots],
        "seeds": str(seed),
        "test_limit": scale.test_texts,
        "out": out,
    }


def explained(trained: Path, out: Path) -> ExplanationRecord:
    """Return the explanation of the three test messages that the run's kernel decides least well, and write its page."""
    from lmntk.explanation.answer import answer
    from lmntk.explanation.asked import Question
    from lmntk.explanation.records import ExplanationRecord
    from lmntk.explanation.written import write

    record = with_progress(partial(answer, Question(trained, most=3, method="sgd ridge")))
    assert isinstance(record, ExplanationRecord)
    out.mkdir(exist_ok=True)
    write(record, out)
    return record


def fitted(scale: Scale, out: Path) -> FitRecord:
    """Return the fit of the rooms, of which the model knows nothing."""
    from lmntk.estimator.fit import fit_file
    from lmntk.estimator.given import read_input
    from lmntk.experiment.configuration import Fit, from_flags

    options = from_flags(Fit, _first(scale, "rooms/train.jsonl", out))
    return with_progress(partial(fit_file, options, read_input(options)))


def audited(scale: Scale, out: Path) -> AuditRecord:
    """Return the audit of the products' texts, one of which has a wrong label."""
    from lmntk.estimator.audit import audit_file
    from lmntk.estimator.given import read_input
    from lmntk.experiment.configuration import Audit, from_flags

    words = ",".join(f"{product}={product}" for product in PRODUCTS)
    prompt = {"template": scale.template, "label_words": words, "mode": PROMPT}
    options = from_flags(Audit, _first(scale, "products/planted.jsonl", out) | prompt)
    return with_progress(partial(audit_file, options, read_input(options)))


def planted_row() -> int:
    """Return the row of the label that was planted, from 1."""
    planted, right = (
        (EXAMPLES / "products" / name).read_text(encoding="utf8").splitlines()
        for name in ("planted.jsonl", "train.jsonl")
    )
    return next(row for row, lines in enumerate(zip(planted, right, strict=False), 1) if lines[0] != lines[1])


def _first(scale: Scale, name: str, out: Path) -> dict[str, Any]:
    """Return the options of a command on the first texts of a file, which are written into its folder."""
    lines = (EXAMPLES / name).read_text(encoding="utf8").splitlines(keepends=True)
    out.mkdir(exist_ok=True)
    file = out / "texts.jsonl"
    write_text(file, "".join(lines[: scale.labelled]))
    return {"file": str(file), "text_column": "text_a", "model": str(scale.model), "out": out}


def as_json(shown: Shown) -> str:
    """Return what came out as JSON."""
    plain = {
        "rows": list(shown.rows),
        "verdicts": shown.verdicts["verdicts"],
        "explanation": shown.explanation.model_dump(),
        "rooms": shown.rooms.model_dump(),
        "audit": shown.audit.model_dump(),
        "planted_row": shown.planted,
        "planted_rank": rank_of(shown),
    }
    return json.dumps(plain, indent=1)


def rank_of(shown: Shown) -> int:
    """Return the place of the planted label among the most suspicious ones, from 1."""
    return next(rank for rank, row in enumerate(shown.audit.rows, 1) if row["row"] == shown.planted)
