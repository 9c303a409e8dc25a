"""Fine-tuning as an arm of an experiment: its trainings, kept and found again by content, and their rows beside the kernels'."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lmntk.engine.settings import SCRATCH
from lmntk.engine.work import KEY, Owner, claim, sweep
from lmntk.errors import UserError
from lmntk.experiment.configuration import Experiment
from lmntk.experiment.preparation import PreparedTask
from lmntk.experiment.session import SIDES, Session
from lmntk.experiment.steps.shared_model import SharedModel
from lmntk.finetuning import optimizers
from lmntk.finetuning.files import MODEL, WEIGHTS, export, save_weights, slug
from lmntk.finetuning.grid import Search, search
from lmntk.finetuning.settings import Labelled, TrainingSettings
from lmntk.finetuning.subsets import Subset
from lmntk.finetuning.training import need_accelerate
from lmntk.models.filters import ParameterFilter, has_adapter
from lmntk.models.logit_model import LogitModel
from lmntk.runs.store import Split
from lmntk.solvers.selection import predict_labels
from lmntk.system.hashing import content_key, versions
from lmntk.tasks.metrics import score

FORMAT = "lmntk finetuning 1"
SOLVER = "fine-tuning"
TRAINING = "finetuning-"  # begins the names of scratch folders


@dataclass(frozen=True)
class FineTuningMethod:
    """One way of fine-tuning, of every split."""

    settings: TrainingSettings
    learning_rates: tuple[float, ...]
    batch_sizes: tuple[int, ...]
    subset: Subset
    linearized: bool

    @property
    def method(self) -> str:
        """Its name in tables."""
        return f"{self.settings.optimizer} fine-tuning{self.subset.suffix()}{' (linearized)' if self.linearized else ''}"

    def as_dict(self) -> dict[str, Any]:
        """Returns all that its numbers depend on, beside the split."""
        settings = {
            name: value
            for name, value in asdict(self.settings).items()
            if name not in ("learning_rate", "batch_size")
        }
        return settings | {
            "learning_rates": self.learning_rates,
            "batch_sizes": self.batch_sizes,
            "parameters": self.subset.as_dict(),
            "lora_seed": self.subset.seed if self.subset.lora_rank is not None else None,
            "linearized": self.linearized,
        }


def arms_of(experiment: Experiment, chosen: ParameterFilter, seed: int) -> list[FineTuningMethod]:
    """Returns the arms of an experiment for a split of this seed: each optimizer's, and with ``linearized`` the linearized model's."""
    how = experiment.finetuning
    seed = seed if how.seed is None else how.seed
    subset = Subset(chosen, how.freeze_layers, how.lora_rank, how.lora_alpha, seed)
    arms = []
    for optimizer in experiment.finetune:
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
        rates = how.rates_of(optimizer) or optimizers.LEARNING_RATES[optimizer]
        arms += [
            FineTuningMethod(settings, rates, how.batch_sizes, subset, linearized)
            for linearized in ((False, True) if how.linearized else (False,))
        ]
    return arms


def check_arms(session: Session, model: LogitModel) -> None:
    """Tries on a model what can be wrong with the arms before anything is trained.

    Raises:
        UserError: nothing to train, layers that are not there, LoRA on an adapter, a folder that cannot be exported.
    """
    how = session.experiment.finetuning
    for arm in arms_of(session.experiment, session.chosen, 0)[:1]:
        need_accelerate()
        with arm.subset.chosen(model):
            pass
    if session.experiment.finetune and how.export and has_adapter(model):
        raise UserError(
            "save: an adapter cannot be exported as a model's folder; keep its weights with `lmntk run --finetune ... --save-weights`"
        )


def is_trained(session: Session, task: PreparedTask, split: Split, result: Mapping[str, Any]) -> bool:
    """True when a split's results have a row of every arm, and all that is kept of it is there."""
    arms = arms_of(session.experiment, session.chosen, split.seed)
    return all(
        result.get("arms", {}).get(arm.method) == key_of(session, task, split, arm)
        and kept_record(session, task, split, arm) is not None
        for arm in arms
    )


def train_arms(
    session: Session, task: PreparedTask, split: Split, result: Mapping[str, Any]
) -> dict[str, Any]:
    """Trains the arms that are not kept, and returns the split's results with a row of each, as it then stands on disk.

    Rows of other arms that an earlier run trained on the same split stay.
    """
    arms = arms_of(session.experiment, session.chosen, split.seed)
    unit: SharedModel | None = None
    for arm in arms:
        if kept_record(session, task, split, arm) is None:
            unit = unit or SharedModel(session, task, [split])
            _train(unit, split, arm)
    return with_rows(session, task, split, result)


def key_of(session: Session, task: PreparedTask, split: Split, arm: FineTuningMethod) -> str:
    """Returns the hash of all that an arm's results on a split depend on."""
    return content_key(
        format=FORMAT, cell=session.content_key(task, split), metric=task.metric, **arm.as_dict()
    )


def setup_of(session: Session, task: PreparedTask, mode: str, arm: FineTuningMethod) -> str:
    """Returns the hash of what trainings of an arm must share to be splits of one method."""
    how = {name: value for name, value in arm.as_dict().items() if name not in ("seed", "lora_seed")}
    return session.setup(task, mode, "training", **{f"arm_{name}": value for name, value in how.items()})


def kept_record(
    session: Session, task: PreparedTask, split: Split, arm: FineTuningMethod
) -> dict[str, Any] | None:
    """Returns what is kept of an arm that was trained on a split before, if all that is wanted of it is there."""
    how, place = session.experiment.finetuning, _place(split, arm)
    found = session.store.read_json(f"{place}.json")
    if not isinstance(found, dict) or found.get("key") != key_of(session, task, split, arm):
        return None
    wanted = [WEIGHTS] * how.save_weights + [f"{MODEL}/config.json"] * (how.export and not arm.linearized)
    if found["chosen"] is not None and not all(
        (session.store.folder / place / name).is_file() for name in wanted
    ):
        return None
    return found


def _place(split: Split, arm: FineTuningMethod) -> str:
    return f"finetuning/{split.name}-{slug(arm.method)}"


def _train(unit: SharedModel, split: Split, arm: FineTuningMethod) -> None:
    """Trains an arm's grid on a split and writes what it came to; the weights first, the word of it last."""
    session, task, how = unit.session, unit.task, unit.session.experiment.finetuning
    texts, labels = unit.texts[split.name], unit.labels[split.name]
    train, dev, test = (Labelled(texts[side], labels[side]) for side in SIDES)
    key = key_of(session, task, split, arm)
    folder = claimed_work(session, TRAINING, key, place := _place(split, arm))
    sizes = len({min(size, len(train)) for size in arm.batch_sizes})
    session.progress.work(f"{split.name}: {arm.method}", len(arm.learning_rates) * sizes * arm.settings.steps)
    found = search(
        unit.model, train, dev, test, arm.subset, arm.settings, arm.learning_rates, arm.batch_sizes, session.pretrained.pad_id,
        metric=task.metric, linearized=arm.linearized, folder=folder, checkpoint_seconds=how.checkpoint_seconds,
        on_step=session.progress.advance,
    )  # fmt: skip
    (session.store.folder / f"{place}.json").unlink(
        missing_ok=True
    )  # cut short from here on, it would vouch for weights that are not its own
    shutil.rmtree(session.store.folder / place, ignore_errors=True)  # an earlier arm's of this name
    checkpoint = None
    if found.chosen is not None and (how.save_weights or how.export):
        facts = {
            "key": key,
            "cell": split.name,
            "method": arm.method,
            "linearized": arm.linearized,
            "model": session.pretrained.fingerprint,
        }
        checkpoint = f"{place}/{WEIGHTS}"
        save_weights(session.store.folder / checkpoint, found.weights, facts)
        if how.export and not arm.linearized:
            export(session.store.folder / place / MODEL, unit.model, session.pretrained, found.weights)
    predictions = predict_labels(found.logits["test"]).tolist() if "test" in found.logits else []
    notes = _notes(found, arm, train, dev, task)
    if any(run["status"] == "diverged" for run in found.runs):
        session.progress.note(f"{split.name}, {arm.method}: {notes[0]}")
    session.store.write_json(
        f"{place}.json",
        {
            "format": FORMAT,
            "key": key,
            "content": session.content_key(task, split),
            "setup": setup_of(session, task, split.mode, arm),
            "cell": split.name,
            "task": task.name,
            "k": split.k,
            "seed": split.seed,
            "mode": split.mode,
            "metric": task.metric,
            "method": arm.method,
            "optimizer": arm.settings.optimizer,
            "loss": arm.settings.loss,
            "linearized": arm.linearized,
            "settings": arm.as_dict(),
            "parameters": arm.subset.as_dict(),
            "trained": found.trained,
            "runs": list(found.runs),
            "chosen": found.chosen,
            "dev": found.dev,
            "test": score(task.metric, labels["test"], predictions) if predictions else None,
            "predictions": predictions,
            "checkpoint": checkpoint,
            "notes": notes,
            "versions": versions(),
        },
    )
    remove_work(session, TRAINING, place)


def claimed_work(session: Session, kind: str, key: str, place: str) -> Path:
    """Returns the scratch folder of a training with this key, made, which says what it is for: a place in the output folder."""
    folder = _scratch(session) / f"{kind}{key[:KEY]}"
    claim(folder, Owner(session.store.folder, (place,)))
    return folder


def remove_work(session: Session, kind: str, place: str) -> None:
    """Removes what trainings for a place needed while they ran, those that were begun under other settings too."""
    sweep([session.store.folder / SCRATCH, _scratch(session)], Owner(session.store.folder, (place,)), kind)


def _scratch(session: Session) -> Path:
    return session.settings.scratch or session.store.folder / SCRATCH


def _notes(
    found: Search, arm: FineTuningMethod, train: Labelled, dev: Labelled, task: PreparedTask
) -> list[str]:
    notes = []
    diverged = [run for run in found.runs if run["status"] == "diverged"]
    if diverged:
        rates = ", ".join(f"{rate:g}" for rate in dict.fromkeys(run["learning_rate"] for run in diverged))
        notes.append(
            f"{len(diverged)} of {len(found.runs)} trainings diverged (learning rates {rates}) and were left out"
        )
    if max(arm.batch_sizes) > len(train):
        notes.append(f"batch sizes were cut to the {len(train)} train texts")
    missing = sorted(set(range(task.classes)) - set(train.labels))
    if missing:
        notes.append(f"no train text has the label {', '.join(task.labels[label] for label in missing)}")
    if len(set(dev.labels)) == 1:
        notes.append("dev has texts of one class only, so that the choice on it says little")
    return notes


def with_rows(
    session: Session, task: PreparedTask, split: Split, result: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes and returns a split's results with the rows of all arms that were trained on it, and their predictions.

    The experiment's own arms come first, then those of earlier runs.
    """
    store = session.store
    same = {"cell": split.name, "content": session.content_key(task, split), "metric": task.metric}
    own = [f"{_place(split, arm)}.json" for arm in arms_of(session.experiment, session.chosen, split.seed)]
    others = sorted(
        f"finetuning/{path.name}" for path in store.folder.glob(f"finetuning/{split.name}-*.json")
    )
    found = [store.read_json(name) for name in dict.fromkeys([*own, *others])]
    records = [
        one
        for one in found
        if isinstance(one, dict) and all(one.get(name) == value for name, value in same.items())
    ]
    if not records and not result.get("arms"):
        return dict(result)
    kernels = [row for row in result["rows"] if row["solver"] != SOLVER]
    head = {
        name: kernels[0][name]
        for name in ("task", "k", "seed", "mode", "train_texts", "dev_texts", "test_texts")
    }
    updated = {
        **result,
        "rows": [*kernels, *(head | _row(record) for record in records)],
        "arms": {record["method"]: record["key"] for record in records},
    }
    if updated != result:
        _write_predictions(session, split, [row["method"] for row in kernels], records)
        store.write_json(f"cells/{split.name}.json", updated)
    return updated


def _row(record: Mapping[str, Any]) -> dict[str, Any]:
    chosen = {} if record["chosen"] is None else record["runs"][record["chosen"]]
    setting = (
        {}
        if not chosen
        else {
            "learning_rate": chosen["learning_rate"],
            "batch_size": chosen["batch_size"],
            "step": chosen["best_step"],
        }
    )
    return {
        "method": record["method"], "formula": "", "solver": SOLVER, "metric": record["metric"], "dev": record["dev"],
        "test": record["test"], "setting": setting, "notes": record["notes"], "setup": record.get("setup"),
    }  # fmt: skip


def _write_predictions(
    session: Session, split: Split, methods: Sequence[str], records: Sequence[Mapping[str, Any]]
) -> None:
    """Writes the predictions' table anew: what stood in it of the kernels, then a column an arm that did not diverge."""
    name = f"predictions/{split.name}.tsv"
    lines = [
        line.split("\t") for line in (session.store.folder / name).read_text(encoding="utf8").splitlines()
    ]
    kept = [place for place, title in enumerate(lines[0]) if place < 2 or title in methods]
    columns = [
        [record["method"], *map(str, record["predictions"])] for record in records if record["predictions"]
    ]
    table = [
        [line[place] for place in kept] + [column[row] for column in columns]
        for row, line in enumerate(lines)
    ]
    session.store.write_text(name, "\n".join("\t".join(line) for line in table) + "\n")


def pending(
    session: Session, planned: Sequence[tuple[PreparedTask, Split]], results: Mapping[str, dict[str, Any]]
) -> Iterator[tuple[PreparedTask, Split]]:
    """Yields the splits that have a row of every arm still to come."""
    for task, split in planned:
        if split.name not in results or not is_trained(session, task, split, results[split.name]):
            yield task, split
