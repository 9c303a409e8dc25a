"""The step from kernels to results: each method's solution of a split, chosen on dev, and its predictions on test."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lmntk.engine.budget import is_roomy
from lmntk.engine.settings import NOT_KEPT
from lmntk.experiment.preparation import PreparedTask
from lmntk.experiment.session import Session
from lmntk.experiment.shared_model import SharedModel
from lmntk.experiment.steps.base import Job
from lmntk.experiment.steps.kernels import Logits, forget_kernels, kernels_of
from lmntk.finetuning.logits import logits_of
from lmntk.kernels.formulas import kernel_names
from lmntk.prediction.directions import count_of, directions_of, is_linear
from lmntk.prediction.estimate import PASS
from lmntk.prediction.files import is_predictor, save_predictor
from lmntk.prediction.limits import limits_of
from lmntk.prediction.predictor import DecisionRule, Predictor
from lmntk.runs.records import Row, SplitResults
from lmntk.runs.split import SIDES, Split
from lmntk.solvers.baselines import baselines, names_of
from lmntk.solvers.calibration import fit_sharpness
from lmntk.solvers.outcome import Outcome, solve_split
from lmntk.system.hashing import versions
from lmntk.system.memory import return_freed


class Solve:
    """Solve the kernels of every split; without a formula only the baselines are scored."""

    def of(self, shared: SharedModel) -> list[Job]:
        """Return one job a split."""
        return [Job(split) for split in shared.splits]

    def kept(self, shared: SharedModel, job: Job) -> SplitResults | None:
        """Return a split's results if they, and the files that go with them, are there from an earlier run."""
        session, split = shared.session, job.split
        store, e, keys = session.store, session.experiment, session.keys(shared.task, split)
        results = results_of(session, shared.task, split)
        if results is None or not set(session.methods) <= results.methods:
            return None
        if e.keep_kernels and e.formulas:
            pairs = [(side, formula) for side in SIDES for formula in e.formulas]
            are_kept = [
                store.has_kernel(split, *pair, keys.kernels) for pair in pairs
            ]  # names all that are damaged
            if not all([*are_kept, store.has_logits(split, keys.kernels)]):
                return None
        if e.save_models and session.methods:
            if not set(session.methods) <= set(results.saved_models):
                return None
            if not all([is_predictor(store.folder / "models" / name) for name in results.predictors]):  # noqa: C419
                return None
        return results

    def do(self, shared: SharedModel, jobs: Sequence[Job]) -> Iterator[Job]:
        """Compute and solve the kernels of the splits; kernels that are there with the right key are not computed."""
        session, task, splits = shared.session, shared.task, [job.split for job in jobs]
        for split in shared.splits:
            _add_baselines(shared, split)
        if not session.methods:
            for job in jobs:
                logits = _logits(shared, job.split)
                keep_results(shared, job.split, baselines_of(shared, job.split, logits), [])
                yield job
            return
        if not jobs:
            if session.experiment.keep_factors:
                session.progress.note(NOT_KEPT)
            return
        sides = SIDES[:2] if one_pass_is_cheaper(shared) else SIDES
        if session.experiment.save_models or "test" not in sides:
            # the directions of a solution have to fit, which is better said before the kernels are computed
            shared.check_directions(splits, sides)
        computed = kernels_of(shared, splits, sides)
        for job in jobs:
            kernels, logits = computed[job.split.name]
            labels = shared.labels(job.split)
            outcomes = [
                solve_split(kernels, logits, labels, task.metric, *method) for method in session.methods
            ]
            logits, outcomes, saved = _with_predictors(
                shared, job.split, logits, outcomes, has_test="test" in sides
            )
            keep_results(shared, job.split, [*baselines_of(shared, job.split, logits), *outcomes], saved)
            yield job

    def end(self, shared: SharedModel, was_done: bool) -> None:
        """Remove the scratch files of the kernels."""
        if shared.session.methods:
            forget_kernels(shared)


def one_pass_is_cheaper(shared: SharedModel) -> bool:
    """Return whether linearized models classify the test texts cheaper than kernels, and no kernel was asked for.

    In forward passes a test text: a kernel takes one, a backward pass a logit, the gradients' making, and the
    products with every training text; a linearized model takes three for each solution. All splits count, the
    finished ones too, so that a run that goes on decides as it began.
    """
    session, c = shared.session, shared.model.outputs
    if (
        session.experiment.keep_kernels
        or not session.is_full(shared.task)
        or not all(is_linear(*method, c) for method in session.methods)
    ):
        return False
    lengths = [text.length for split in shared.splits for text in shared.texts(split)["test"]]
    tokens = sum(lengths) / len(lengths)
    rows = sum(len(split.train) for split in shared.splits)
    by_kernel = 1 + 2 * c + rows * c * c * len(kernel_names(session.experiment.formulas)) / tokens
    return PASS * len(shared.splits) * len(session.methods) < by_kernel


def results_of(session: Session, task: PreparedTask, split: Split) -> SplitResults | None:
    """Return the results of a split that are kept.

    Where no kernels are asked for, results of the split's model and texts do, whatever kernels they are of.
    """
    store, keys = session.store, session.keys(task, split)
    results = store.record(SplitResults, split.name, keys.results)
    if results is not None or session.methods:
        return results
    fitting = [
        (store.written_at(name), name, results)
        for name, results in store.records(SplitResults, f"{split.name}-*").items()
        if results is not None
        and (results.name, results.content) == (split.name, keys.content.digest)
        and results.metrics == {task.metric}
    ]
    return max(fitting)[2] if fitting else None


def keep_results(
    shared: SharedModel, split: Split, outcomes: Sequence[Outcome], predictors: Sequence[str]
) -> SplitResults:
    """Write and return the results of a split; those of other methods on the same kernels stay.

    Args:
        shared: the split's model.
        split: whose results they are.
        outcomes: of the baselines and of the methods that were asked for.
        predictors: names of the folders in ``models/`` that were saved of them.
    """
    session, task, labels = shared.session, shared.task, shared.labels(split)
    keys = session.keys(task, split)
    head: dict[str, Any] = {"task": task.name, "k": split.k, "seed": split.seed, "mode": split.mode}
    head |= {f"{side}_texts": len(labels[side]) for side in SIDES}

    def row(outcome: Outcome) -> Row:
        setup = keys.setup("kernel" if outcome.formula else "baseline")
        named = {f"offset_{number}": f"offset of {label}" for number, label in enumerate(task.labels)}
        if len(outcome.setting) != len(
            task.labels
        ):  # one logit of two classes has one offset, of their difference
            named = {}
        setting = {named.get(name, name): value for name, value in outcome.setting.items()}
        return Row(**head, **outcome.as_row() | {"setting": setting}, setup=setup)

    before = session.store.record(SplitResults, split.name, keys.results)
    rows, predictions = [*map(row, outcomes)], {o.method: list(o.predictions) for o in outcomes}
    saved = list(session.methods) if session.experiment.save_models else []
    if before is not None:
        others = [row for row in before.rows if row.formula and row.method not in predictions]
        rows += others
        predictions |= {
            row.method: before.predictions[row.method] for row in others if row.method in before.predictions
        }
        predictors = [*predictors, *before.predictors]
        saved += before.saved_models
    results = SplitResults(
        key=keys.results.digest,
        content=keys.content.digest,
        kernels=keys.kernels.digest,
        name=split.name,
        model=session.pretrained.fingerprint,
        classes=task.meaning((split.mode,)),
        labels=list(task.labels),
        rows=rows,
        row_numbers={"train": list(split.train), "dev": list(split.dev), "test": list(split.test)},
        train_labels=labels["train"],
        dev_labels=labels["dev"],
        test_labels=labels["test"],
        predictions=predictions,
        predictors=list(dict.fromkeys(predictors)),
        saved_models=list(dict.fromkeys(saved)),
        versions=versions(),
    )
    session.store.write_record(results, split.name)
    return results


def _logits(shared: SharedModel, split: Split) -> Logits:
    """Return a split's logits where no kernels are asked for."""
    session, texts = shared.session, shared.texts(split)
    session.progress.phase(f"{split.name}: logits before training")
    pad_id, batch_size = session.pretrained.pad_id, session.settings.batch_size
    return {side: logits_of(shared.model, texts[side], pad_id, batch_size).numpy() for side in SIDES}


def baselines_of(shared: SharedModel, split: Split, logits: Logits) -> list[Outcome]:
    """Return the outcomes of a split's baselines."""
    return baselines(_baseline_names(shared, split), shared.task.metric, logits, shared.labels(split))


def _baseline_names(shared: SharedModel, split: Split) -> tuple[str, ...]:
    return names_of(split.mode, shared.session.pretrained.kind == "classifier")


def _add_baselines(shared: SharedModel, split: Split) -> None:
    """Add the baselines that a split's results of an earlier lmntk lack, where its logits are kept; nothing else is computed."""
    store, keys = shared.session.store, shared.session.keys(shared.task, split)
    results = store.record(SplitResults, split.name, keys.results)
    if results is None or set(_baseline_names(shared, split)) <= results.predictions.keys():
        return
    logits = store.logits(split, keys.kernels) or {}
    if set(SIDES) <= logits.keys():
        keep_results(shared, split, baselines_of(shared, split, logits), [])


def _with_predictors(
    shared: SharedModel, split: Split, logits: Logits, outcomes: list[Outcome], has_test: bool
) -> tuple[Logits, list[Outcome], list[str]]:
    """Return the logits and the outcomes with their test side, and the names of the predictors that were saved.

    Where the kernels have no test side, the predictors make it in one pass.
    """
    session, saved = shared.session, []
    save = session.experiment.save_models
    for number, outcome in enumerate(outcomes):  # one after the other: a direction is as large as the model
        if outcome.linear is not None and (save or not has_test):
            predictor, directions = _predictor(shared, split, outcome)
            if not has_test:
                decisions, before = predictor.evaluate(shared.texts(split)["test"])
                logits = logits | {"test": before}
                outcomes[number] = outcome.with_test(decisions, shared.labels(split)["test"])
            if save:
                saved.append(_save(shared, split, outcomes[number], predictor, directions))
            del predictor, directions
        elif save:
            session.progress.note(
                f"{outcome.method}: its decisions are not linear in a text's gradient, so no predictor is saved"
            )
    return logits, outcomes, saved


def _predictor(shared: SharedModel, split: Split, outcome: Outcome) -> tuple[Predictor, list[Any]]:
    """Return the linearized model of a solution, and its directions."""
    session, form = shared.session, outcome.linear
    assert form is not None
    assert outcome.dev_decisions is not None
    settings = session.settings
    session.progress.phase(f"{split.name}: {outcome.method} as a linearized model")
    cut = shared.direction_memory.cut(count_of(form), settings.batch_size, outcome.formula == "asigngd")
    shared.capturer.batch_size = cut.batch_size
    if not is_roomy(cut.peak, settings.memory):
        return_freed()
    directions = directions_of(
        shared.capturer,
        shared.texts(split)["train"],
        form,
        outcome.formula,
        drop_noise=settings.drop_noise,
        at_once=cut.at_once,
    )
    sharpness = fit_sharpness(outcome.dev_decisions, np.asarray(shared.labels(split)["dev"]))
    rule = DecisionRule(form.intercept, form.f0_scale, sharpness)
    pad_id = session.pretrained.pad_id
    predictor = Predictor(shared.model, directions, pad_id, rule, limits_of(settings))
    return predictor, directions


def _save(
    shared: SharedModel, split: Split, outcome: Outcome, predictor: Predictor, directions: list[Any]
) -> str:
    """Write a predictor under ``models/`` and return its folder's name."""
    session, task, e, form = shared.session, shared.task, shared.session.experiment, outcome.linear
    assert form is not None
    key = session.keys(task, split).results
    name = f"{split.name}-{outcome.formula}-{outcome.solver}-{key.short}"
    model = {
        "name": e.model, "fingerprint": session.pretrained.fingerprint, "kind": session.pretrained.kind, "base": e.base,
        "revision": e.revision, "gguf": e.gguf, "dtype": e.dtype, "attention": e.attention, "untied": e.untie_head,
        "difference": session.folds(task), "features": e.features,
    }  # fmt: skip
    prompt = {
        "templates": task.templates, "label_words": task.label_words, "reduce": e.label_words_reduce, "chat": task.chat,
        "max_length": task.max_length, "text_a_limit": task.text_a_limit,
    }  # fmt: skip
    solution = {
        "method": outcome.method, "formula": outcome.formula, "solver": outcome.solver, "setting": outcome.setting,
        "intercept": form.intercept, "f0_scale": "inf" if math.isinf(form.f0_scale) else form.f0_scale,
        "sharpness": predictor.rule.sharpness, "each_class": form.each_class,
    }  # fmt: skip
    description = {
        "split": split.name, "dev": outcome.dev, "metric": task.metric, "mode": split.mode, "labels": task.labels,
        "model": model, "prompt": prompt, "parameters": session.chosen.as_dict(), "solution": solution,
        "versions": versions(),
    }  # fmt: skip
    save_predictor(session.store.folder / "models" / name, directions, shared.model, description)
    return name
