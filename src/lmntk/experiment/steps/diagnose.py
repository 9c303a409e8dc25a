"""Diagnoses as a part of an experiment: of every cell and way of fine-tuning it, kept and found again by content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lmntk.diagnosis.checkpoint import load_finetuned
from lmntk.diagnosis.diagnosis import FORMAT, Diagnosis
from lmntk.diagnosis.training import Training
from lmntk.errors import UserError
from lmntk.experiment.preparation import PreparedTask
from lmntk.experiment.session import SIDES, Context, Given
from lmntk.experiment.steps.diagnose_cell import CellModel, diagnose_cell
from lmntk.experiment.steps.finetune import Arm, arms_of, claimed_work, kept_record, key_of, remove_work, setup_of
from lmntk.experiment.steps.shared_model import Kernels, Unit, forget_unit, kernels_of
from lmntk.finetuning.files import load_weights, slug
from lmntk.finetuning.replay import POINTS, course_of
from lmntk.finetuning.settings import Labelled, TrainingSettings, batch_order
from lmntk.runs.store import Cell
from lmntk.solvers.grid import SOLVER_VERSION
from lmntk.system.hashing import content_key

Subject = Arm | Given
COURSE = "diagnosis-"  # begins the names of scratch folders


def given_checkpoint(path: Path) -> Given:
    """Returns a checkpoint's place with the hash of what is in it.

    Raises:
        UserError: there is nothing.
    """
    path = path.expanduser()
    if not path.exists():
        raise UserError(f"finetuned: there is no {str(path)!r}; give the folder that the fine-tuned model was saved to, or its weights")
    digest = hashlib.sha256()
    for file in sorted(each for each in path.iterdir() if each.is_file()) if path.is_dir() else [path]:
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return Given(path, digest.hexdigest())


def check_given(context: Context, tasks: Sequence[PreparedTask]) -> None:
    """Reads the user's checkpoint once for each mode of each task, before anything is computed.

    Raises:
        UserError: it is not of the model's architecture; see ``load_finetuned``.
    """
    if context.given is None:
        return
    for task in tasks:
        for mode in context.experiment.modes:
            cell = next(cell for cell in task.cells if cell.mode == mode)
            load_finetuned(context.given.path, context.pretrained, Unit(context, task, [cell]).model)


def subjects_of(context: Context, cell: Cell) -> list[Subject]:
    """Returns what is diagnosed in a cell: the arms, but those that train the linearized model, and the checkpoint that was given."""
    if not context.experiment.diagnose:
        return []
    arms = [arm for arm in arms_of(context.experiment, context.chosen, cell.seed) if not arm.linearized]
    return [*arms, *([] if context.given is None else [context.given])]


def diagnose_unit(context: Context, task: PreparedTask, cells: Sequence[Cell]) -> None:
    """Diagnoses cells that share a model, whose arms are trained; what was diagnosed before is not again."""
    left = {cell.name: [one for one in subjects_of(context, cell) if kept_diagnosis(context, task, cell, one) is None] for cell in cells}
    todo = [cell for cell in cells if left[cell.name]]
    whole = [cell for cell in todo if any(_has_run_kernels(one) for one in left[cell.name])]
    asked = context.asking_for(("sgd",))
    kernels = kernels_of(asked, task, whole) if whole else {}
    for cell in todo:
        for subject in left[cell.name]:
            own = kernels[cell.name][0] if _has_run_kernels(subject) else None
            _write(context, task, cell, subject, _diagnose(context, task, cell, subject, own))
    if whole:
        forget_unit(asked, task, cells)


def kept_diagnosis(context: Context, task: PreparedTask, cell: Cell, subject: Subject) -> dict[str, Any] | None:
    """Returns a diagnosis that is there with the right key."""
    found = context.store.read_json(_place(cell, subject))
    return found if isinstance(found, dict) and found.get("key") == diagnosis_key(context, task, cell, subject) else None


def diagnosis_key(context: Context, task: PreparedTask, cell: Cell, subject: Subject) -> str:
    """Returns the hash of all that a diagnosis depends on."""
    return content_key(
        format=FORMAT,
        kernels=context.key(task, cell),
        metric=task.metric,
        about=_about(context, task, cell, subject),
        points=POINTS,
        other=_other_mode(context, task, cell),
        formula=_formula(context, task, cell, subject),
        solver=SOLVER_VERSION,
    )


def diagnosis_setup(context: Context, task: PreparedTask, mode: str, subject: Subject) -> str:
    """Returns the hash of what diagnoses must share to be splits of one verdict."""
    about = subject.digest if isinstance(subject, Given) else setup_of(context, task, mode, subject)
    return context.setup(task, mode, "kernel", about=about)


def _formula(context: Context, task: PreparedTask, cell: Cell, subject: Subject) -> str:
    """Returns whose kernel is held against a training: of Adam and SignGD A-SignGD's where it was kept on all sides, else SGD's."""
    if isinstance(subject, Given) or subject.settings.optimizer == "sgd" or not _has_run_kernels(subject):
        return "sgd"
    key = context.key(task, cell)
    return "asigngd" if all(context.store.has_kernel(cell, side, "asigngd", key) for side in SIDES) else "sgd"


def _about(context: Context, task: PreparedTask, cell: Cell, subject: Subject) -> str:
    """Returns the hash of the training that is diagnosed, or of the checkpoint that was given."""
    return subject.digest if isinstance(subject, Given) else key_of(context, task, cell, subject)


def _other_mode(context: Context, task: PreparedTask, cell: Cell) -> dict[str, Any] | None:
    """Returns what the mode that is not the cell's reads, for its mean |chi|; None where there is no such mode."""
    mode = "head" if cell.mode == "prompt" else "prompt"
    try:
        reads = context.encoder(task, mode).fingerprint()
    except UserError:
        return None
    return {"encoder": reads, "features": context.experiment.features if mode == "head" else None}


def _place(cell: Cell, subject: Subject) -> str:
    name = f"given-fine-tuning-{subject.digest[:12]}" if isinstance(subject, Given) else slug(subject.method)
    return f"diagnosis/{cell.name}-{name}.json"


def _has_run_kernels(subject: Subject) -> bool:
    """True where what trained are the parameters whose kernels a run computes: no LoRA, no frozen layers."""
    return isinstance(subject, Given) or not subject.subset.suffix()


def _write(context: Context, task: PreparedTask, cell: Cell, subject: Subject, found: Diagnosis) -> None:
    belongs = {"content": context.content_key(task, cell), "about": _about(context, task, cell, subject)}  # by which readers know its cell
    belongs |= {"setup": diagnosis_setup(context, task, cell.mode, subject)}
    plain = found.as_dict(diagnosis_key(context, task, cell, subject)) | belongs
    context.store.write_json(_place(cell, subject), plain)
    context.progress.note(f"{cell.name}, {subject.method}: {plain['verdict']}")
    if isinstance(subject, Arm):
        remove_work(context, COURSE, _place(cell, subject))


def _diagnose(context: Context, task: PreparedTask, cell: Cell, subject: Subject, kernels: Kernels | None) -> Diagnosis:
    unit = Unit(context, task, [cell])
    how: dict[str, Any] = {
        "method": subject.method,
        "formula": _formula(context, task, cell, subject),
        "at_start": CellModel(unit.model, unit.texts[cell.name], unit.labels[cell.name]),
        "difference": context.folds(task),
        "features": context.experiment.features,
        "reduce": context.experiment.label_words_reduce,
        "kernels": None if kernels is None else {**kernels, **_signed(context, task, cell)},
        "settings": context.settings,
    }
    if isinstance(subject, Given):
        weights = load_finetuned(subject.path, context.pretrained, unit.model)
        return diagnose_cell(context.pretrained, task, cell, weights, parameters=context.chosen, **how)
    return _diagnose_arm(unit, cell, subject, how)


def _signed(context: Context, task: PreparedTask, cell: Cell) -> Kernels:
    """Returns the kept kernels of SignGD and Adam: they are emulated by them, and held against their solution."""
    key = context.key(task, cell)
    found = {(side, "asigngd"): context.store.kernel(cell, side, "asigngd", key) for side in SIDES}
    return {place: kernel for place, kernel in found.items() if kernel is not None}


def _diagnose_arm(unit: Unit, cell: Cell, arm: Arm, how: Mapping[str, Any]) -> Diagnosis:
    """Trains the arm's chosen setting once more, to see where it goes, and diagnoses it."""
    this, task = unit.context, unit.task
    record = kept_record(this, task, cell, arm)
    assert record is not None  # arms are trained before
    with arm.subset.chosen(unit.model) as trained:
        if record["chosen"] is None:
            why = "; ".join(record["notes"]) or "all trainings diverged"
            return diagnose_cell(this.pretrained, task, cell, None, trainable=trained.parameters, diverged=why, **how)
        chosen = record["runs"][record["chosen"]]
        settings = replace(arm.settings, learning_rate=chosen["learning_rate"], batch_size=chosen["batch_size"])
        texts, labels = unit.texts[cell.name], unit.labels[cell.name]
        train, dev = (Labelled(texts[side], labels[side]) for side in ("train", "dev"))
        this.progress.work(f"{cell.name}: {arm.method}, the way it went", settings.steps)
        course = course_of(
            unit.model, trained.parameters, train, dev, settings, chosen["best_step"], this.pretrained.pad_id, task.metric,
            claimed_work(this, COURSE, diagnosis_key(this, task, cell, arm), _place(cell, arm)), this.progress.advance,
        )  # fmt: skip
        if (course.best_step, course.dev) != (chosen["best_step"], chosen["dev"]):
            this.progress.note(f"{cell.name}, {arm.method}: trained once more it took another way; on this device training is not exact")
        weights: Mapping[str, Any] | None = course.best
        kept = None if record["checkpoint"] is None or arm.subset.lora_rank is not None else this.store.folder / record["checkpoint"]
        if kept is not None and kept.is_file():  # else the course's own, which are the same: somebody may have made room
            weights = load_weights(kept)[0]
        training = training_of(settings, len(train), chosen["best_step"])
        this.progress.work(f"{cell.name}: {arm.method}, diagnosed", None)
        return diagnose_cell(
            this.pretrained, task, cell, weights, trainable=trained.parameters, training=training, trajectory=course.along(), **how
        )


def training_of(settings: TrainingSettings, texts: int, best_step: int | None) -> Training:
    """Returns how a training went, for its emulation: the rates, the clipping, and which texts each step saw."""
    order = batch_order(texts, settings.batch_size, settings.steps, settings.seed)
    return Training(
        settings.optimizer, settings.learning_rate, settings.steps, settings.loss, settings.batch_size,  # type: ignore[arg-type]
        settings.schedule, settings.max_grad_norm or None, order, best_step,  # type: ignore[arg-type]
    )  # fmt: skip
