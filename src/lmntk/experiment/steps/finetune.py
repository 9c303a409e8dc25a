"""The step that fine-tunes: every method's grid of trainings on every split, kept and found again by content."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from lmntk.errors import UserError
from lmntk.experiment.configuration import Experiment
from lmntk.experiment.preparation import PreparedTask
from lmntk.experiment.session import Session
from lmntk.experiment.shared_model import SharedModel
from lmntk.experiment.steps.base import Job
from lmntk.experiment.steps.scratch import claimed_folder, remove_folders
from lmntk.finetuning import optimizers
from lmntk.finetuning.files import MODEL, WEIGHTS, export, is_export, save_weights, slug
from lmntk.finetuning.grid import Search, cut_batch_sizes, search
from lmntk.finetuning.method import FineTuningMethod
from lmntk.finetuning.replay import POINTS
from lmntk.finetuning.settings import Labelled, TrainingData, TrainingSettings
from lmntk.finetuning.subsets import Subset
from lmntk.finetuning.training import need_accelerate
from lmntk.models.filters import ParameterFilter, has_adapter
from lmntk.models.logit_model import LogitModel
from lmntk.runs.keys import SplitKeys
from lmntk.runs.records import DiagnosisRecord, FineTuningRecord
from lmntk.runs.split import SIDES, Split
from lmntk.solvers.selection import predict_labels
from lmntk.system.hashing import Key, short, versions
from lmntk.system.kept import is_whole
from lmntk.tasks.metrics import score

FORMAT = "lmntk finetuning 2"
SCRATCH_KIND, PATH_KIND = "finetuning-", "diagnosis-"  # begin the names of scratch folders


class FineTune:
    """Fine-tune every split by every method that is asked for."""

    def of(self, shared: SharedModel) -> list[Job]:
        """Return one job a split and method."""
        session = shared.session
        return [
            Job(split, method)
            for split in shared.splits
            for method in methods_of_split(session.experiment, session.chosen, split.seed)
        ]

    def kept(self, shared: SharedModel, job: Job) -> FineTuningRecord | None:
        """Return the record of a grid that was trained before, if all that is wanted of it is there."""
        method = _method_of(job)
        session, how = shared.session, shared.session.experiment.finetuning
        key = training_key(session.keys(shared.task, job.split), method)
        record = session.store.record(FineTuningRecord, stem_of(job), key)
        if record is None:
            return None
        folder = session.store.folder / folder_of(job, key.digest)
        if record.chosen is None:
            return record
        if how.save_weights and not is_whole(folder / WEIGHTS):
            return None
        if how.export and not method.linearized and not is_export(folder / MODEL):
            return None
        return record

    def do(self, shared: SharedModel, jobs: Sequence[Job]) -> Iterator[Job]:
        """Train the grids."""
        for job in jobs:
            _train(shared, job)
            yield job

    def end(self, shared: SharedModel, was_done: bool) -> None:
        """Remove the weights along trainings that nobody will diagnose; else each training has removed its own scratch files."""
        if not shared.session.experiment.diagnose:
            sweep_paths(shared, self.of(shared))


def methods_of_split(experiment: Experiment, chosen: ParameterFilter, seed: int) -> list[FineTuningMethod]:
    """Return the methods of an experiment for a split of this seed: each optimizer's, and the linearized model's."""
    how = experiment.finetuning
    seed = seed if how.seed is None else how.seed
    methods = []
    for optimizer, arm in itertools.product(experiment.finetune, how.choices):
        settings = TrainingSettings(
            optimizer=optimizer,
            steps=how.steps,
            eval_every=how.eval_every,
            loss=how.loss,
            schedule=how.schedule,
            max_grad_norm=how.max_grad_norm,
            dropout=how.dropout,
            seed=seed,
        )
        subset = Subset(
            chosen,
            arm.freeze_layers,
            arm.lora_rank,
            arm.lora_alpha,
            seed,
            arm.train_only,
            arm.lora_targets,
            arm.intrinsic_dimension,
        )
        grid = how.rates_of(optimizer) or optimizers.LEARNING_RATES[optimizer]
        rates = tuple(
            float(f"{arm.rate_factor * rate:.12g}") for rate in grid
        )  # 0.005, not 0.005000000000000001
        methods += [
            FineTuningMethod(settings, rates, how.batch_sizes, subset, linearized)
            for linearized in ((False, True) if how.linearized else (False,))
        ]
    return methods


def check_finetuning(session: Session, model: LogitModel) -> None:
    """Try on a model what can be wrong with the methods before anything is trained.

    Raises:
        UserError: nothing to train, layers that are not there, LoRA on an adapter, a folder that cannot be exported.
    """
    experiment = session.experiment
    for method in methods_of_split(experiment, session.chosen, 0):
        need_accelerate()
        with method.subset.chosen(model):
            pass
    if experiment.finetune and experiment.finetuning.export and has_adapter(model):
        raise UserError(
            "save: an adapter cannot be exported as a model's folder; keep its weights with `lmntk run --finetune ... --save-weights`"
        )


def training_key(keys: SplitKeys, method: FineTuningMethod) -> Key:
    """Return all that a method's results on a split depend on."""
    return Key(format=FORMAT, content=keys.content.digest, metric=keys.metric, **method.as_dict())


def training_setup(keys: SplitKeys, method: FineTuningMethod) -> str:
    """Return the hash of what trainings of a method must share to stand in one mean."""
    return keys.setup("training", **{f"arm_{name}": value for name, value in method.but_seeds().items()})


def stem_of(job: Job) -> str:
    """Return the beginning of the names of a grid's files."""
    return f"{job.split.name}-{slug(_method_of(job).method)}"


def folder_of(job: Job, digest: str) -> str:
    """Return the folder of a grid's weights, in the output folder."""
    return f"{FineTuningRecord.FOLDER}/{stem_of(job)}-{short(digest)}"


def path_folder(shared: SharedModel, job: Job) -> Path:
    """Return the scratch folder of the weights along a training, which the diagnosis reads and removes."""
    key = training_key(shared.session.keys(shared.task, job.split), _method_of(job)).also(points=POINTS)
    return claimed_folder(shared.session, PATH_KIND, key, path_owner(job))


def path_owner(job: Job) -> str:
    """Return whose that folder is: of the diagnosis of this training, under whatever settings."""
    return f"{DiagnosisRecord.FOLDER}/{stem_of(job)}.json"


def sweep_paths(shared: SharedModel, jobs: Iterable[Job]) -> None:
    """Remove the weights along these trainings."""
    for job in jobs:
        if isinstance(job.subject, FineTuningMethod):
            remove_folders(shared.session, PATH_KIND, path_owner(job))


def _method_of(job: Job) -> FineTuningMethod:
    assert isinstance(job.subject, FineTuningMethod)
    return job.subject


def _train(shared: SharedModel, job: Job) -> None:
    """Train a method's grid on a split and write what it came to; the weights first, the record last."""
    session, task, split, method = shared.session, shared.task, job.split, _method_of(job)
    how, keys = session.experiment.finetuning, session.keys(shared.task, job.split)
    key = training_key(keys, method)
    folder, owner = folder_of(job, key.digest), f"{FineTuningRecord.FOLDER}/{stem_of(job)}"
    texts, labels = shared.texts(split), shared.labels(split)
    train, dev, test = (Labelled(texts[side], labels[side]) for side in SIDES)
    scratch = claimed_folder(session, SCRATCH_KIND, key, owner)
    sizes = cut_batch_sizes(method.batch_sizes, len(train))
    steps = len(method.learning_rates) * len(sizes) * method.settings.steps
    session.progress.work(f"{split.name}: {method.method}", steps)
    data = TrainingData(train, dev, session.pretrained.pad_id, task.metric, test)
    found = search(
        shared.model,
        data,
        method,
        folder=scratch,
        checkpoint_seconds=how.checkpoint_seconds,
        on_step=session.progress.advance,
        path=path_folder(shared, job) if session.experiment.diagnose and not method.linearized else None,
    )
    (session.store.folder / f"{folder}.json").unlink(
        missing_ok=True
    )  # it would vouch for half-written weights
    shutil.rmtree(session.store.folder / folder, ignore_errors=True)
    checkpoint = None
    if found.chosen is not None and (how.save_weights or how.export):
        facts = {
            "key": key.digest,
            "split": split.name,
            "method": method.method,
            "linearized": method.linearized,
            "model": session.pretrained.fingerprint,
        }
        checkpoint = f"{folder}/{WEIGHTS}"
        save_weights(session.store.folder / checkpoint, found.weights, facts)
        if how.export and not method.linearized:
            export(session.store.folder / folder / MODEL, shared.model, session.pretrained, found.weights)
    predictions = predict_labels(found.logits["test"]).tolist() if "test" in found.logits else []
    notes = _notes(found, method, train, dev, task)
    if any(run["status"] == "diverged" for run in found.runs):
        session.progress.note(f"{split.name}, {method.method}: {notes[0]}")
    record = FineTuningRecord(
        key=key.digest,
        content=keys.content.digest,
        setup=training_setup(keys, method),
        name=split.name,
        task=task.name,
        k=split.k,
        seed=split.seed,
        mode=split.mode,
        metric=task.metric,
        method=method.method,
        optimizer=method.settings.optimizer,
        loss=method.settings.loss,
        linearized=method.linearized,
        settings=method.as_dict(),
        parameters=method.subset.as_dict(),
        trained=found.trained,
        runs=list(found.runs),
        chosen=found.chosen,
        dev=found.dev,
        test=score(task.metric, labels["test"], predictions) if predictions else None,
        predictions=predictions,
        checkpoint=checkpoint,
        notes=notes,
        versions=versions(),
    )
    session.store.write_record(record, stem_of(job))
    remove_folders(session, SCRATCH_KIND, owner)


def _notes(
    found: Search, method: FineTuningMethod, train: Labelled, dev: Labelled, task: PreparedTask
) -> list[str]:
    notes = []
    diverged = [run for run in found.runs if run["status"] == "diverged"]
    if diverged:
        rates = ", ".join(f"{rate:g}" for rate in dict.fromkeys(run["learning_rate"] for run in diverged))
        notes.append(
            f"{len(diverged)} of {len(found.runs)} trainings diverged (learning rates {rates}) and were left out"
        )
    if any(size != "all" and size > len(train) for size in method.batch_sizes):
        notes.append(f"batch sizes were cut to the {len(train)} train texts")
    missing = sorted(set(range(task.classes)) - set(train.labels))
    if missing:
        notes.append(f"no train text has the label {', '.join(task.labels[label] for label in missing)}")
    if len(set(dev.labels)) == 1:
        notes.append("dev has texts of one class only, so the choice on it says little")
    return notes


def finetunings_of(session: Session, task: PreparedTask, split: Split) -> list[FineTuningRecord]:
    """Return the trainings of a split's content in the folder, one a method: the experiment's own first.

    Of a method that the experiment does not ask for, the one that was written last is taken.
    """
    keys = session.keys(task, split)
    methods = methods_of_split(session.experiment, session.chosen, split.seed)
    own = [training_key(keys, method).digest for method in methods]
    expected = (split.name, keys.content.digest, task.metric)
    found = [
        (name, record)
        for name, record in session.store.records(FineTuningRecord, f"{split.name}-*").items()
        if record is not None and (record.name, record.content, record.metric) == expected
    ]

    def rank(item: tuple[str, FineTuningRecord]) -> tuple[int, float]:
        name, record = item
        order = own.index(record.key) if record.key in own else len(own)
        return order, -session.store.written_at(name)

    by_method: dict[str, FineTuningRecord] = {}
    for _, record in sorted(found, key=rank):
        # earlier versions gave the same training another name
        if all(record.key != other.key for other in by_method.values()):
            by_method.setdefault(record.method, record)
    return list(by_method.values())
