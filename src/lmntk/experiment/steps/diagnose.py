"""Diagnoses as a part of an experiment: of every split and way of fine-tuning it, kept and found again by content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lmntk.diagnosis.checkpoint import load_finetuned
from lmntk.diagnosis.diagnosis import FORMAT, Diagnosis
from lmntk.errors import UserError
from lmntk.experiment.preparation import PreparedTask
from lmntk.experiment.session import SIDES, Given, Session
from lmntk.experiment.steps.diagnose_split import CellModel, diagnose_split
from lmntk.experiment.steps.finetune import (
    arms_of,
    claimed_work,
    kept_record,
    key_of,
    remove_work,
    setup_of,
)
from lmntk.experiment.steps.shared_model import Kernels, SharedModel, forget_unit, kernels_of
from lmntk.finetuning.files import load_weights, slug
from lmntk.finetuning.method import FineTuningMethod
from lmntk.finetuning.replay import POINTS, replay
from lmntk.finetuning.settings import Labelled, TrainingData, TrainingSettings, batch_order
from lmntk.runs.store import Split
from lmntk.solvers.emulated_training import Training
from lmntk.solvers.grid import SOLVER_VERSION
from lmntk.system.hashing import content_key

Subject = FineTuningMethod | Given
COURSE = "diagnosis-"  # begins the names of scratch folders


def given_checkpoint(path: Path) -> Given:
    """Returns a checkpoint's place with the hash of what is in it.

    Raises:
        UserError: there is nothing.
    """
    path = path.expanduser()
    if not path.exists():
        raise UserError(
            f"finetuned: there is no {str(path)!r}; give the folder that the fine-tuned model was saved to, or its weights"
        )
    digest = hashlib.sha256()
    for file in sorted(each for each in path.iterdir() if each.is_file()) if path.is_dir() else [path]:
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return Given(path, digest.hexdigest())


def check_given(session: Session, tasks: Sequence[PreparedTask]) -> None:
    """Reads the user's checkpoint once for each mode of each task, before anything is computed.

    Raises:
        UserError: it is not of the model's architecture; see ``load_finetuned``.
    """
    if session.given is None:
        return
    for task in tasks:
        for mode in session.experiment.modes:
            split = next(split for split in task.splits if split.mode == mode)
            load_finetuned(session.given.path, session.pretrained, SharedModel(session, task, [split]).model)


def subjects_of(session: Session, split: Split) -> list[Subject]:
    """Returns what is diagnosed in a split: the arms, but those that train the linearized model, and the checkpoint that was given."""
    if not session.experiment.diagnose:
        return []
    arms = [arm for arm in arms_of(session.experiment, session.chosen, split.seed) if not arm.linearized]
    return [*arms, *([] if session.given is None else [session.given])]


def diagnose_unit(session: Session, task: PreparedTask, splits: Sequence[Split]) -> None:
    """Diagnoses splits that share a model, whose arms are trained; what was diagnosed before is not again."""
    left = {
        split.name: [
            one for one in subjects_of(session, split) if kept_diagnosis(session, task, split, one) is None
        ]
        for split in splits
    }
    todo = [split for split in splits if left[split.name]]
    whole = [split for split in todo if any(_has_run_kernels(one) for one in left[split.name])]
    asked = session.asking_for(("sgd",))
    kernels = kernels_of(asked, task, whole) if whole else {}
    for split in todo:
        for subject in left[split.name]:
            own = kernels[split.name][0] if _has_run_kernels(subject) else None
            _write(session, task, split, subject, _diagnose(session, task, split, subject, own))
    if whole:
        forget_unit(asked, task, splits)


def kept_diagnosis(
    session: Session, task: PreparedTask, split: Split, subject: Subject
) -> dict[str, Any] | None:
    """Returns a diagnosis that is there with the right key."""
    found = session.store.read_json(_place(split, subject))
    return (
        found
        if isinstance(found, dict) and found.get("key") == diagnosis_key(session, task, split, subject)
        else None
    )


def diagnosis_key(session: Session, task: PreparedTask, split: Split, subject: Subject) -> str:
    """Returns the hash of all that a diagnosis depends on."""
    return content_key(
        format=FORMAT,
        kernels=session.key(task, split),
        metric=task.metric,
        about=_about(session, task, split, subject),
        points=POINTS,
        other=_other_mode(session, task, split),
        formula=_formula(session, task, split, subject),
        solver=SOLVER_VERSION,
    )


def diagnosis_setup(session: Session, task: PreparedTask, mode: str, subject: Subject) -> str:
    """Returns the hash of what diagnoses must share to be splits of one verdict."""
    about = subject.digest if isinstance(subject, Given) else setup_of(session, task, mode, subject)
    return session.setup(task, mode, "kernel", about=about)


def _formula(session: Session, task: PreparedTask, split: Split, subject: Subject) -> str:
    """Returns whose kernel is held against a training: of Adam and SignGD A-SignGD's where it was kept on all sides, else SGD's."""
    if isinstance(subject, Given) or subject.settings.optimizer == "sgd" or not _has_run_kernels(subject):
        return "sgd"
    key = session.key(task, split)
    return (
        "asigngd" if all(session.store.has_kernel(split, side, "asigngd", key) for side in SIDES) else "sgd"
    )


def _about(session: Session, task: PreparedTask, split: Split, subject: Subject) -> str:
    """Returns the hash of the training that is diagnosed, or of the checkpoint that was given."""
    return subject.digest if isinstance(subject, Given) else key_of(session, task, split, subject)


def _other_mode(session: Session, task: PreparedTask, split: Split) -> dict[str, Any] | None:
    """Returns what the mode that is not the split's reads, for its mean |chi|; None where there is no such mode."""
    mode = "head" if split.mode == "prompt" else "prompt"
    try:
        reads = session.encoder(task, mode).fingerprint()
    except UserError:
        return None
    return {"encoder": reads, "features": session.experiment.features if mode == "head" else None}


def _place(split: Split, subject: Subject) -> str:
    name = f"given-fine-tuning-{subject.digest[:12]}" if isinstance(subject, Given) else slug(subject.method)
    return f"diagnosis/{split.name}-{name}.json"


def _has_run_kernels(subject: Subject) -> bool:
    """True where what trained are the parameters whose kernels a run computes: no LoRA, no frozen layers."""
    return isinstance(subject, Given) or not subject.subset.suffix()


def _write(session: Session, task: PreparedTask, split: Split, subject: Subject, found: Diagnosis) -> None:
    belongs = {
        "content": session.content_key(task, split),
        "about": _about(session, task, split, subject),
    }  # by which readers know its split
    belongs |= {"setup": diagnosis_setup(session, task, split.mode, subject)}
    plain = found.as_dict(diagnosis_key(session, task, split, subject)) | belongs
    session.store.write_json(_place(split, subject), plain)
    session.progress.note(f"{split.name}, {subject.method}: {plain['verdict']}")
    if isinstance(subject, FineTuningMethod):
        remove_work(session, COURSE, _place(split, subject))


def _diagnose(
    session: Session, task: PreparedTask, split: Split, subject: Subject, kernels: Kernels | None
) -> Diagnosis:
    unit = SharedModel(session, task, [split])
    how: dict[str, Any] = {
        "method": subject.method,
        "formula": _formula(session, task, split, subject),
        "at_start": CellModel(unit.model, unit.texts[split.name], unit.labels[split.name]),
        "difference": session.folds(task),
        "features": session.experiment.features,
        "reduce": session.experiment.label_words_reduce,
        "kernels": None if kernels is None else {**kernels, **_signed(session, task, split)},
        "settings": session.settings,
    }
    if isinstance(subject, Given):
        weights = load_finetuned(subject.path, session.pretrained, unit.model)
        return diagnose_split(session.pretrained, task, split, weights, parameters=session.chosen, **how)
    return _diagnose_arm(unit, split, subject, how)


def _signed(session: Session, task: PreparedTask, split: Split) -> Kernels:
    """Returns the kept kernels of SignGD and Adam: they are emulated by them, and held against their solution."""
    key = session.key(task, split)
    found = {(side, "asigngd"): session.store.kernel(split, side, "asigngd", key) for side in SIDES}
    return {place: kernel for place, kernel in found.items() if kernel is not None}


def _diagnose_arm(
    unit: SharedModel, split: Split, arm: FineTuningMethod, how: Mapping[str, Any]
) -> Diagnosis:
    """Trains the arm's chosen setting once more, to see where it goes, and diagnoses it."""
    session, task = unit.session, unit.task
    record = kept_record(session, task, split, arm)
    assert record is not None  # arms are trained before
    with arm.subset.chosen(unit.model) as trained:
        if record["chosen"] is None:
            why = "; ".join(record["notes"]) or "all trainings diverged"
            return diagnose_split(
                session.pretrained, task, split, None, trainable=trained.parameters, diverged=why, **how
            )
        chosen = record["runs"][record["chosen"]]
        settings = replace(
            arm.settings, learning_rate=chosen["learning_rate"], batch_size=chosen["batch_size"]
        )
        texts, labels = unit.texts[split.name], unit.labels[split.name]
        train, dev = (Labelled(texts[side], labels[side]) for side in ("train", "dev"))
        session.progress.work(f"{split.name}: {arm.method}, the way it went", settings.steps)
        course = replay(
            unit.model, trained.parameters, TrainingData(train, dev, session.pretrained.pad_id, task.metric), settings,
            chosen["best_step"],
            claimed_work(session, COURSE, diagnosis_key(session, task, split, arm), _place(split, arm)), session.progress.advance,
        )  # fmt: skip
        if (course.best_step, course.dev) != (chosen["best_step"], chosen["dev"]):
            session.progress.note(
                f"{split.name}, {arm.method}: trained once more it took another way; on this device training is not exact"
            )
        weights: Mapping[str, Any] | None = course.best
        kept = (
            None
            if record["checkpoint"] is None or arm.subset.lora_rank is not None
            else session.store.folder / record["checkpoint"]
        )
        if (
            kept is not None and kept.is_file()
        ):  # else the course's own, which are the same: somebody may have made room
            weights = load_weights(kept)[0]
        training = training_of(settings, len(train), chosen["best_step"])
        session.progress.work(f"{split.name}: {arm.method}, diagnosed", None)
        return diagnose_split(
            session.pretrained,
            task,
            split,
            weights,
            trainable=trained.parameters,
            training=training,
            trajectory=course.along(),
            **how,
        )


def training_of(settings: TrainingSettings, texts: int, best_step: int | None) -> Training:
    """Returns how a training went, for its emulation: the rates, the clipping, and which texts each step saw."""
    order = batch_order(texts, settings.batch_size, settings.steps, settings.seed)
    return Training(
        settings.optimizer, settings.learning_rate, settings.steps, settings.loss, settings.batch_size,  # type: ignore[arg-type]
        settings.schedule, settings.max_grad_norm or None, order, best_step,  # type: ignore[arg-type]
    )  # fmt: skip
