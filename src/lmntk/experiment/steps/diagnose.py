"""The step that diagnoses: whether each fine-tuning of each split is in the kernel regime."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from lmntk.diagnosis.checkpoint import load_finetuned
from lmntk.diagnosis.diagnosis import diagnose
from lmntk.diagnosis.examples import Examples
from lmntk.diagnosis.record import FORMAT, Diagnosis
from lmntk.diagnosis.subject import FineTuning, KernelSolution, LabelledExamples
from lmntk.diagnosis.verdict import TESTS
from lmntk.errors import UserError
from lmntk.experiment.reading import check_checkpoint
from lmntk.experiment.session import GivenCheckpoint, Session
from lmntk.experiment.shared_model import SharedModel, shared_model_of
from lmntk.experiment.steps.base import Job, Subject
from lmntk.experiment.steps.finetune import (
    PATH_KIND,
    FineTune,
    folder_of,
    methods_of_split,
    path_folder,
    path_owner,
    sweep_paths,
    training_key,
    training_setup,
)
from lmntk.experiment.steps.kernels import Kernels, forget_kernels, kernels_of
from lmntk.experiment.steps.scratch import remove_folders
from lmntk.finetuning.files import WEIGHTS, load_weights, slug
from lmntk.finetuning.logits import logits_of
from lmntk.finetuning.method import FineTuningMethod
from lmntk.finetuning.replay import POINTS, replay
from lmntk.finetuning.settings import Labelled, TrainingData, TrainingSettings, batch_order
from lmntk.finetuning.trained import Trained
from lmntk.runs.keys import SplitKeys
from lmntk.runs.records import DiagnosisRecord, FineTuningRecord
from lmntk.runs.split import SIDES
from lmntk.solvers.emulated_training import Training
from lmntk.solvers.grid import SOLVER_VERSION
from lmntk.solvers.inputs import Array
from lmntk.system.hashing import Key
from lmntk.system.kept import is_whole


class Diagnose:
    """Diagnose every fine-tuning of every split, and the checkpoint that the user gave."""

    def of(self, shared: SharedModel) -> list[Job]:
        """Return one job a split and fine-tuning; the linearized model's trainings are not diagnosed."""
        session = shared.session
        if not session.experiment.diagnose:
            return []
        jobs = []
        for split in shared.splits:
            methods = methods_of_split(session.experiment, session.chosen, split.seed)
            jobs += [Job(split, method) for method in methods if not method.linearized]
            jobs += [] if session.given is None else [Job(split, session.given)]
        return jobs

    def kept(self, shared: SharedModel, job: Job) -> DiagnosisRecord | None:
        """Return a diagnosis that is there with the right key."""
        return shared.session.store.record(DiagnosisRecord, stem_of(job), diagnosis_key(shared, job))

    def do(self, shared: SharedModel, jobs: Sequence[Job]) -> Iterator[Job]:
        """Diagnose fine-tunings that are trained."""
        own = list(dict.fromkeys(job.split for job in jobs if _has_run_kernels(_subject_of(job))))
        kernels = kernels_of(_asking_for_sgd(shared), own) if own else {}
        for job in jobs:
            known = kernels[job.split.name][0] if _has_run_kernels(_subject_of(job)) else None
            _write(shared, job, _diagnose(shared, job, known))
            yield job

    def end(self, shared: SharedModel, was_done: bool) -> None:
        """Remove the scratch files of the kernels, and the weights along trainings."""
        # of trainings that were done again while their diagnoses were there
        sweep_paths(shared, self.of(shared))
        if was_done and any(_has_run_kernels(_subject_of(job)) for job in self.of(shared)):
            forget_kernels(_asking_for_sgd(shared))


def given_checkpoint(path: Path) -> GivenCheckpoint:
    """Return a checkpoint's path with the hash of what is in it.

    Raises:
        UserError: there is nothing.
    """
    check_checkpoint(path)
    path = path.expanduser()
    digest = hashlib.sha256()
    for file in sorted(each for each in path.iterdir() if each.is_file()) if path.is_dir() else [path]:
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return GivenCheckpoint(path, digest.hexdigest())


def check_given(session: Session) -> None:
    """Read the user's checkpoint once for each mode of each task, before anything is computed.

    Raises:
        UserError: it is not of the model's architecture; see ``load_finetuned``.
    """
    if session.given is None:
        return
    for task in session.tasks:
        for mode in session.experiment.modes:
            split = next(split for split in task.splits if split.mode == mode)
            model = shared_model_of(session, task, split, mode).model
            load_finetuned(session.given.path, session.pretrained, model)


def stem_of(job: Job) -> str:
    """Return the beginning of the name of a diagnosis's file."""
    subject = _subject_of(job)
    if isinstance(subject, GivenCheckpoint):
        return f"{job.split.name}-given-fine-tuning-{subject.digest[:12]}"
    return f"{job.split.name}-{slug(subject.method)}"


def diagnosis_key(shared: SharedModel, job: Job) -> Key:
    """Return all that a diagnosis depends on."""
    keys = shared.session.keys(shared.task, job.split)
    return Key(
        format=FORMAT,
        kernels=keys.kernels.digest,
        metric=keys.metric,
        about=_about(keys, _subject_of(job)),
        points=POINTS,
        other=_reads_in_other_mode(shared, job),
        formula=_formula(shared, job),
        solver=SOLVER_VERSION,
    )


def diagnosis_setup(keys: SplitKeys, subject: Subject) -> str:
    """Return the hash of what diagnoses must share to be splits of one verdict."""
    if isinstance(subject, GivenCheckpoint):
        return keys.setup("kernel", about=subject.digest)
    return keys.setup("kernel", about=training_setup(keys, subject))


def training_of(settings: TrainingSettings, texts: int, best_step: int | None) -> Training:
    """Return how a training went, for its emulation: the rates, the clipping, and which texts each step saw."""
    order = batch_order(texts, settings.batch_size, settings.steps, settings.seed)
    return Training(
        settings.optimizer, settings.learning_rate, settings.steps, settings.loss, settings.batch_size,  # type: ignore[arg-type]
        settings.schedule, settings.max_grad_norm or None, order, best_step,  # type: ignore[arg-type]
    )  # fmt: skip


def _subject_of(job: Job) -> Subject:
    assert job.subject is not None
    return job.subject


def _asking_for_sgd(shared: SharedModel) -> SharedModel:
    return replace(shared, session=shared.session.asking_for(("sgd",)))


def _has_run_kernels(subject: Subject) -> bool:
    """Return whether what trained are the parameters whose kernels a run computes: no LoRA, target or frozen layers."""
    return isinstance(subject, GivenCheckpoint) or subject.subset.is_filter


def _formula(shared: SharedModel, job: Job) -> str:
    """Return whose kernel is held against a training.

    Of Adam and SignGD it is A-SignGD's where that was kept on all sides, else SGD's.
    """
    subject, store = _subject_of(job), shared.session.store
    if isinstance(subject, GivenCheckpoint) or subject.settings.optimizer == "sgd":
        return "sgd"
    key = shared.session.keys(shared.task, job.split).kernels
    is_kept = all(store.has_kernel(job.split, side, "asigngd", key) for side in SIDES)
    return "asigngd" if is_kept and _has_run_kernels(subject) else "sgd"


def _about(keys: SplitKeys, subject: Subject) -> str:
    """Return the digest of the training that is diagnosed, or of the checkpoint that was given."""
    if isinstance(subject, GivenCheckpoint):
        return subject.digest
    return training_key(keys, subject).digest


def _other_mode(job: Job) -> str:
    return "head" if job.split.mode == "prompt" else "prompt"


def _reads_in_other_mode(shared: SharedModel, job: Job) -> dict[str, Any] | None:
    """Return what the split's other mode reads, for its mean |chi|; None where there is no such mode."""
    mode, session = _other_mode(job), shared.session
    try:
        reads = session.encoder(shared.task, mode).fingerprint()
    except UserError:
        return None
    return {"encoder": reads, "features": session.experiment.features if mode == "head" else None}


def _write(shared: SharedModel, job: Job, diagnosis: Diagnosis) -> None:
    session, keys = shared.session, shared.session.keys(shared.task, job.split)
    subject, key = _subject_of(job), diagnosis_key(shared, job)
    belongs = {
        "content": keys.content.digest,
        "about": _about(keys, subject),
    }  # by which readers know its split
    belongs |= {"setup": diagnosis_setup(keys, subject)}
    record = DiagnosisRecord.model_validate(diagnosis.as_dict(key.digest) | belongs)
    session.store.write_record(record, stem_of(job))
    said = f"{diagnosis.regime.phrase}; {TESTS}: {diagnosis.verdict.verdict}"
    session.progress.note(f"{job.split.name}, {subject.method}: {said}")
    if isinstance(subject, FineTuningMethod):
        remove_folders(session, PATH_KIND, path_owner(job))


def _diagnose(shared: SharedModel, job: Job, kernels: Kernels | None) -> Diagnosis:
    subject = _subject_of(job)
    if isinstance(subject, FineTuningMethod):
        return _diagnose_method(shared, job, subject, kernels)
    weights = load_finetuned(subject.path, shared.session.pretrained, shared.model)
    fine_tuning = FineTuning(weights, shared.session.chosen.select(shared.model))
    return diagnose_split(shared, job, fine_tuning, kernels)


def diagnose_split(
    shared: SharedModel,
    job: Job,
    fine_tuning: FineTuning,
    kernels: Kernels | None,
    module: nn.Module | None = None,
) -> Diagnosis:
    """Return the diagnosis of weights that a fine-tuning of a split fine_tuning.

    Mean |chi| in the other mode is that of the linear probe's logits without a prompt, of zero-shot's with one;
    where a task or a model has only one mode there is only one.

    Args:
        shared: the split's model at theta_0.
        job: the split, and what is diagnosed.
        fine_tuning: the weights that it led to, and the way there.
        kernels: the sgd kernels of theta_0 by (side, formula), if they are known.
        module: whose parameters trained, where that is not the split's model itself.
    """
    session, task, split = shared.session, shared.task, job.split
    pad_id, batch_size = session.pretrained.pad_id, session.settings.batch_size
    texts = shared.texts(split)
    examples = {side: Examples.of_texts(part, pad_id, batch_size) for side, part in texts.items()}
    identity = {"split": split.name, "task": task.name, "k": split.k, "seed": split.seed}
    known = {} if kernels is None else {**kernels, **_signed(shared, job)}
    return diagnose(
        shared.model if module is None else module,
        LabelledExamples(examples, shared.labels(split), task.metric),
        fine_tuning,
        solution=KernelSolution(known, _formula(shared, job)),
        mode=split.mode,
        other_mode=_logits_in_other_mode(shared, job),
        identity=identity | {"method": _subject_of(job).method},
        settings=session.settings,
    )


def _logits_in_other_mode(shared: SharedModel, job: Job) -> Array | None:
    """Return the test texts' logits before training in the split's other mode, if the task and the model have it."""
    session, task, split = shared.session, shared.task, job.split
    if session.pretrained.kind == "classifier":
        return None
    other = shared_model_of(session, task, split, _other_mode(job))
    try:
        model, texts = other.model, other.texts(split)["test"]
    except UserError:
        return None
    return logits_of(model, texts, session.pretrained.pad_id, session.settings.batch_size).numpy()


def _signed(shared: SharedModel, job: Job) -> Kernels:
    """Return the kept kernels of SignGD and Adam, which emulate them and whose solution is held against them."""
    store, key = shared.session.store, shared.session.keys(shared.task, job.split).kernels
    found = {(side, "asigngd"): store.kernel(job.split, side, "asigngd", key) for side in SIDES}
    return {pair: kernel for pair, kernel in found.items() if kernel is not None}


def _diagnose_method(
    shared: SharedModel, job: Job, method: FineTuningMethod, kernels: Kernels | None
) -> Diagnosis:
    """See where the method's chosen setting goes, by its weights along the way or by training once more, and diagnose it."""
    session, split = shared.session, job.split
    record = FineTune().kept(shared, job)
    assert record is not None  # the step before has trained it
    with method.subset.chosen(shared.model) as trained:
        if record.chosen is None:
            why = "; ".join(record.notes) or "all trainings diverged"
            fine_tuning = FineTuning(None, trained.parameters, diverged=why)
            return diagnose_split(shared, job, fine_tuning, kernels, trained.module)
        fine_tuning = _replayed(shared, job, method, record, trained)
        session.progress.work(f"{split.name}: {method.method}, diagnosed", None)
        return diagnose_split(shared, job, fine_tuning, kernels, trained.module)


def _replayed(
    shared: SharedModel,
    job: Job,
    method: FineTuningMethod,
    record: FineTuningRecord,
    trained: Trained,
) -> FineTuning:
    """Return where the chosen training goes, from the weights that were kept or else from the replay."""
    session, split, chosen = shared.session, job.split, record.chosen_run
    settings = replace(
        method.settings, learning_rate=chosen["learning_rate"], batch_size=chosen["batch_size"]
    )
    texts, labels = shared.texts(split), shared.labels(split)
    train, dev = (Labelled(texts[side], labels[side]) for side in ("train", "dev"))
    session.progress.work(f"{split.name}: {method.method}, its path", settings.steps)
    data = TrainingData(train, dev, session.pretrained.pad_id, shared.task.metric)
    replayed = replay(
        trained.module,
        trained.parameters,
        data,
        settings,
        chosen["best_step"],
        path_folder(shared, job),
        session.progress.advance,
    )
    if (replayed.best_step, replayed.dev) != (chosen["best_step"], chosen["dev"]):
        session.progress.note(
            f"{split.name}, {method.method}: trained once more, it went another way; on this device training is not exact"
        )
    weights: Mapping[str, Any] | None = replayed.best
    if record.checkpoint is not None and not method.subset.is_random:
        kept = session.store.folder / folder_of(job, record.key) / WEIGHTS
        if is_whole(kept):  # else the replay's own, which are the same: somebody may have made room
            weights = load_weights(kept)[0]
    training = training_of(settings, len(train), chosen["best_step"])
    return FineTuning(weights, trained.parameters, training, replayed.along())
